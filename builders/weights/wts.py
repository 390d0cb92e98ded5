"""`.wts` files in tensorrtx's form (also FastRT's and IBN-Net's), read and written.

First line: the number of tensors. Then `name count v1 ... vN` a line, each value the
eight hex digits of its big-endian float32. The format carries no shapes, so arrays
come back flat; integers (num_batches_tracked) are stored as floats, zero-length
tensors as `name 0`. Source: tensorrtx, tutorials/getting_started.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


def read_wts(path: Path) -> dict[str, Array]:
    """{name: flat FP32 array}. Raises ValueError with the line that is wrong."""
    arrays: dict[str, Array] = {}
    with path.open("rb") as file:
        header = file.readline(64).strip()
        if not header.isdigit():
            raise ValueError(
                f"line 1: expected the number of tensors, got {header[:20]!r}"
            )
        for number, line in enumerate(file, start=2):
            if not line.strip():
                continue
            name, array = _tensor(line, number)
            if name in arrays:
                raise ValueError(f"line {number}: {name} occurs a second time")
            arrays[name] = array
    if len(arrays) != int(header):
        raise ValueError(
            f"line 1 promises {int(header)} tensors, the file has {len(arrays)}: "
            "it is cut short or was edited"
        )
    return arrays


def _tensor(line: bytes, number: int) -> tuple[str, Array]:
    name, _, rest = line.strip().partition(b" ")
    count, _, digits = rest.partition(b" ")
    if not count.isdigit():
        raise ValueError(
            f"line {number}: expected `name count values`, got {line[:40]!r}"
        )
    try:
        # the values are fixed-width, so one conversion takes the whole line
        raw = np.frombuffer(bytes.fromhex(digits.decode("ascii")), dtype=">f4")
    except ValueError as exc:
        raise ValueError(
            f"line {number}: values are not eight hex digits each ({exc})"
        ) from exc
    if len(raw) != int(count):
        raise ValueError(
            f"line {number}: {name.decode(errors='replace')} promises {int(count)} "
            f"values and has {len(raw)}"
        )
    return name.decode("utf-8"), raw.astype(np.float32)


def write_wts(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write `arrays` to `path`, flattened, as float32."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{len(arrays)}\n")
        for name, array in arrays.items():
            digits = array.astype(">f4").tobytes().hex(" ", 4)
            file.write(f"{name} {array.size}{' ' if digits else ''}{digits}\n")
