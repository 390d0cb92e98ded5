"""Known people, searched by embedding: who of them is this?

    gallery = Gallery()
    gallery.add(["anna", "ben"], people.embeddings)
    for match in gallery.search(person, count=3):
        print(match.id, match.similarity)

`Gallery` holds everything in this process (FAISS, exact); `QdrantGallery` has the same
methods on a Qdrant server, for several machines. The most alike come first; of equals,
the one that was added first.
"""

from __future__ import annotations

import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve._files import atomic_write
from personserve._results import FloatArray, Person

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = "personserve gallery 1"
SAME = 6
"""Decimals beyond which similarities count as equal: rounding differs with the number
of people that are compared at once."""

PAGE = 1000

Embeddings = npt.ArrayLike
"""FP32 [N, D], or [D] for one."""


@dataclass(frozen=True)
class Match:
    """A known person and the cosine similarity to whom was asked for, -1 to 1."""

    id: str
    similarity: float


class GalleryError(InvalidInputError):
    """Ids or embeddings that a gallery cannot take, or a file that is none."""


class BaseGallery(ABC):
    """What every gallery does."""

    @property
    @abstractmethod
    def dimension(self) -> int | None:
        """Numbers in an embedding; None as long as nobody was added."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, id_: object) -> bool: ...

    def add(self, ids: Sequence[str], embeddings: Embeddings) -> None:
        """Add people; all of them, or none. Embeddings [N, D] get unit length.

        Raises GalleryError for an id that is there already, or twice, and for
        embeddings of another size, of no length, or not finite.
        """
        names = [ids] if isinstance(ids, str) else list(ids)
        vectors = self._vectors(embeddings)
        if len(names) != len(vectors):
            raise GalleryError(f"{len(names)} ids for {len(vectors)} embeddings")
        seen: set[str] = set()
        for name in names:
            if not isinstance(name, str) or not name:
                raise GalleryError(f"id {name!r}: expected a text")
            if name in seen:
                raise GalleryError(f"id {name!r} is given twice")
            seen.add(name)
        for name in self._known(names):
            raise GalleryError(f"id {name!r} is there already; remove it first")
        if names:
            self._add(names, vectors)

    def search(
        self,
        who: Person | Embeddings,
        count: int = 5,
        *,
        min_similarity: float = -1.0,
    ) -> list[Match]:
        """Up to `count` known people most alike `who`, a person or an embedding [D],
        none less than `min_similarity`. An empty gallery knows nobody.
        """
        embedding = who.embedding if isinstance(who, Person) else np.asarray(who)
        if np.ndim(embedding) != 1:
            raise GalleryError(
                f"search: expected one embedding [D], got {list(np.shape(embedding))}; "
                "search_all takes several"
            )
        return self.search_all(embedding, count, min_similarity=min_similarity)[0]

    def search_all(
        self,
        embeddings: Embeddings,
        count: int = 5,
        *,
        min_similarity: float = -1.0,
    ) -> list[list[Match]]:
        """`search` for each of `embeddings` [N, D]."""
        if count < 1:
            raise GalleryError(f"count {count}: expected at least 1")
        vectors = self._vectors(embeddings)
        if len(self) == 0:
            return [[] for _ in vectors]
        return [
            self._ranked(vector, found, count, min_similarity)
            for vector, found in zip(
                vectors, self._nearest(vectors, count + 1), strict=True
            )
        ]

    @abstractmethod
    def remove(self, ids: Iterable[str]) -> None:
        """Forget people. Raises GalleryError, and forgets nobody, for unknown ids."""

    @abstractmethod
    def items(self) -> Iterator[tuple[str, FloatArray]]:
        """(id, embedding [D]) of everyone, in the order they were added."""

    def save(self, path: Path | str) -> None:
        """Write everyone to `path`, whole or not at all."""
        items = list(self.items())
        arrays: dict[str, npt.NDArray[Any]] = {
            "format": np.array(FORMAT),
            "ids": np.array([name for name, _ in items], np.str_),
            "embeddings": np.array([vector for _, vector in items], np.float32),
        }
        with atomic_write(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def add_from(self, path: Path | str) -> Self:
        """Add everyone whom `save` wrote to `path`; the gallery itself. No pickles.

        Raises GalleryError where the file is none.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                if str(data["format"]) != FORMAT:
                    raise GalleryError(f"{path}: not a gallery of this version")
                ids, embeddings = data["ids"].tolist(), data["embeddings"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
            if isinstance(exc, GalleryError):
                raise
            raise GalleryError(f"{path}: not a saved gallery ({exc})") from exc
        if ids:
            self.add(ids, embeddings)
        return self

    @abstractmethod
    def _known(self, names: Sequence[str]) -> Iterator[str]:
        """Those of `names` that are there."""

    @abstractmethod
    def _add(self, names: Sequence[str], vectors: FloatArray) -> None: ...

    @abstractmethod
    def _nearest(
        self, vectors: FloatArray, count: int
    ) -> list[list[tuple[int, str, float]]]:
        """For each of `vectors` the nearest (number, id, similarity), in any order;
        numbers grow with each that is added.
        """

    @abstractmethod
    def _within(
        self, vector: FloatArray, similarity: float
    ) -> list[tuple[int, str, float]]:
        """Everyone at least so alike."""

    def _ranked(
        self,
        vector: FloatArray,
        found: list[tuple[int, str, float]],
        count: int,
        min_similarity: float,
    ) -> list[Match]:
        order = sorted(found, key=_rank)
        # equals that straddle the end: which of them is first, only all can tell
        if len(order) > count and _rank(order[count - 1])[0] == _rank(order[count])[0]:
            least = order[count][2] - 10.0**-SAME
            order = sorted(self._within(vector, least), key=_rank)
        return [
            Match(name, similarity)
            for _, name, similarity in order[:count]
            if similarity >= min_similarity
        ]

    def _vectors(self, embeddings: Embeddings) -> FloatArray:
        vectors = np.atleast_2d(np.asarray(embeddings, np.float32))
        expected = self.dimension or vectors.shape[-1]
        if vectors.ndim != 2 or vectors.shape[1] != expected:
            raise GalleryError(
                f"embeddings: expected [N, {expected}], got {list(vectors.shape)}"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        bad = ~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)
        if bad.any():
            raise GalleryError(
                f"embedding {int(np.argmax(bad))} has no direction (zero or not finite)"
            )
        return np.asarray(vectors / lengths, np.float32)


def _rank(found: tuple[int, str, float]) -> tuple[float, int]:
    number, _, similarity = found
    return -round(similarity, SAME), number


class Gallery(BaseGallery):
    """People in this process, searched exactly by FAISS (`personserve[gallery]`)."""

    def __init__(self) -> None:
        try:
            import faiss
        except ImportError as exc:
            raise InvalidInputError(
                'a Gallery needs FAISS: pip install "personserve[gallery]"'
            ) from exc
        self._faiss = faiss
        self._index: Any = None
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._next = 0

    @classmethod
    def load(cls, path: Path | str) -> Gallery:
        """What `save` wrote. Raises GalleryError."""
        return cls().add_from(path)

    @property
    def dimension(self) -> int | None:
        return None if self._index is None else int(self._index.d)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._numbers

    def remove(self, ids: Iterable[str]) -> None:
        names = [ids] if isinstance(ids, str) else list(ids)
        for name in names:
            if name not in self._numbers:
                raise GalleryError(f"id {name!r} is not there")
        numbers = np.array([self._numbers[name] for name in set(names)], np.int64)
        if len(numbers):
            self._index.remove_ids(numbers)
        for name in set(names):
            del self._names[self._numbers.pop(name)]

    def items(self) -> Iterator[tuple[str, FloatArray]]:
        for name, number in self._numbers.items():
            yield name, np.asarray(self._index.reconstruct(number), np.float32)

    def _known(self, names: Sequence[str]) -> Iterator[str]:
        return (name for name in names if name in self._numbers)

    def _add(self, names: Sequence[str], vectors: FloatArray) -> None:
        if self._index is None:
            flat = self._faiss.IndexFlatIP(vectors.shape[1])
            self._index = self._faiss.IndexIDMap2(flat)
        numbers = np.arange(self._next, self._next + len(names), dtype=np.int64)
        self._index.add_with_ids(vectors, numbers)
        self._next += len(names)
        self._numbers.update(zip(names, numbers.tolist(), strict=True))
        self._names.update(zip(numbers.tolist(), names, strict=True))

    def _nearest(
        self, vectors: FloatArray, count: int
    ) -> list[list[tuple[int, str, float]]]:
        similarities, numbers = self._index.search(vectors, min(count, len(self)))
        return [
            [(int(n), self._names[int(n)], float(s)) for s, n in zip(*row, strict=True)]
            for row in zip(similarities, numbers, strict=True)
        ]

    def _within(
        self, vector: FloatArray, similarity: float
    ) -> list[tuple[int, str, float]]:
        _, values, numbers = self._index.range_search(vector[None], similarity)
        return [
            (int(n), self._names[int(n)], float(s))
            for s, n in zip(values, numbers, strict=True)
        ]


class QdrantGallery(BaseGallery):
    """People on a Qdrant server (`personserve[qdrant]`), in `collection`, which is made
    when the first are added. `client` is a qdrant_client.QdrantClient; without one, a
    server inside this process, for trying out.

    Several processes may search and add at once; two that add the same id at the same
    moment end with one of the two.
    """

    def __init__(self, client: Any = None, collection: str = "people") -> None:
        try:
            import qdrant_client
        except ImportError as exc:
            raise InvalidInputError(
                'a QdrantGallery needs its client: pip install "personserve[qdrant]"'
            ) from exc
        self._models = qdrant_client.models
        self._client: Any = client or qdrant_client.QdrantClient(":memory:")
        self._collection = collection

    @property
    def dimension(self) -> int | None:
        if not self._client.collection_exists(self._collection):
            return None
        described = self._client.get_collection(self._collection)
        return int(described.config.params.vectors.size)

    def __len__(self) -> int:
        if self.dimension is None:
            return 0
        return int(self._client.count(self._collection, exact=True).count)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and any(True for _ in self._known([id_]))

    def remove(self, ids: Iterable[str]) -> None:
        names = [ids] if isinstance(ids, str) else list(ids)
        known = set(self._known(names))
        for name in names:
            if name not in known:
                raise GalleryError(f"id {name!r} is not there")
        if names:
            self._client.delete(
                self._collection,
                self._models.PointIdsList(points=[_point(name) for name in names]),
                wait=True,
            )

    def items(self) -> Iterator[tuple[str, FloatArray]]:
        found = sorted(self._points(), key=lambda point: point.payload["number"])
        for point in found:
            yield point.payload["id"], np.asarray(point.vector, np.float32)

    def _points(self) -> Iterator[Any]:
        offset = None
        while self.dimension is not None:
            points, offset = self._client.scroll(
                self._collection, limit=PAGE, offset=offset, with_vectors=True
            )
            yield from points
            if offset is None:
                return

    def _known(self, names: Sequence[str]) -> Iterator[str]:
        if self.dimension is None:
            return
        points = [_point(name) for name in names]
        for point in self._client.retrieve(self._collection, points):
            yield point.payload["id"]

    def _add(self, names: Sequence[str], vectors: FloatArray) -> None:
        if self.dimension is None:
            self._client.create_collection(
                self._collection,
                vectors_config=self._models.VectorParams(
                    size=vectors.shape[1], distance=self._models.Distance.COSINE
                ),
            )
        first = time.time_ns()  # grows on all machines, without asking for the largest
        self._client.upsert(
            self._collection,
            [
                self._models.PointStruct(
                    id=_point(name),
                    vector=vector.tolist(),
                    payload={"id": name, "number": first + index},
                )
                for index, (name, vector) in enumerate(zip(names, vectors, strict=True))
            ],
            wait=True,
        )

    def _nearest(
        self, vectors: FloatArray, count: int
    ) -> list[list[tuple[int, str, float]]]:
        return [self._queried(vector, limit=count) for vector in vectors]

    def _within(
        self, vector: FloatArray, similarity: float
    ) -> list[tuple[int, str, float]]:
        return self._queried(vector, limit=len(self), score_threshold=similarity)

    def _queried(self, vector: FloatArray, **how: Any) -> list[tuple[int, str, float]]:
        found = self._client.query_points(self._collection, vector.tolist(), **how)
        return [(p.payload["number"], p.payload["id"], p.score) for p in found.points]


def _point(name: str) -> str:
    """Qdrant's ids are UUIDs."""
    return str(uuid5(NAMESPACE_OID, name))
