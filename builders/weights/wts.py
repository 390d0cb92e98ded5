"""`.wts` files in four dialects; all are read, and tensorrtx's (A) is written.

    A tensorrtx, FastRT, IBN-Net   name count v1 ... vN            8 hex digits a value
    B NVIDIA's dumpTFWts, V1       name type count v1 ... vN       hex without leading 0
    C NVIDIA's dumpTFWts, V2       name type (shape) raw bytes
    D senet's revised dumpTFWts    name type count v1 ... vN       decimal numbers

Each file starts with the number of tensors. A and D have PyTorch's order of axes, B and
C TensorFlow's; B, C and D have TensorFlow's names with `_` instead of `/`. Only C has
shapes. The dialect is detected from every line, and a file with lines in two dialects
is refused.

Sources: tensorrtx, tutorials/getting_started.md; NVIDIA/TensorRT v5.1.5,
samples/common/dumpTFWts.py; NVIDIA-AI-IOT/deepstream_reference_apps DS_3.0, senet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from builders.weights.intake import MAX_ARRAYS, Array

Dialect = Literal["A", "B", "C", "D"]

DIALECTS: Mapping[Dialect, str] = {
    "A": "tensorrtx",
    "B": "dumpTFWts, hexadecimal",
    "C": "dumpTFWts, raw",
    "D": "dumpTFWts revised, decimal",
}

TYPE_CODES: Mapping[bytes, str] = {b"0": "<f4", b"1": "<f2", b"2": "i1", b"3": "<i4"}
"""Data types in dumpTFWts; dialect B always writes 0."""

MAX_LINE_BYTES = 64 << 20
"""Longest line that is split into words, each an object of 50 bytes: three times the
largest tensor of a published file in dialects B and D. Lines of dialect A that are
written as tensorrtx does are not split."""

MAX_LINES = 2 * MAX_ARRAYS
"""A blank line may follow each tensor."""


def read_wts(path: Path) -> tuple[Dialect, dict[str, Array]]:
    """Read a .wts file.

    Args:
        path: The file.

    Returns:
        The dialect (A if all tensors are empty) and the arrays by name: FP32 and flat,
        except in dialect C, which has shapes and integers.

    Raises:
        ValueError: If a line is not valid or has a value that is NaN or infinite; the
            message states the line.
    """
    arrays: dict[str, Array] = {}
    file_dialect: Dialect | None = None
    count, data = _read_lines(path)
    for number, dialect, name, array in _tensors(data):
        if name in arrays:
            raise ValueError(f"line {number}: {name} occurs a second time")
        if array.size and file_dialect not in {None, dialect}:
            raise ValueError(
                f"line {number}: written in dialect {dialect}, the lines before in "
                f"{file_dialect}; the file was put together from two"
            )
        if not np.isfinite(array).all():
            bad = np.count_nonzero(~np.isfinite(array))
            raise ValueError(
                f"line {number}: {name} has {bad} values that are NaN or infinite"
            )
        if array.size:
            file_dialect = dialect
        arrays[name] = array
    if len(arrays) != count:
        raise ValueError(
            f"line 1 promises {count} tensors, the file has {len(arrays)}: "
            "it is cut short or was edited"
        )
    return file_dialect or "A", arrays


def write_wts(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays in dialect A: flat, in float32.

    Args:
        path: The file to write.
        arrays: Arrays by name.

    Raises:
        ValueError: If a name has blanks, which the format cannot store.
    """
    for name in arrays:
        if not name or len(name.split()) != 1:
            raise ValueError(f"{name!r} cannot be a name in a .wts file: it has blanks")
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{len(arrays)}\n")
        for name, array in arrays.items():
            digits = array.astype(">f4").tobytes().hex(" ", 4)
            file.write(f"{name} {array.size}{' ' if digits else ''}{digits}\n")


def _read_lines(path: Path) -> tuple[int, bytes]:
    """Return the number of tensors that line 1 states, and all further lines."""
    with path.open("rb") as file:
        header = file.readline(64).strip()
        if not header.isdigit():
            raise ValueError(
                f"line 1: expected the number of tensors, got {header[:20]!r}"
            )
        count = int(header)
        if count > MAX_ARRAYS:
            raise ValueError(
                f"line 1 promises {count:,} tensors, over the limit of {MAX_ARRAYS:,}"
            )
        return count, file.read()


def _tensors(data: bytes) -> Iterator[tuple[int, Dialect, str, Array]]:
    """Yield (line, dialect, name, array) of every tensor.

    Raw tensors may contain newlines.
    """
    position, number = 0, 1
    while position < len(data):
        number += 1
        if number > MAX_LINES:
            raise ValueError(f"over {MAX_LINES:,} lines, most of them blank")
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        head = data[position : min(position + 4096, len(data))].split(b" ", 3)
        if len(head) > 2 and head[2].startswith(b"("):
            name, array, end = _parse_raw(data, position, number)
            yield number, "C", name, array
        elif (values := _parse_regular(head, data[position:end])) is not None:
            yield number, "A", head[0].decode("utf-8", errors="replace"), values
        elif end - position > MAX_LINE_BYTES:
            raise ValueError(
                f"line {number}: {end - position:,} bytes, over the limit of "
                f"{MAX_LINE_BYTES:,} for a line other than `name count values` with "
                "single blanks; convert the checkpoint to .safetensors"
            )
        elif data[position:end].strip():
            yield (number, *_parse_text(data[position:end].split(), number))
        position = end + 1


def _parse_regular(head: list[bytes], line: bytes) -> Array | None:
    """Return the values of dialect A with single blanks, None for any other line."""
    if len(head) < 3 or not head[1].isdigit() or len(head[1]) > 10:
        return None
    line = line.rstrip()
    count, start = int(head[1]), len(head[0]) + len(head[1]) + 2
    if not count or len(line) - start != 9 * count - 1:
        return None
    blanks = np.frombuffer(line, np.uint8)[start + 8 :: 9]
    try:
        raw = bytes.fromhex(line[start:].decode("ascii"))
    except ValueError:
        return None
    if len(raw) != 4 * count or (blanks != ord(" ")).any():
        return None
    return np.frombuffer(raw, ">f4").astype(np.float32)


def _parse_text(tokens: list[bytes], number: int) -> tuple[Dialect, str, Array]:
    """Parse a line of dialect A, B or D; A where two are possible."""
    name = tokens[0].decode("utf-8", errors="replace")
    if len(tokens) > 1 and tokens[1].isdigit() and len(tokens) == 2 + int(tokens[1]):
        return "A", name, _array_from_hex(tokens[2:], number, whole=True)
    if (
        len(tokens) > 2
        and tokens[1] in TYPE_CODES
        and tokens[2].isdigit()
        and len(tokens) == 3 + int(tokens[2])
    ):
        values = tokens[3:]
        if any(set(value) & set(b".+-nN") for value in values):
            return "D", name, _array_from_decimal(values, number)
        return "B", name, _array_from_hex(values, number, whole=False)
    if len(tokens) > 1 and tokens[1].isdigit():
        raise ValueError(
            f"line {number}: {name} promises {int(tokens[1])} values and has "
            f"{len(tokens) - 2}"
        )
    line = b" ".join(tokens)[:40]
    raise ValueError(f"line {number}: expected `name count values`, got {line!r}")


def _array_from_hex(values: list[bytes], number: int, *, whole: bool) -> Array:
    # 32-bit Python 2 appends an L to large values
    padded = [v if whole else v.rstrip(b"L").rjust(8, b"0") for v in values]
    if any(len(value) != 8 for value in padded):
        raise ValueError(f"line {number}: values are not eight hex digits each")
    try:
        raw = bytes.fromhex(b"".join(padded).decode("ascii"))
    except ValueError as exc:
        raise ValueError(
            f"line {number}: values are not eight hex digits each ({exc})"
        ) from exc
    return np.frombuffer(raw, ">f4").astype(np.float32)


def _array_from_decimal(values: list[bytes], number: int) -> Array:
    try:
        return np.array(values, np.float32)
    except ValueError as exc:
        raise ValueError(f"line {number}: values are not numbers ({exc})") from exc


def _parse_raw(data: bytes, position: int, number: int) -> tuple[str, Array, int]:
    """Parse a tensor of dialect C; return name, array and position of its newline."""
    close = data.find(b")", position, position + 4096)
    try:
        name, code, shape_text = data[position:close].split(b" ", 2)
        sizes = [int(size) for size in shape_text[1:].split(b",") if size.strip()]
        kind = np.dtype(TYPE_CODES[code])
    except (ValueError, KeyError) as exc:
        raise ValueError(
            f"line {number}: expected `name type (shape) bytes`, got "
            f"{data[position : position + 40]!r}"
        ) from exc
    start = close + 2
    stop = start + prod(sizes) * kind.itemsize
    if min(sizes, default=0) < 0 or stop > len(data):
        raise ValueError(
            f"line {number}: {name.decode(errors='replace')} promises "
            f"{prod(sizes)} values, and the file ends before"
        )
    array: Array = np.frombuffer(data[start:stop], kind).reshape(sizes)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    return name.decode("utf-8"), array, stop
