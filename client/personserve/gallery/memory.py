"""Galleries in this process, searched exactly."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from personserve._results import EmbeddingSource, FloatArray
from personserve._results.html import render_table, render_warning
from personserve._results.person import MAX_HTML_ROWS
from personserve.gallery.backend import Payloads
from personserve.gallery.base import BaseGallery
from personserve.gallery.filters import Filter
from personserve.gallery.matches import Entry, Match
from personserve.gallery.rows import GrowingArray, PeopleTable, Rows

if TYPE_CHECKING:
    from typing_extensions import Self

Ranking = tuple[npt.NDArray[np.float32], Rows]
"""Similarities of the best rows in descending order, and the rows."""


class LocalGallery(BaseGallery):
    """Known people in this process: a table of ids and payloads beside the vectors.

    Of equal similarities, the person that was added first comes first. Several threads
    may search at once; adding and removing need a lock of the caller's.
    """

    def __init__(self) -> None:
        self._people = PeopleTable()
        self._dimension: int | None = None
        self._source: EmbeddingSource | None = None

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a gallery from a file that `save` wrote.

        Args:
            path: The file.

        Returns:
            A new gallery.

        Raises:
            GalleryError: The file is not a gallery.
        """
        return cls().add_from(path)

    @property
    def source(self) -> EmbeddingSource | None:
        """Model and weights of the embeddings; None for arrays or an empty gallery."""
        return self._source if len(self) else None

    @property
    def dimension(self) -> int | None:
        """Number of values in an embedding; None until the first person is added."""
        return self._dimension

    def __len__(self) -> int:
        return len(self._people)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._people

    def entries(self) -> Iterator[Entry]:
        """Return an iterator over all people, in the order of adding."""
        for row, name in enumerate(self._people.ids):
            yield Entry(name, self._vector(row), dict(self._people.payloads[row]))

    def _repr_html_(self) -> str:
        source = self.source
        stand_ins = (source.model,) if source is not None and source.untrained else ()
        entries = list(islice(self.entries(), MAX_HTML_ROWS))
        caption = self._describe()
        if len(self) > len(entries):
            caption += f"; the first {len(entries)} of {len(self)} are shown"
        names = list(dict.fromkeys(name for e in entries for name in e.payload))
        rows = [
            [entry.id, *(str(entry.payload.get(name, "")) for name in names)]
            for entry in entries
        ]
        table = render_table(["id", *names], rows, caption)
        return render_warning(stand_ins) + table

    def _is_empty(self) -> bool:
        return len(self) == 0

    def _existing(self, names: Sequence[str]) -> Iterator[str]:
        return (name for name in names if name in self._people)

    def _insert(
        self,
        names: Sequence[str],
        vectors: FloatArray,
        payloads: Payloads,
        source: EmbeddingSource | None,
    ) -> None:
        self._delete(list(self._existing(names)))
        self._source = source
        self._dimension = vectors.shape[1]
        self._append_vectors(vectors)
        self._people.append(names, payloads)

    def _delete(self, names: Sequence[str]) -> None:
        self._delete_rows(self._people.rows_of(names))

    def _delete_where(self, where: Filter) -> int:
        rows = self._people.select(where)
        self._delete_rows(rows)
        return len(rows)

    def _delete_rows(self, rows: Rows) -> None:
        if len(rows):
            self._delete_vectors(rows)
            self._people.delete(rows)

    def _query(
        self, vectors: FloatArray, count: int, wheres: Sequence[Filter | None]
    ) -> list[list[Match]]:
        source = self._source
        stand_ins = (source.model,) if source is not None and source.untrained else ()
        results: list[list[Match]] = [[] for _ in vectors]
        # people with the same filter are searched for together
        for where in {id(each): each for each in wheres}.values():
            queries = [n for n, each in enumerate(wheres) if each is where]
            rows = None if where is None else self._people.select(where)
            limit = min(count, len(self) if rows is None else len(rows))
            if limit == 0:
                continue
            ranked = self._rank(vectors[queries], limit, rows)
            for query, (similarities, best) in zip(queries, ranked, strict=True):
                results[query] = [
                    Match(
                        self._people.ids[row],
                        similarity,
                        stand_in_weights=stand_ins,
                        payload=dict(self._people.payloads[row]),
                    )
                    for similarity, row in zip(
                        similarities.tolist(), best.tolist(), strict=True
                    )
                ]
        return results

    @abstractmethod
    def _append_vectors(self, vectors: FloatArray) -> None:
        """Add vectors [N, D] after the last row."""

    @abstractmethod
    def _delete_vectors(self, rows: Rows) -> None:
        """Remove rows; those after them move up."""

    @abstractmethod
    def _vector(self, row: int) -> FloatArray:
        """Return a copy of one vector [D]."""

    @abstractmethod
    def _rank(
        self, vectors: FloatArray, count: int, rows: Rows | None
    ) -> Iterator[Ranking]:
        """Yield the `count` best of the rows, None for all, for each vector."""


class MemoryGallery(LocalGallery):
    """Known people in this process, searched with NumPy; needs no other package.

    A search compares with everyone, which takes about 40 ms for 100,000 people with
    512 values. For more of them, `Gallery` uses all cores, and `QdrantGallery` an
    index.
    """

    def __init__(self) -> None:
        super().__init__()
        self._vectors: GrowingArray | None = None

    @property
    def _values(self) -> npt.NDArray[Any]:
        return np.empty((0, 0)) if self._vectors is None else self._vectors.values

    def _append_vectors(self, vectors: FloatArray) -> None:
        if self._vectors is None:
            self._vectors = GrowingArray((vectors.shape[1],), np.float32)
        self._vectors.append(vectors)

    def _delete_vectors(self, rows: Rows) -> None:
        if self._vectors is not None:
            self._vectors.delete(rows)

    def _vector(self, row: int) -> FloatArray:
        vector: FloatArray = self._values[row].copy()
        return vector

    def _rank(
        self, vectors: FloatArray, count: int, rows: Rows | None
    ) -> Iterator[Ranking]:
        known = self._values if rows is None else self._values[rows]
        for vector in vectors:
            # BLAS would be twice as fast, but its last digits depend on the position of
            # a row and on the number of queries, so that equals would change places
            similarities = np.einsum("nd,d->n", known, vector)
            best = _best_of(similarities, count)
            yield similarities[best], best if rows is None else rows[best]


def _best_of(similarities: npt.NDArray[np.float32], count: int) -> Rows:
    """Return the indices of the largest values, descending; of equals the first."""
    limit = np.partition(similarities, len(similarities) - count)[-count]
    better = np.flatnonzero(similarities > limit)
    equal = np.flatnonzero(similarities == limit)[: count - len(better)]
    best = np.concatenate([better, equal])
    ranked: Rows = best[np.lexsort((best, -similarities[best]))]
    return ranked
