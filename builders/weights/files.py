"""Reading and writing checkpoint files, unchanged: arrays by name.

Checkpoints are untrusted input: sizes, counts and names are limited (intake.py), and
`.pth` is read with torch's weights_only loader, which does not run arbitrary pickles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from builders.weights.containers import unwrap_names
from builders.weights.intake import (
    FLOATS,
    MAX_LISTED,
    Array,
    CheckpointError,
    require_arrays,
    require_file,
    require_names,
)
from builders.weights.npz import read_npz, write_npz
from builders.weights.pytorch import read_torch
from builders.weights.safetensors_file import METADATA, read_safetensors
from builders.weights.wts import DIALECTS, read_wts, write_wts

T = TypeVar("T")

SAFETENSORS_HEADER_START = b"{"
"""First byte of a .safetensors file's header, after 8 bytes of its length. No file of
torch.save has it there: a zip archive has its method of compression (0), and an old
pickle a part of the magic number (0xF9)."""

EPOCH = re.compile(r"-\d+$")
"""What torchreid appends to a suffix: model.pth.tar-60 is of epoch 60."""


@dataclass(frozen=True)
class CheckpointContents:
    """The contents of a checkpoint file.

    Attributes:
        arrays: Arrays by the file's names.
        format: Description of the file format, for messages.
        has_shapes: Whether the arrays have shapes; otherwise they are flat (three
            dialects of .wts).
        note: What else the file has, for people; "" for nothing.
        tensorflow_axes: Whether arrays under TensorFlow's names have TensorFlow's order
            of axes (HWIO, IO).
    """

    arrays: Mapping[str, Array]
    format: str
    has_shapes: bool = True
    tensorflow_axes: bool = True
    note: str = ""


def read_checkpoint(path: Path, key: str = "") -> CheckpointContents:
    """Read every array of a checkpoint file, without the prefixes of wrapped modules.

    Args:
        path: A .pth, .pt, .pth.tar, .ckpt, .bin, .safetensors, .npz, .wts or .wts2
            file, perhaps with an epoch, as in .pth.tar-60. All but the last three are
            read as what they contain, whichever of these suffixes they have.
        key: Key of the wanted state dict in a file of torch.save; see
            `containers.find_state_dict`.

    Raises:
        CheckpointError: If the file cannot be read; the message states the reason and,
            for .wts, the line.
    """
    reader = _by_suffix(READERS, path.name, path.suffix)
    require_file(path)
    try:
        contents = reader(path, key)
        require_arrays(contents.arrays)
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror}") from exc
    except MemoryError as exc:
        raise CheckpointError(
            f"{path.name}: needs more memory than this machine has free"
        ) from exc
    except ValueError as exc:
        raise CheckpointError(f"{path.name}: {exc}") from exc
    return contents


def write_checkpoint(path: Path, suffix: str, arrays: Mapping[str, Array]) -> None:
    """Write a checkpoint file.

    Args:
        path: The file to write; a temporary file may lack the suffix.
        suffix: The format: .pth, .pt, .safetensors, .npz or .wts.
        arrays: Arrays by name.

    Raises:
        CheckpointError: If the format cannot be written, or if a value is NaN or
            infinite.
    """
    writer = _by_suffix(WRITERS, f"checkpoint to write as {suffix}", suffix)
    bad = [
        name
        for name, array in arrays.items()
        if array.dtype.kind in FLOATS and not np.isfinite(array).all()
    ]
    if bad:
        raise CheckpointError(
            f"{len(bad)} arrays have values that are NaN or infinite: "
            f"{', '.join(bad[:MAX_LISTED])}; no model can use them, so they are not "
            "written"
        )
    try:
        writer(path, arrays)
    except ValueError as exc:
        raise CheckpointError(f"cannot be written as {suffix}: {exc}") from exc


def require_writable_format(path: Path) -> None:
    """Require that a checkpoint can be written in the format of a file's suffix.

    Args:
        path: The file that is going to be written.

    Raises:
        CheckpointError: The suffix is of no format that is written.
    """
    _by_suffix(WRITERS, path.name, path.suffix)


def _by_suffix(table: Mapping[str, T], name: str, suffix: str) -> T:
    entry = table.get(EPOCH.sub("", suffix.lower()))
    if entry is None:
        raise CheckpointError(
            f"{name}: expected one of {', '.join(table)}, got {suffix or 'no suffix'!r}"
        )
    return entry


def _read_by_content(path: Path, key: str) -> CheckpointContents:
    """Read a file of torch.save or safetensors: both have several suffixes."""
    with path.open("rb") as file:
        if file.read(9)[8:] == SAFETENSORS_HEADER_START:
            return _read_safetensors(path, key)
    description, arrays, state = read_torch(path, key)
    require_names(arrays)
    plain = unwrap_names(arrays, is_lightning=state.is_lightning)
    unwrapped = {plain[name]: arrays[name] for name in plain}
    return CheckpointContents(unwrapped, description, note=state.note)


def _read_npz(path: Path, key: str) -> CheckpointContents:
    _require_no_key(key, "NumPy's .npz")
    return CheckpointContents(read_npz(path), "NumPy .npz")


def _read_safetensors(path: Path, key: str) -> CheckpointContents:
    _require_no_key(key, "safetensors")
    arrays = read_safetensors(path)
    unwrapped = {plain: arrays[name] for name, plain in unwrap_names(arrays).items()}
    return CheckpointContents(unwrapped, "safetensors")


def _require_no_key(key: str, file_format: str) -> None:
    if key:
        raise CheckpointError(
            f"--weights-key {key}: {file_format} has one state dict without a key; "
            "leave the option out"
        )


def _read_wts(path: Path, key: str) -> CheckpointContents:
    _require_no_key(key, ".wts")
    dialect, arrays = read_wts(path)
    return CheckpointContents(
        arrays,
        f".wts dialect {dialect} ({DIALECTS[dialect]})",
        has_shapes=dialect == "C",
        tensorflow_axes=dialect in {"B", "C"},
    )


def _write_torch(path: Path, arrays: Mapping[str, Array]) -> None:
    import torch

    torch.save({k: torch.from_numpy(np.array(a)) for k, a in arrays.items()}, path)


def _write_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    from safetensors.numpy import save_file

    if METADATA in arrays:
        raise ValueError(f"{METADATA} is not the name of an array in this format")
    save_file({k: np.ascontiguousarray(a) for k, a in arrays.items()}, path)


READERS: Mapping[str, Callable[[Path, str], CheckpointContents]] = {
    ".pth": _read_by_content,
    ".pt": _read_by_content,
    ".tar": _read_by_content,
    ".ckpt": _read_by_content,
    ".bin": _read_by_content,
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
    ".npz": write_npz,
}
