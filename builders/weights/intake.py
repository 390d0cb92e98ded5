"""Limits and checks of untrusted files, made before or instead of a library's parser.

Libraries trust what a file says about itself: torch ignores the checksums of its zip
members, NumPy allocates what an array's header claims, and both read a pipe until it
ends. The limits here bound memory and time by constants, each with its reason.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.errors import BuildersError

Array = npt.NDArray[np.generic]

MAX_CHECKPOINT_BYTES = 8 << 30
"""Six times the largest published checkpoint, kinship_concat's (1.28 GB)."""

MAX_ARRAYS = 10_000
"""Thirty times the longest published state dict (SE-ResNet50: 332 arrays), so that a
training program's file with its optimiser's state also fits."""

MAX_EXPANSION = 16
"""Most bytes of arrays for each byte of the file. FP16 doubles, shared weights repeat,
and compression of pruned weights rarely exceeds 8; a decompression bomb has 1000."""

FREE_BYTES = 64 << 20
"""Bytes of arrays that every file may have, however small it is."""

MAX_NAME_LENGTH = 256
"""Longest name of an array; the longest published one has 62 characters."""

MAX_DIRECTORY_BYTES = 2 * MAX_ARRAYS * (MAX_NAME_LENGTH + 64)
"""Largest central directory of a zip archive: 64 bytes and a name for each member."""

MAX_LISTED = 12
"""Most keys that an error message lists."""

FLOATS, INTEGERS = "f", "iub"
"""Kinds of NumPy data types that weights and counters have; bool counts as integer."""


class CheckpointError(BuildersError, ValueError):
    """A checkpoint that cannot be read, written or matched to its model."""


def require_file(
    path: Path,
    max_bytes: int = MAX_CHECKPOINT_BYTES,
    error: type[BuildersError] = CheckpointError,
) -> int:
    """Return the size of a regular file, without opening it.

    Opening a pipe waits for its writer, and a device never ends.

    Args:
        path: The file; a link counts as the file that it leads to.
        max_bytes: Largest size.
        error: Class of the error to raise.

    Raises:
        BuildersError: Of the class `error`, if there is no regular file at `path`, or
            if it is empty or too large.
    """
    try:
        status = path.stat()
    except OSError as exc:
        raise error(f"{path}: cannot be read: {exc.strerror}") from exc
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise error(f"{path}: expected a regular file, got {kind}; copy it to a file")
    if not 0 < status.st_size <= max_bytes:
        raise error(
            f"{path.name}: expected a file of 1 to {max_bytes:,} bytes, got "
            f"{status.st_size:,} bytes"
        )
    if not os.access(path, os.R_OK):
        raise error(f"{path}: cannot be read: Permission denied")
    return status.st_size


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def require_count(count: int, what: str = "arrays") -> None:
    """Raise CheckpointError if a file has too many arrays.

    Args:
        count: Number of arrays.
        what: What is counted, for the message.
    """
    if count > MAX_ARRAYS:
        raise CheckpointError(
            f"{count:,} {what}, over the limit of {MAX_ARRAYS:,}; save the state dict "
            "of one network"
        )


def require_expansion(total_bytes: int, file_bytes: int) -> None:
    """Raise CheckpointError if arrays are far larger than the file that has them.

    Args:
        total_bytes: Bytes of all arrays in memory.
        file_bytes: Size of the file.
    """
    limit = min(max(FREE_BYTES, MAX_EXPANSION * file_bytes), MAX_CHECKPOINT_BYTES)
    if total_bytes > limit:
        raise CheckpointError(
            f"{total_bytes:,} bytes of arrays in a file of {file_bytes:,} bytes, over "
            f"the limit of {limit:,}; save it again without expanded or highly "
            "compressed arrays"
        )


def require_names(names: Iterable[object]) -> None:
    """Raise CheckpointError if a name of an array is not plain text.

    Names are shown in a terminal and written to other files.

    Args:
        names: Names from the file.
    """
    bad = [name for name in names if not _is_plain(name)]
    if bad:
        listed = ", ".join(repr(name)[:40] for name in bad[:MAX_LISTED])
        raise CheckpointError(
            f"{len(bad)} names that are not text of 1 to {MAX_NAME_LENGTH} printable "
            f"characters: {listed}; save it again with the names of a state dict"
        )


def _is_plain(name: object) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_NAME_LENGTH
        and name.isprintable()
    )


def require_numbers(data_types: Mapping[str, str]) -> None:
    """Raise CheckpointError if an array has elements that are not real numbers.

    Args:
        data_types: Data types that are refused, by name of the array.
    """
    if data_types:
        pairs = list(data_types.items())[:MAX_LISTED]
        listed = ", ".join(f"{name} ({data_type})" for name, data_type in pairs)
        raise CheckpointError(
            f"{len(data_types)} arrays that are not dense real numbers: {listed}; "
            "expected floating-point or integer arrays, so convert them before saving"
        )


def require_arrays(arrays: Mapping[str, Array]) -> None:
    """Raise CheckpointError unless all arrays have plain names and real numbers.

    Args:
        arrays: Arrays by the file's names.
    """
    require_count(len(arrays))
    require_names(arrays)
    require_numbers(
        {
            name: str(array.dtype)
            for name, array in arrays.items()
            if array.dtype.kind not in FLOATS + INTEGERS or array.dtype.itemsize > 8
        }
    )


def open_archive(path: Path, methods: Iterable[int]) -> zipfile.ZipFile:
    """Open a zip archive that has one meaning and bounded contents.

    The central directory must end the file, without a comment, and each name occurs
    once. Otherwise two readers, such as zipfile and torch, could find other members in
    the same file.

    Args:
        path: The archive.
        methods: Methods of compression that are allowed.

    Returns:
        The archive; the caller closes it. Its members' checksums are not checked yet.

    Raises:
        CheckpointError: If the archive is damaged, ambiguous or too large.
    """
    size = path.stat().st_size
    _require_directory(path, size)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
        raise CheckpointError(f"not a zip archive, or cut short ({exc})") from exc
    try:
        _require_members(archive.infolist(), size, frozenset(methods))
    except BaseException:
        archive.close()
        raise
    return archive


def _require_directory(path: Path, size: int) -> None:
    """Check the central directory's size and place before it is parsed."""
    with path.open("rb") as file:
        # the end record has 22 bytes, behind the 20 and 56 bytes of zip64's records
        file.seek(max(0, size - 98))
        tail = file.read()
    if tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise CheckpointError("not a zip archive, or cut short")
    length, offset = struct.unpack("<2L", tail[-10:-2])
    end = size - 22
    if tail[-42:-38] == b"PK\x06\x07":
        if tail[-98:-94] != b"PK\x06\x06":
            raise CheckpointError("its zip64 directory is not at the end of the file")
        length, offset = struct.unpack("<2Q", tail[-58:-42])
        end = size - 98
    if length > MAX_DIRECTORY_BYTES:
        raise CheckpointError(
            f"a directory of {length:,} bytes, over the limit of "
            f"{MAX_DIRECTORY_BYTES:,}; save the state dict of one network"
        )
    if offset + length != end:
        raise CheckpointError("its zip directory is not at the end of the file")


def _require_members(
    members: list[zipfile.ZipInfo], size: int, methods: frozenset[int]
) -> None:
    require_count(len(members), "members")
    require_names(member.filename for member in members)
    if len({member.filename for member in members}) < len(members):
        raise CheckpointError("two members share a name; save it again")
    for member in members:
        if member.compress_type not in methods or member.flag_bits & 1:
            raise CheckpointError(
                f"member {member.filename} is encrypted or compressed by a method that "
                "this format does not use; save it again"
            )
    if sum(member.compress_size for member in members) > size:
        raise CheckpointError("its zip members overlap; save it again")
    require_expansion(sum(member.file_size for member in members), size)
