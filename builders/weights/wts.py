"""`.wts` files in their four dialects: all are read, tensorrtx's is written.

    A tensorrtx, FastRT, IBN-Net   name count v1 ... vN            8 hex digits a value
    B NVIDIA's dumpTFWts, V1       name type count v1 ... vN       hex without leading 0
    C NVIDIA's dumpTFWts, V2       name type (shape) raw bytes
    D seed 003's revised V1        name type count v1 ... vN       decimal numbers

Each starts with the number of tensors. A and D are in PyTorch's layout, B and C in
TensorFlow's; B, C and D have TensorFlow's names with `_` for `/`. Only C has shapes.
The dialect is found from every line, and a file whose lines disagree is refused.
Sources: tensorrtx tutorials/getting_started.md, NVIDIA/TensorRT samples/common/
dumpTFWts.py (v5.1.5), deepstream_reference_apps DS_3.0 senet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Dialect = Literal["A", "B", "C", "D"]

DIALECTS: Mapping[Dialect, str] = {
    "A": "tensorrtx",
    "B": "dumpTFWts, hexadecimal",
    "C": "dumpTFWts, raw",
    "D": "dumpTFWts revised, decimal",
}

TYPE_CODES: Mapping[bytes, str] = {b"0": "<f4", b"1": "<f2", b"2": "i1", b"3": "<i4"}
"""dumpTFWts' data types; B writes 0 whatever the values are."""


def read_wts(path: Path) -> tuple[Dialect, dict[str, Array]]:
    """The dialect, and {name: FP32 array}, flat except in dialect C. A file of empty
    tensors counts as A. Raises ValueError with the line, for NaN and infinity too.
    """
    arrays: dict[str, Array] = {}
    found: Dialect | None = None
    with path.open("rb") as file:
        header = file.readline(64).strip()
        if not header.isdigit():
            raise ValueError(
                f"line 1: expected the number of tensors, got {header[:20]!r}"
            )
        rest = file.read()
    for number, dialect, name, array in _tensors(rest):
        if name in arrays:
            raise ValueError(f"line {number}: {name} occurs a second time")
        if array.size and found not in {None, dialect}:
            raise ValueError(
                f"line {number}: written in dialect {dialect}, the lines before in "
                f"{found}; the file was put together from two"
            )
        if not np.isfinite(array).all():
            bad = np.count_nonzero(~np.isfinite(array))
            raise ValueError(
                f"line {number}: {name} has {bad} values that are NaN or infinite"
            )
        if array.size:
            found = dialect
        arrays[name] = array
    if len(arrays) != int(header):
        raise ValueError(
            f"line 1 promises {int(header)} tensors, the file has {len(arrays)}: "
            "it is cut short or was edited"
        )
    return found or "A", arrays


def write_wts(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write `arrays` to `path` in dialect A, flattened, as float32. Raises ValueError
    for a name with blanks, which the format cannot hold.
    """
    for name in arrays:
        if not name or len(name.split()) != 1:
            raise ValueError(f"{name!r} cannot be a name in a .wts file: it has blanks")
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{len(arrays)}\n")
        for name, array in arrays.items():
            digits = array.astype(">f4").tobytes().hex(" ", 4)
            file.write(f"{name} {array.size}{' ' if digits else ''}{digits}\n")


def _tensors(data: bytes) -> Iterator[tuple[int, Dialect, str, Array]]:
    """(line, dialect, name, array) of every tensor; raw ones may contain newlines."""
    position, number = 0, 1
    while position < len(data):
        number += 1
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        head = data[position : min(position + 4096, len(data))].split(b" ", 3)
        if len(head) > 2 and head[2].startswith(b"("):
            name, array, end = _raw(data, position, number)
            yield number, "C", name, array
        elif data[position:end].strip():
            yield (number, *_text(data[position:end].split(), number))
        position = end + 1


def _text(tokens: list[bytes], number: int) -> tuple[Dialect, str, Array]:
    """A line of dialect A, B or D. A is preferred where two would fit."""
    name = tokens[0].decode("utf-8", errors="replace")
    if len(tokens) > 1 and tokens[1].isdigit() and len(tokens) == 2 + int(tokens[1]):
        return "A", name, _from_hex(tokens[2:], number, whole=True)
    if (
        len(tokens) > 2
        and tokens[1] in TYPE_CODES
        and tokens[2].isdigit()
        and len(tokens) == 3 + int(tokens[2])
    ):
        values = tokens[3:]
        if any(set(value) & set(b".+-nN") for value in values):
            return "D", name, _from_decimal(values, number)
        return "B", name, _from_hex(values, number, whole=False)
    if len(tokens) > 1 and tokens[1].isdigit():
        raise ValueError(
            f"line {number}: {name} promises {int(tokens[1])} values and has "
            f"{len(tokens) - 2}"
        )
    line = b" ".join(tokens)[:40]
    raise ValueError(f"line {number}: expected `name count values`, got {line!r}")


def _from_hex(values: list[bytes], number: int, *, whole: bool) -> Array:
    # 32-bit Python 2 wrote a trailing L
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


def _from_decimal(values: list[bytes], number: int) -> Array:
    try:
        return np.array(values, np.float32)
    except ValueError as exc:
        raise ValueError(f"line {number}: values are not numbers ({exc})") from exc


def _raw(data: bytes, position: int, number: int) -> tuple[str, Array, int]:
    """A tensor of dialect C at `position`: name, array, and where its newline is."""
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
    array = np.frombuffer(data[start:stop], kind).reshape(sizes)
    return name.decode("utf-8"), array.astype(np.float32), stop
