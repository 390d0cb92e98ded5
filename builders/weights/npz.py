"""Arrays in NumPy's .npz files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from builders.weights.intake import Array, CheckpointError, open_archive

SUFFIX = ".npy"

HEADER_READERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
"""Versions of the .npy format; 3.0 is for structured types with Unicode names."""


def read_npz(path: Path) -> dict[str, Array]:
    """Read an .npz file; pickled objects are refused.

    Args:
        path: The file.

    Returns:
        Arrays by name.

    Raises:
        CheckpointError: If the file is damaged, or has members that are not arrays of
            the size that they claim.
    """
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
    arrays: dict[str, Array] = {}
    try:
        with open_archive(path, methods) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(SUFFIX)
                if name == member.filename:
                    raise CheckpointError(f"member {name} is not an array ({SUFFIX})")
                with archive.open(member) as file:
                    arrays[name] = _read_array(file, name, member.file_size)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as exc:
        raise CheckpointError(f"not an .npz file, or cut short ({exc})") from exc
    except zlib.error as exc:
        raise CheckpointError(f"a damaged .npz file ({exc})") from exc
    return arrays


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file, as numpy.savez does, but with any names.

    Args:
        path: The file to write.
        arrays: Arrays by name.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            # 64-bit sizes, because an array may have more than 2 GiB
            with archive.open(f"{name}{SUFFIX}", "w", force_zip64=True) as file:
                npy.write_array(file, array, allow_pickle=False)


def _read_array(file: IO[bytes], name: str, size: int) -> Array:
    """Read an array whose header states the size that the member has."""
    try:
        read_header: Any = HEADER_READERS[npy.read_magic(file)]
        shape, in_fortran_order, dtype = read_header(file)
    except Exception as exc:
        # the header is a Python literal, and its parsers raise errors of many kinds
        raise CheckpointError(f"{name}: not an .npy array ({exc})") from exc
    if dtype.hasobject:
        raise CheckpointError(
            f"{name}: has Python objects, which are not loaded, because unpickling "
            "them could run code; expected an array of numbers"
        )
    claimed, actual = prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or claimed != actual:
        raise CheckpointError(
            f"{name}: claims {claimed:,} bytes (shape {shape}, {dtype}) and has "
            f"{actual:,}"
        )
    # to the end of the member, where zipfile compares its checksum
    array: Array = np.frombuffer(file.read(), dtype)
    native: Array = array.astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(shape, order="F" if in_fortran_order else "C")
