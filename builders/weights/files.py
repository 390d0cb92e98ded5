"""Checkpoint files, read and written: names to arrays, as they are in the file.

Checkpoints are untrusted: `.pth` is read with torch's weights_only loader (never an
arbitrary pickle), and sizes are bounded.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from builders.weights.wts import DIALECTS, read_wts, write_wts

Array = npt.NDArray[np.generic]
T = TypeVar("T")

MAX_CHECKPOINT_BYTES = 8 << 30
"""Six times the largest published checkpoint of the seeds (1.28 GB)."""

CONTAINER_KEYS = ("model", "state_dict", "model_state_dict")
"""Keys under which training programs keep the state dict (FastReID: `model`)."""

MAX_LISTED = 12


class CheckpointError(ValueError):
    """A weights file that cannot be read, or does not fit its model."""


@dataclass(frozen=True)
class Contents:
    """What a file holds. Without `has_shapes` (three dialects of .wts) arrays are
    flat. With `hwio`, arrays under TensorFlow's names are in TensorFlow's layout.
    `format` is for people.
    """

    arrays: Mapping[str, Array]
    format: str
    has_shapes: bool = True
    hwio: bool = True


def read_checkpoint(path: Path) -> Contents:
    """Every array of a .pth, .pt, .safetensors, .npz, .wts or .wts2 file.

    Raises CheckpointError, saying what is wrong with the file, and in .wts with which
    line.
    """
    reader = _by_suffix(READERS, path)
    try:
        _check_size(path)
        return reader(path)
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror}") from exc
    except CheckpointError:
        raise
    except ValueError as exc:
        raise CheckpointError(f"{path.name}: {exc}") from exc


def write_checkpoint(path: Path, suffix: str, arrays: Mapping[str, Array]) -> None:
    """Write `arrays` to `path` in the format that `suffix` names (`path` may be a
    temporary one without it). Raises CheckpointError for a format that is not written.
    """
    _by_suffix(WRITERS, Path(f"x{suffix}"))(path, arrays)


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(
            f"{path.name}: {size:,} bytes, over the limit of {MAX_CHECKPOINT_BYTES:,}"
        )


def _by_suffix(table: Mapping[str, T], path: Path) -> T:
    found = table.get(path.suffix.lower())
    if found is None:
        raise CheckpointError(
            f"{path.name}: expected one of {', '.join(table)}, got "
            f"{path.suffix or 'no suffix'!r}"
        )
    return found


def _read_torch(path: Path) -> Contents:
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
    container = "bare state dict"
    for key in CONTAINER_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded, container = loaded[key], f"state dict under {key!r}"
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
    arrays = {
        key.removeprefix("module."): (
            tensor.float() if tensor.is_floating_point() else tensor
        ).numpy()
        for key, tensor in tensors.items()
    }
    kind = "zip" if zipfile.is_zipfile(path) else "before PyTorch 1.6"
    return Contents(arrays, f"PyTorch ({kind}), {container}")


def _read_npz(path: Path) -> Contents:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return Contents({key: data[key] for key in data.files}, "NumPy .npz")
    except (zipfile.BadZipFile, EOFError, AttributeError) as exc:
        raise CheckpointError(f"{path.name}: not an .npz file, or cut short") from exc


def _read_safetensors(path: Path) -> Contents:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return Contents(load_file(path), "safetensors")
    except SafetensorError as exc:
        raise CheckpointError(f"{path.name}: {exc}") from exc


def _read_wts(path: Path) -> Contents:
    dialect, arrays = read_wts(path)
    return Contents(
        arrays,
        f".wts dialect {dialect} ({DIALECTS[dialect]})",
        has_shapes=dialect == "C",
        hwio=dialect in {"B", "C"},
    )


def _write_torch(path: Path, arrays: Mapping[str, Array]) -> None:
    import torch

    torch.save({k: torch.from_numpy(np.array(a)) for k, a in arrays.items()}, path)


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _write_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(a) for k, a in arrays.items()}, path)


READERS: Mapping[str, Callable[[Path], Contents]] = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".wts": _read_wts,
    ".wts2": _read_wts,
    ".npz": _read_npz,
}
WRITERS: Mapping[str, Callable[[Path, Mapping[str, Array]], None]] = {
    ".pth": _write_torch,
    ".pt": _write_torch,
    ".safetensors": _write_safetensors,
    ".wts": write_wts,
    ".npz": _write_npz,
}
