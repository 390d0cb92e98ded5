"""Inspection of a torch checkpoint's pickle before torch's unpickler executes it.

torch's weights_only unpickler runs no foreign code, but it executes every operation
that the file lists. Tuples that contain themselves by reference double in size with
each operation, and computing the hash of one with 60 levels never ends.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pickle import UnpicklingError
from typing import BinaryIO

MAX_OPERATIONS = 1_000_000
"""A hundred operations for each array; torch.save writes 30 to 40."""

MAX_PICKLE_BYTES = 64 << 20
"""Largest pickle beside the values: 64 bytes for each operation."""

MAX_TUPLE_VALUES = 4096
"""Most values in a tuple with all that it contains. torch.save writes up to 20, and the
state of a random generator has 627."""

LEGACY_PICKLES = 5
"""Magic number, protocol, system, objects and storage keys (before PyTorch 1.6)."""

CONSTANTS = frozenset(
    {
        "GLOBAL",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "EMPTY_TUPLE",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "EMPTY_SET",
        "BININT",
        "BININT1",
        "BININT2",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINSTRING",
        "LONG1",
    }
)
"""Operations that push one value."""

TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
"""Operations that replace this number of values by a tuple."""

CALLS = {
    "NEWOBJ": 2,
    "REDUCE": 2,
    "BUILD": 2,
    "APPEND": 2,
    "SETITEM": 3,
    "BINPERSID": 1,
}
"""Operations that replace this number of values by an object."""


def scan_pickles(file: BinaryIO, count: int = 1) -> None:
    """Check that torch can unpickle a file in bounded time and memory.

    Args:
        file: The file, at the start of the first pickle.
        count: Number of pickles that follow each other.

    Raises:
        UnpicklingError: If torch does not know an operation, the pickle is damaged, or
            a limit is exceeded.
    """
    operations = 0
    try:
        for _ in range(count):
            stack = _SizeStack()
            for operation, argument, _position in pickletools.genops(file):
                operations += 1
                if operations > MAX_OPERATIONS:
                    raise UnpicklingError(f"over {MAX_OPERATIONS:,} operations")
                stack.apply(operation.name, argument)
    except (IndexError, KeyError, ValueError) as exc:
        raise UnpicklingError(f"damaged pickle: {exc}") from exc


class _SizeStack:
    """The stack of an unpickler, with the size of each value instead of the value."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[object, int] = {}

    def apply(self, name: str, argument: object) -> None:
        """Apply the effect of the operation `name`."""
        if name in CONSTANTS:
            self._sizes.append(1)
        elif name in TUPLES:
            self._push_tuple(self._pop(TUPLES[name]))
        elif name in CALLS:
            self._pop(CALLS[name])
            self._sizes.append(1)
        elif name in MARKED:
            MARKED[name](self)
        elif name in {"BINGET", "LONG_BINGET"}:
            self._sizes.append(self._memo[argument])
        elif name in {"BINPUT", "LONG_BINPUT"}:
            self._memo[argument] = self._sizes[-1]
        elif name not in {"PROTO", "STOP"}:
            raise UnpicklingError(f"the operation {name}")

    def mark(self) -> None:
        self._marks.append(len(self._sizes))

    def pop_mark(self) -> list[int]:
        return self._pop(len(self._sizes) - self._marks.pop())

    def push_marked_tuple(self) -> None:
        self._push_tuple(self.pop_mark())

    def _push_tuple(self, items: list[int]) -> None:
        size = 1 + sum(items)
        if size > MAX_TUPLE_VALUES:
            raise UnpicklingError(f"a tuple of over {MAX_TUPLE_VALUES} values")
        self._sizes.append(size)

    def _pop(self, count: int) -> list[int]:
        start = len(self._sizes) - count
        if start < 0 or count < 0:
            raise UnpicklingError("an operation without its arguments")
        items = self._sizes[start:]
        del self._sizes[start:]
        return items


MARKED: dict[str, Callable[[_SizeStack], object]] = {
    "MARK": _SizeStack.mark,
    "TUPLE": _SizeStack.push_marked_tuple,
    "APPENDS": _SizeStack.pop_mark,
    "SETITEMS": _SizeStack.pop_mark,
}
"""Operations on all values since the last mark."""
