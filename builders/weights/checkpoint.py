"""Reading checkpoints, and matching them strictly against a model's layout.

Checkpoints are untrusted: `.pth` is read with torch's weights_only loader (never an
arbitrary pickle), sizes are bounded, and every value must be finite.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.spec import Model
from builders.weights.tensorflow import from_tensorflow
from builders.weights.wts import read_wts

Array = npt.NDArray[np.generic]

MAX_CHECKPOINT_BYTES = 8 << 30
"""Six times the largest published checkpoint of the seeds (1.28 GB)."""

CONTAINER_KEYS = ("model", "state_dict", "model_state_dict")
"""Keys under which training programs keep the state dict (FastReID: `model`)."""

MAX_LISTED = 12


class CheckpointError(ValueError):
    """A weights file that cannot be read, or does not fit its model."""


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


def load_weights(model: Model, path: Path) -> Weights:
    """The weights of `model` from `path`; every key is used or dropped by name.

    Raises CheckpointError listing names and shapes of what is missing, unexpected or
    of another shape.
    """
    arrays = matched(model, read_arrays(path), path.name)
    return Weights(arrays, Checkpoint(str(path), file_sha256(path)))


def file_sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_arrays(path: Path) -> dict[str, Array]:
    """Every array of a .pth, .pt, .safetensors, .npz or .wts file, by name.

    Raises CheckpointError, saying what is wrong with the file.
    """
    readers = {
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".safetensors": _read_safetensors,
        ".wts": read_wts,
        ".wts2": read_wts,
        ".npz": _read_npz,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CheckpointError(
            f"{path.name}: expected one of {', '.join(readers)}, got "
            f"{path.suffix or 'no suffix'!r}"
        )
    try:
        size = path.stat().st_size
        if size > MAX_CHECKPOINT_BYTES:
            raise CheckpointError(
                f"{path.name}: {size:,} bytes, over the limit of "
                f"{MAX_CHECKPOINT_BYTES:,}"
            )
        return reader(path)
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise CheckpointError(f"{path.name}: {exc}") from exc


def _read_torch(path: Path) -> dict[str, Array]:
    import torch

    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            f"{path.name}: holds more than plain tensors, or is damaged, and is not "
            "loaded, because unpickling it could run code. Save it again with "
            "torch.save(model.state_dict(), ...) or as .safetensors"
        ) from exc
    except (RuntimeError, EOFError, KeyError) as exc:
        raise CheckpointError(
            f"{path.name}: not a torch checkpoint, or cut short "
            f"({str(exc).splitlines()[0] if str(exc) else type(exc).__name__})"
        ) from exc
    for key in CONTAINER_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path.name}: expected a state dict, got {type(loaded).__name__}"
        )
    tensors = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    if len(tensors) != len(loaded):
        strangers = sorted(str(k) for k in loaded if k not in tensors)[:MAX_LISTED]
        raise CheckpointError(
            f"{path.name}: entries that are not tensors: {', '.join(strangers)}; "
            "expected a state dict, bare or under one of "
            f"{', '.join(CONTAINER_KEYS)}"
        )
    return {
        key.removeprefix("module."): (
            tensor.float() if tensor.is_floating_point() else tensor
        ).numpy()
        for key, tensor in tensors.items()
    }


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return {key: data[key] for key in data.files}
    except (zipfile.BadZipFile, EOFError, AttributeError) as exc:
        raise CheckpointError(f"{path.name}: not an .npz file, or cut short") from exc


def _read_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as exc:
        raise CheckpointError(f"{path.name}: {exc}") from exc


def _renamed(key: str, model: Model) -> str:
    for old, new in model.aliases.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


def matched(model: Model, arrays: Mapping[str, Array], source: str) -> dict[str, Array]:
    """`arrays` as FP32 in the layout of `model`, without its dropped keys.

    A counter that is missing is fine (checkpoints before PyTorch 0.4.1 have none),
    and .wts files, which carry no shapes, are given the layout's where sizes agree.
    Raises CheckpointError.
    """
    layout = model.survey.layout
    arrays = {_renamed(key, model): array for key, array in arrays.items()}
    arrays = from_tensorflow(arrays, layout)
    problems: list[str] = []
    result: dict[str, Array] = {}
    for key, entry in layout.items():
        if entry.kind == "counter":
            continue
        array = arrays.get(key)
        if array is None:
            problems.append(f"missing     {key} {entry.shape}")
        elif array.shape == entry.shape:
            result[key] = array.astype(np.float32, copy=False)
        elif (
            array.ndim <= 1
            and source.endswith(".wts")
            and array.size == np.prod(entry.shape)
        ):
            result[key] = array.astype(np.float32, copy=False).reshape(entry.shape)
        else:
            problems.append(
                f"wrong shape {key}: expected {entry.shape}, got {array.shape}"
            )
    problems += [
        f"unexpected  {key} {array.shape}"
        for key, array in arrays.items()
        if key not in layout and not any(fnmatchcase(key, p) for p in model.dropped)
    ]
    problems += [
        f"not finite  {key}: {np.count_nonzero(~np.isfinite(array))} of {array.size}"
        for key, array in result.items()
        if not np.isfinite(array).all()
    ]
    if problems:
        listed = "\n  ".join(problems[:MAX_LISTED])
        more = len(problems) - MAX_LISTED
        raise CheckpointError(
            f"{source} does not fit {model.name}: {len(problems)} of "
            f"{len(layout)} keys\n  {listed}"
            + (f"\n  ... and {more} more" if more > 0 else "")
            + "\nA key that inference does not need goes on the model's `dropped` list."
        )
    return result
