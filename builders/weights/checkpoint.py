"""Origins of weights, and strict matching of a checkpoint to a model's layout."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

import numpy as np

from builders.ops.shape import LayoutEntry
from builders.spec.model import Model
from builders.spec.variants import DEFAULT_VARIANT
from builders.weights.files import CheckpointContents, read_checkpoint
from builders.weights.intake import FLOATS, MAX_LISTED, Array, CheckpointError
from builders.weights.published import read_published
from builders.weights.tensorflow import array_from_tensorflow, keys_by_tensorflow_name


@dataclass(frozen=True)
class StandIn:
    """Origin of untrained stand-in weights.

    Attributes:
        seed: Seed of the random values.
        variant: Name of the model's variant.
    """

    seed: int = 0
    variant: str = DEFAULT_VARIANT

    def __str__(self) -> str:
        return f"stand-in, seed {self.seed}{_variant_text(self.variant)}: untrained"


@dataclass(frozen=True)
class Checkpoint:
    """Origin of weights that were read from a file.

    Attributes:
        file: Path of the file.
        sha256: Its SHA-256 in hexadecimal.
        variant: Name of the variant of the model that the weights are used for. The
            text has it, because each variant gives other embeddings.
    """

    file: str
    sha256: str
    variant: str = DEFAULT_VARIANT

    def __str__(self) -> str:
        name = Path(self.file).name
        return f"{name}{_variant_text(self.variant)}{SHA256_TEXT}{self.sha256}"


Origin = StandIn | Checkpoint

TRAINING_RECORD_SUFFIX = ".json"
MAX_TRAINING_RECORD_BYTES = 1 << 20

KIND_WIDTH = 12
"""Characters of the kind that a problem's line starts with."""

VARIANT_TEXT, SHA256_TEXT = ", variant ", ", sha256 "
"""What precedes variant and hash in the text of an origin."""


def _variant_text(variant: str) -> str:
    return "" if variant == DEFAULT_VARIANT else f"{VARIANT_TEXT}{variant}"


def origin_from_text(text: str, file: str | None = None) -> Origin:
    """Return the origin that a text describes.

    Args:
        text: The text form of an origin.
        file: Path of the checkpoint on this machine; None if only its name is known.
    """
    rest, _, sha256 = text.rpartition(SHA256_TEXT)
    name, _, variant = (rest or text.removesuffix(": untrained")).partition(
        VARIANT_TEXT
    )
    variant = variant or DEFAULT_VARIANT
    if sha256 and rest:
        return Checkpoint(file or name, sha256, variant)
    seed = name.rpartition(" ")[2]
    return StandIn(int(seed) if seed.isdecimal() else 0, variant)


STAND_IN_WARNING = "Stand-in weights: untrained, the figures mean nothing."


def stand_in_warning(*origins: str) -> str:
    """Return the warning that results need if weights are untrained, else "".

    Args:
        origins: Origins of weights, as text: of records, configs and servers.
    """
    is_stand_in = any("untrained" in origin for origin in origins)
    return STAND_IN_WARNING if is_stand_in else ""


@dataclass(frozen=True)
class Weights:
    """The weights of a model.

    Attributes:
        arrays: FP32 arrays by checkpoint name.
        origin: Where they come from.
    """

    arrays: Mapping[str, Array]
    origin: Origin


@dataclass(frozen=True)
class CheckpointFit:
    """The result of matching a checkpoint to a model.

    Attributes:
        arrays: FP32 arrays in the model's layout, by checkpoint name.
        dropped: Names in the file that the model declares as not needed.
        problems: One line for every key that does not fit.
    """

    arrays: Mapping[str, Array]
    dropped: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def counts(self) -> str:
        """Numbers of problems of each kind, for example "2 missing, 1 unexpected"."""
        kinds = Counter(problem[:KIND_WIDTH].strip() for problem in self.problems)
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items())

    @property
    def similarity(self) -> float:
        """Share of the keys of model and file that fit, 0 to 1."""
        every = len(self.arrays) + len(self.problems)
        return len(self.arrays) / every if every else 0.0


def load_weights(model: Model, path: Path) -> Weights:
    """Read a model's weights from a file; every key is used or dropped by name.

    Args:
        model: The model.
        path: A checkpoint file, see `read_checkpoint`, or the model's published ONNX
            file.

    Raises:
        CheckpointError: If the file cannot be read, or if keys are missing, unexpected
            or of another shape; the message lists their names and shapes.
    """
    published = model.source.weights
    if published is not None and path.suffix == ".onnx":
        contents = CheckpointContents(read_published(published, path), "ONNX")
    else:
        contents = read_checkpoint(path)
    arrays = match_checkpoint(model, contents, path.name)
    return Weights(arrays, Checkpoint(str(path), file_sha256(path), model.variant))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Args:
        path: The file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_training_record(file: Path, sha256: str) -> Mapping[str, str]:
    """Return the recipe that a checkpoint was trained by; empty if it is not known.

    Args:
        file: The checkpoint; the record is in the same folder.
        sha256: SHA-256 of the checkpoint in hexadecimal. A record of other weights does
            not count.
    """
    path = file.with_name(f"{file.name}{TRAINING_RECORD_SUFFIX}")
    try:
        if path.stat().st_size > MAX_TRAINING_RECORD_BYTES:
            return {}
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["sha256"] != sha256:
            return {}
        return {key: str(record[key]) for key in ("recipe", "recipe_sha256")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def match_checkpoint(
    model: Model, contents: CheckpointContents, file_name: str
) -> Mapping[str, Array]:
    """Return the arrays of a checkpoint in a model's layout, FP32.

    Args:
        model: The model.
        contents: The checkpoint.
        file_name: Name of the checkpoint for the error message.

    Raises:
        CheckpointError: If a key is missing, unexpected or of another shape.
    """
    fit = fit_checkpoint(model, contents)
    if fit.problems:
        listed = "\n  ".join(fit.problems[:MAX_LISTED])
        more = len(fit.problems) - MAX_LISTED
        note = f"\n{file_name}: {contents.note}" if contents.note else ""
        raise CheckpointError(
            f"{file_name} does not fit {model.name}, which has "
            f"{len(model.summary.layout)} keys; the file has {len(contents.arrays)}, "
            f"and {fit.counts}\n  {listed}"
            + (f"\n  ... and {more} more" if more > 0 else "")
            + "\nA key that inference does not need goes on the model's `dropped` list."
            + note
        )
    return fit.arrays


def fit_checkpoint(model: Model, contents: CheckpointContents) -> CheckpointFit:
    """Match a checkpoint to a model's layout, without raising an error.

    Missing counters are allowed, because checkpoints from before PyTorch 0.4.1 have
    none. Flat arrays get the layout's shape where the sizes agree.

    Args:
        model: The model.
        contents: The checkpoint.
    """
    layout = model.summary.layout
    arrays, problems = _rename_and_transpose(model, contents)
    matches: dict[str, Array] = {}
    for key, entry in layout.items():
        if entry.kind == "counter":
            continue
        array = arrays.get(key)
        if array is None:
            problems.append(f"missing     {key} {entry.shape}")
            continue
        if not contents.has_shapes and array.size == prod(entry.shape):
            array = array.reshape(entry.shape)
        if array.shape != entry.shape:
            problems.append(
                f"wrong shape {key}: expected {entry.shape}, got {array.shape}"
            )
        elif array.dtype.kind not in FLOATS:
            # integers are quantised weights without their scales, or another tensor
            problems.append(f"not floats  {key}: {array.dtype}")
        else:
            with np.errstate(over="ignore"):  # FP64 over FP32's range is reported next
                values = array.astype(np.float32, copy=False)
            if bad := np.count_nonzero(~np.isfinite(values)):
                problems.append(f"not finite  {key}: {bad} of {values.size}")
            else:
                matches[key] = values
    unused = [key for key in arrays if key not in layout]
    # a dict, because a file may have thousands of unused keys
    dropped = dict.fromkeys(
        k for k in unused if any(fnmatchcase(k, p) for p in model.dropped)
    )
    problems += [
        f"unexpected  {key} {arrays[key].shape}" for key in unused if key not in dropped
    ]
    return CheckpointFit(matches, tuple(dropped), tuple(problems))


def _rename_and_transpose(
    model: Model, contents: CheckpointContents
) -> tuple[dict[str, Array], list[str]]:
    """Return arrays under the layout's names and axes, and keys that occur twice.

    Arrays that are not in the layout stay unchanged.
    """
    layout: Mapping[str, LayoutEntry] = model.summary.layout
    known = keys_by_tensorflow_name(layout)
    arrays: dict[str, Array] = {}
    problems = []
    for name, value in contents.arrays.items():
        key, array = _resolve_alias(name, model), value
        plain = name.removesuffix(":0")
        if plain in known:
            key = known[plain]
            if contents.tensorflow_axes:
                array = array_from_tensorflow(value, layout[key].shape)
        if key in arrays:
            problems.append(f"twice       {key}: under another name and as {name}")
        arrays[key] = array
    return arrays, problems


def _resolve_alias(key: str, model: Model) -> str:
    for old, new in model.aliases.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key
