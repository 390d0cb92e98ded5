"""A gallery in this process, searched exactly by FAISS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from personserve._errors import InvalidInputError
from personserve._results import FloatArray
from personserve.gallery.memory import LocalGallery, Ranking
from personserve.gallery.rows import Rows


class Gallery(LocalGallery):
    """Known people in this process, searched with FAISS (`personserve[gallery]`).

    Of equal similarities, the person that was added first comes first. Several threads
    may search at once; adding and removing need a lock of the caller's.
    """

    def __init__(self) -> None:
        try:
            import faiss
        except ImportError as exc:
            raise InvalidInputError(
                "a Gallery needs FAISS: pip install faiss-cpu (the extra `gallery` of "
                "personserve); a MemoryGallery needs no other package"
            ) from exc
        super().__init__()
        self._faiss: Any = faiss
        self._index: Any = None

    def _append_vectors(self, vectors: FloatArray) -> None:
        if self._index is None:
            # a flat index closes the gaps of removed vectors, so that its rows are
            # those of the table
            self._index = self._faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def _delete_vectors(self, rows: Rows) -> None:
        self._index.remove_ids(rows)

    def _vector(self, row: int) -> FloatArray:
        return np.asarray(self._index.reconstruct(row), np.float32)

    def _rank(
        self, vectors: FloatArray, count: int, rows: Rows | None
    ) -> Iterator[Ranking]:
        params = None
        if rows is not None:
            chosen = np.zeros(self._index.ntotal, bool)
            chosen[rows] = True
            selector = self._faiss.IDSelectorBitmap(
                np.packbits(chosen, bitorder="little")
            )
            params = self._faiss.SearchParameters(sel=selector)
        for values, best in zip(
            *self._index.search(vectors, count, params=params), strict=True
        ):
            # FAISS keeps the first of equals, but returns them last first
            order = np.lexsort((best, -values))
            yield values[order], best[order]
