"""Where weights come from, and matching a file strictly against a model's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

import numpy as np

from builders.ops.shape import Entry
from builders.spec import Model
from builders.weights.files import (
    MAX_LISTED,
    Array,
    CheckpointError,
    Contents,
    read_checkpoint,
)
from builders.weights.tensorflow import layout_names, pytorch_order


@dataclass(frozen=True)
class StandIn:
    """Weights that were made up from `seed`."""

    seed: int = 0

    def __str__(self) -> str:
        return f"stand-in, seed {self.seed}: untrained"


@dataclass(frozen=True)
class Checkpoint:
    """Weights that came from a file, and that file's hash."""

    file: str
    sha256: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}, sha256 {self.sha256}"


Origin = StandIn | Checkpoint


@dataclass(frozen=True)
class Weights:
    """A model's weights, FP32 arrays by checkpoint name, and where they come from."""

    arrays: Mapping[str, Array]
    origin: Origin


@dataclass(frozen=True)
class Fit:
    """How a file fits a model: FP32 `arrays` in the model's layout, the file's names
    that were `dropped` as declared, and one line for every key that does not fit.
    """

    arrays: Mapping[str, Array]
    dropped: tuple[str, ...]
    problems: tuple[str, ...]


def load_weights(model: Model, path: Path) -> Weights:
    """The weights of `model` from `path`; every key is used or dropped by name.

    Raises CheckpointError listing names and shapes of what is missing, unexpected or
    of another shape.
    """
    arrays = matched(model, read_checkpoint(path), path.name)
    return Weights(arrays, Checkpoint(str(path), file_sha256(path)))


def file_sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def matched(model: Model, contents: Contents, source: str) -> Mapping[str, Array]:
    """The arrays of `contents` in the layout of `model`. Raises CheckpointError."""
    fit = fitted(model, contents)
    if fit.problems:
        listed = "\n  ".join(fit.problems[:MAX_LISTED])
        more = len(fit.problems) - MAX_LISTED
        raise CheckpointError(
            f"{source} does not fit {model.name}: {len(fit.problems)} of "
            f"{len(model.survey.layout)} keys\n  {listed}"
            + (f"\n  ... and {more} more" if more > 0 else "")
            + "\nA key that inference does not need goes on the model's `dropped` list."
        )
    return fit.arrays


def fitted(model: Model, contents: Contents) -> Fit:
    """How `contents` fits `model`.

    A counter that is missing is fine (checkpoints before PyTorch 0.4.1 have none).
    Flat arrays of files without shapes are given the layout's where sizes agree.
    """
    layout = model.survey.layout
    arrays, problems = _in_pytorch_order(model, contents)
    result: dict[str, Array] = {}
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
        elif not np.isfinite(array).all():
            bad = np.count_nonzero(~np.isfinite(array))
            problems.append(f"not finite  {key}: {bad} of {array.size}")
        else:
            result[key] = array.astype(np.float32, copy=False)
    unused = [key for key in arrays if key not in layout]
    dropped = [k for k in unused if any(fnmatchcase(k, p) for p in model.dropped)]
    problems += [
        f"unexpected  {key} {arrays[key].shape}" for key in unused if key not in dropped
    ]
    return Fit(result, tuple(dropped), tuple(problems))


def _in_pytorch_order(
    model: Model, contents: Contents
) -> tuple[dict[str, Array], list[str]]:
    """Arrays under the layout's names and in its order of axes, others as they are;
    and a problem for every key that came under two names.
    """
    layout: Mapping[str, Entry] = model.survey.layout
    known = layout_names(layout)
    arrays: dict[str, Array] = {}
    problems = []
    for name, value in contents.arrays.items():
        key, array = _renamed(name, model), value
        plain = name.removesuffix(":0")
        if plain in known:
            key = known[plain]
            if contents.hwio:
                array = pytorch_order(value, layout[key].shape)
        if key in arrays:
            problems.append(f"twice       {key}: under another name and as {name}")
        arrays[key] = array
    return arrays, problems


def _renamed(key: str, model: Model) -> str:
    for old, new in model.aliases.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key
