"""Reading of .safetensors files.

The library reads a million names for six seconds, and its NumPy interface has no
BF16. The format is small: the length of a JSON header, the header, and the values.

Source: huggingface/safetensors, README.md, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from builders.weights.intake import (
    Array,
    CheckpointError,
    require_count,
    require_names,
    require_numbers,
)

MAX_HEADER_BYTES = 8 << 20
"""800 bytes for each of the largest number of arrays; a usual entry has 110."""

METADATA = "__metadata__"
"""Name of the header's entry that is not an array."""

BF16 = "BF16"

DATA_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    BF16: "<u2",
    "I64": "<i8",
    "U64": "<u8",
    "I32": "<i4",
    "U32": "<u4",
    "I16": "<i2",
    "U16": "<u2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
"""NumPy's name of each data type; BF16 is read as its bits."""

MAX_RANK = 8
"""Most dimensions of an array; networks have 4."""


@dataclass(frozen=True)
class _Entry:
    """An array's entry in the header."""

    data_type: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def span(self) -> tuple[int, int]:
        return self.begin, self.end

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(DATA_TYPES[self.data_type])


def read_safetensors(path: Path) -> dict[str, Array]:
    """Read a .safetensors file.

    Args:
        path: The file.

    Returns:
        Arrays by name, BF16 as FP32.

    Raises:
        CheckpointError: If the header is not valid or too large, or does not describe
            the whole file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise CheckpointError(
                f"not a .safetensors file, or cut short: a header of {length:,} bytes "
                f"in a file of {size:,}"
            )
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"a header of {length:,} bytes, over the limit of "
                f"{MAX_HEADER_BYTES:,}; save the state dict of one network"
            )
        entries = _parse_header(file.read(length))
        in_order = sorted(entries, key=lambda name: entries[name].span)
        _require_coverage([entries[name] for name in in_order], size - 8 - length)
        arrays = {
            name: _array_from_bytes(file.read(entries[name].size_bytes), entries[name])
            for name in in_order
        }
    return {name: arrays[name] for name in entries}


def _parse_header(text: bytes) -> dict[str, _Entry]:
    """Return the entry of every array by name."""
    try:
        pairs = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"its header is not valid JSON ({exc})") from exc
    if not isinstance(pairs, dict):
        raise CheckpointError("its header is not a JSON object")
    pairs.pop(METADATA, None)
    require_count(len(pairs))
    require_names(pairs)
    entries = {name: _parse_entry(name, value) for name, value in pairs.items()}
    require_numbers(
        {
            name: entry.data_type
            for name, entry in entries.items()
            if entry.data_type not in DATA_TYPES
        }
    )
    for name, entry in entries.items():
        if prod(entry.shape) * entry.dtype.itemsize != entry.size_bytes:
            raise CheckpointError(
                f"{name}: {entry.size_bytes:,} bytes for {entry.data_type} "
                f"{list(entry.shape)}"
            )
    return entries


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name occurs twice")
    return names


def _parse_entry(name: str, value: Any) -> _Entry:
    try:
        begin, end = value["data_offsets"]
        entry = _Entry(value["dtype"], tuple(value["shape"]), begin, end)
        sizes = (*entry.shape, begin, end)
        is_valid = isinstance(entry.data_type, str) and all(
            type(size) is int and size >= 0 for size in sizes
        )
    except (KeyError, TypeError, ValueError):
        is_valid = False
    if not is_valid or len(entry.shape) > MAX_RANK:
        raise CheckpointError(
            f"{name}: expected dtype, shape of at most {MAX_RANK} sizes, and "
            "data_offsets"
        )
    return entry


def _require_coverage(entries: Iterable[_Entry], size: int) -> None:
    """Check that arrays follow each other, from the first byte to the last."""
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise CheckpointError(
                f"cut short or edited: arrays overlap or leave a gap at {position:,}"
            )
        position = entry.end
    if position != size:
        raise CheckpointError(
            f"cut short or edited: {position:,} bytes of arrays are described, and "
            f"{size:,} follow the header"
        )


def _array_from_bytes(data: bytes, entry: _Entry) -> Array:
    array: Array = np.frombuffer(data, entry.dtype).reshape(entry.shape)
    if entry.data_type == BF16:  # the upper half of an FP32 value
        return (array.astype("<u4") << 16).view(np.float32)
    return array
