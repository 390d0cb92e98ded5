"""People of a gallery in this process: rows of arrays, in the order of adding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve.gallery.filters import Filter
from personserve.gallery.matches import PayloadValue
from personserve.gallery.payloads import CAMERA, TIME, TRACK

MIN_CAPACITY = 16
"""Rows of the first allocation of a growing array."""

Rows = npt.NDArray[np.int64]
"""Indices of rows, ascending."""


class GrowingArray:
    """An array whose first axis grows.

    Its memory doubles when it is full, so that adding one row does not copy all.

    Args:
        shape: Shape of one row.
        dtype: Data type.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._memory = np.empty((0, *shape), dtype)
        self._count = 0

    @property
    def values(self) -> npt.NDArray[Any]:
        """View of the rows."""
        return self._memory[: self._count]

    def append(self, rows: npt.ArrayLike) -> None:
        """Add rows at the end.

        Args:
            rows: The rows, [N, *shape].
        """
        added = np.asarray(rows, self._memory.dtype)
        count = self._count + len(added)
        if count > len(self._memory):
            capacity = max(count, 2 * len(self._memory), MIN_CAPACITY)
            memory = np.empty((capacity, *self._memory.shape[1:]), self._memory.dtype)
            memory[: self._count] = self.values
            self._memory = memory
        self._memory[self._count : count] = added
        self._count = count

    def delete(self, rows: Rows) -> None:
        """Remove rows. Memory that is mostly unused afterwards is released.

        Args:
            rows: Indices of the rows.
        """
        rest = np.delete(self.values, rows, axis=0)
        self._count = len(rest)
        if len(self._memory) > max(4 * self._count, MIN_CAPACITY):
            self._memory = rest
        else:
            self._memory[: self._count] = rest


class PeopleTable:
    """Ids and payloads, with a column for each value that filters often use."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.payloads: list[dict[str, PayloadValue]] = []
        self._rows: dict[str, int] = {}
        self._times = GrowingArray((), np.float64)
        self._columns = {CAMERA: _TextColumn(), TRACK: _TextColumn()}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._rows

    def append(
        self, ids: Sequence[str], payloads: Sequence[Mapping[str, PayloadValue]]
    ) -> None:
        """Add people at the end.

        Args:
            ids: Their ids, which are not in the table.
            payloads: The payload of each.
        """
        first = len(self.ids)
        self._rows.update((name, first + index) for index, name in enumerate(ids))
        self.ids.extend(ids)
        self.payloads.extend(dict(payload) for payload in payloads)
        # a comparison with NaN is false, so a person without a time is in no interval
        self._times.append([float(p.get(TIME, np.nan)) for p in payloads])
        for name, column in self._columns.items():
            column.append([payload.get(name) for payload in payloads])

    def delete(self, rows: Rows) -> None:
        """Remove people; the rows after them move up.

        Args:
            rows: Indices of their rows.
        """
        removed = set(rows.tolist())
        kept = [row for row in range(len(self.ids)) if row not in removed]
        self.ids = [self.ids[row] for row in kept]
        self.payloads = [self.payloads[row] for row in kept]
        self._rows = {name: row for row, name in enumerate(self.ids)}
        self._times.delete(rows)
        for column in self._columns.values():
            column.delete(rows)

    def rows_of(self, ids: Sequence[str]) -> Rows:
        """Return the rows of people, ascending.

        Args:
            ids: Ids in the table; one that is repeated counts once.
        """
        return np.array(sorted({self._rows[name] for name in ids}), np.int64)

    def select(self, where: Filter) -> Rows:
        """Return the rows of the people who meet a filter.

        Args:
            where: The filter.
        """
        chosen = np.ones(len(self.ids), bool)
        since_s, until_s = where.interval_s
        if since_s is not None:
            chosen &= self._times.values >= since_s
        if until_s is not None:
            chosen &= self._times.values < until_s
        for name, texts in where.wanted.items():
            chosen &= self._columns[name].is_one_of(texts)
        if where.unwanted_cameras:
            chosen &= ~self._columns[CAMERA].is_one_of(where.unwanted_cameras)
        rows = np.flatnonzero(chosen)
        if where.equals:
            equals = where.equals.items()
            rows = rows[
                [
                    all(_are_equal(self.payloads[row].get(k), v) for k, v in equals)
                    for row in rows.tolist()
                ]
            ]
        return rows.astype(np.int64)


class _TextColumn:
    """Texts as numbers, which compare faster; None is -1."""

    def __init__(self) -> None:
        self._numbers: dict[PayloadValue, int] = {}
        self._codes = GrowingArray((), np.int32)

    def append(self, texts: Sequence[PayloadValue | None]) -> None:
        numbers = self._numbers
        self._codes.append(
            [
                -1 if text is None else numbers.setdefault(text, len(numbers))
                for text in texts
            ]
        )

    def delete(self, rows: Rows) -> None:
        self._codes.delete(rows)
        used = set(np.unique(self._codes.values).tolist())
        if len(self._numbers) > 2 * len(used) + MIN_CAPACITY:
            self._renumber()

    def _renumber(self) -> None:
        """Forget unused texts, so that expired tracks take no memory."""
        texts: dict[int, PayloadValue] = {n: text for text, n in self._numbers.items()}
        column = [None if n < 0 else texts[n] for n in self._codes.values.tolist()]
        self._numbers, self._codes = {}, GrowingArray((), np.int32)
        self.append(column)

    def is_one_of(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        numbers = [self._numbers[text] for text in texts if text in self._numbers]
        return np.isin(self._codes.values, numbers)


def _are_equal(one: PayloadValue | None, other: PayloadValue) -> bool:
    """Compare as JSON does, where 1 and true differ."""
    return type(one) is type(other) and one == other
