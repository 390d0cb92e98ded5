"""A gallery on a Qdrant server, shared by several processes and machines."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from personserve._errors import InvalidInputError
from personserve._results import EmbeddingSource, FloatArray
from personserve._results.person import model_text
from personserve.gallery.backend import Payloads
from personserve.gallery.base import BaseGallery
from personserve.gallery.filters import Filter
from personserve.gallery.matches import Entry, Match
from personserve.gallery.qdrant_points import (
    OWN_COLLECTION_OPTIONS,
    OWN_VECTOR_OPTIONS,
    PAYLOAD_INDEXES,
    check_options,
    condition_from_filter,
    entry_from_point,
    key_of,
    match_from_point,
    point_id_from_name,
    points_from_people,
    source_of,
)

POINTS_PER_PAGE = 1000
"""Points in one response while everyone is listed."""

VECTORS_PER_REQUEST = 500
"""Vectors in one request. 2,048 values are about 25 KB of JSON, and Qdrant accepts 32
MB."""

T = TypeVar("T")


class QdrantGallery(BaseGallery):
    """Known people in a collection of a Qdrant server (`personserve[qdrant]`).

    The collection is created when the first people are added, with indexes for camera,
    track and time. Several processes may search and add at once; if two of them add the
    same id at the same moment, one of the two embeddings is kept. More than 500 people
    are added in several requests; if one fails, those before it stay. The order of
    equal similarities is Qdrant's own.

    Each point states the model and the weights of its embedding. The threshold is this
    object's; it is not stored on the server.

    A search is one request for up to 500 embeddings. The dimension and the source are
    read once and kept. They are read again after a removal by this object, after a
    request that Qdrant refuses, and after an answer with another source, because then
    another process has deleted or refilled the collection. Adding always reads the
    source from the server.

    Args:
        client: A qdrant_client.QdrantClient. Without it, an in-memory Qdrant inside
            this process is used, for tests and trials.
        collection: Name of the collection.
        vector_options: Further arguments of Qdrant's VectorParams for a new collection,
            for example {"on_disk": True}.
        collection_options: Further arguments of create_collection for a new collection,
            for example {"shard_number": 4, "on_disk_payload": True,
            "quantization_config": models.ScalarQuantization(...)}.
        search_options: Arguments of Qdrant's SearchParams for each search, for example
            {"hnsw_ef": 256}, or {"exact": True} for a search without the index.

    Raises:
        GalleryError: An option that Qdrant's client does not know, or that the gallery
            decides itself: size, distance, collection name and vectors.
    """

    def __init__(
        self,
        client: Any = None,
        collection: str = "people",
        *,
        vector_options: Mapping[str, Any] | None = None,
        collection_options: Mapping[str, Any] | None = None,
        search_options: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import qdrant_client
        except ImportError as exc:
            raise InvalidInputError(
                "a QdrantGallery needs its client: pip install qdrant-client (the "
                "extra `qdrant` of personserve)"
            ) from exc
        self._models = models = qdrant_client.models
        self._vector_options = check_options(
            "vector_options", vector_options, models.VectorParams, OWN_VECTOR_OPTIONS
        )
        self._collection_options = check_options(
            "collection_options",
            collection_options,
            qdrant_client.QdrantClient.create_collection,
            OWN_COLLECTION_OPTIONS,
        )
        options = check_options(
            "search_options", search_options, models.SearchParams, frozenset()
        )
        self._search_params = models.SearchParams(**options) if options else None
        self._client: Any = client or qdrant_client.QdrantClient(":memory:")
        self._collection = collection
        self._dimension: int | None = None
        self._has_people = False
        self._source: EmbeddingSource | None = None

    @property
    def source(self) -> EmbeddingSource | None:
        """Model and weights of the embeddings; None for arrays or an empty gallery."""
        if not self._has_people:
            self._read_source()
        return self._source

    @property
    def dimension(self) -> int | None:
        """Number of values in an embedding; None until the first person is added."""
        if self._dimension is None and self._call("collection_exists"):
            description = self._call("get_collection")
            self._dimension = int(description.config.params.vectors.size)
        return self._dimension

    def __len__(self) -> int:
        if self.dimension is None:
            return 0
        return int(self._call("count", exact=True).count)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and any(True for _ in self._existing([id_]))

    def __repr__(self) -> str:
        # what is known already: a representation should not wait for a server
        size = "" if self._dimension is None else f", embeddings [{self._dimension}]"
        return f"<QdrantGallery {self._collection!r}{size}{model_text(self._source)}>"

    def entries(self) -> Iterator[Entry]:
        """Return an iterator over all people, in the order of adding."""
        points = sorted(self._points(), key=lambda point: point.payload["added"])
        return (entry_from_point(point) for point in points)

    def _points(self) -> Iterator[Any]:
        offset = None
        while self.dimension is not None:
            points, offset = self._call(
                "scroll",
                limit=POINTS_PER_PAGE,
                offset=offset,
                with_vectors=True,
            )
            yield from points
            if offset is None:
                return

    def _forget(self) -> None:
        """Forget everything read from the server."""
        self._dimension, self._has_people, self._source = None, False, None

    def _read_source(self) -> None:
        """Read the first point, which has the source of all."""
        self._has_people, self._source = False, None
        if self.dimension is not None:
            points, _ = self._call("scroll", limit=1, with_payload=["source"])
            for point in points:
                self._has_people, self._source = True, source_of(point)

    def _is_empty(self) -> bool:
        # asked before people are added: another process may have removed everyone
        self._read_source()
        return not self._has_people

    def _refresh(self) -> bool:
        self._forget()
        return True

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the client for this collection."""
        try:
            return getattr(self._client, method)(self._collection, *args, **kwargs)
        except Exception:
            self._forget()  # perhaps another process has deleted the collection
            raise

    def _existing(self, names: Sequence[str]) -> Iterator[str]:
        if self.dimension is None:
            return
        for page in _pages(names, POINTS_PER_PAGE):
            points = [point_id_from_name(name) for name in page]
            for point in self._call("retrieve", points, with_payload=["id"]):
                yield point.payload["id"]

    def _insert(
        self,
        names: Sequence[str],
        vectors: FloatArray,
        payloads: Payloads,
        source: EmbeddingSource | None,
    ) -> None:
        if self.dimension is None:
            self._create_collection(vectors.shape[1])
        people = points_from_people(self._models, names, vectors, payloads, source)
        for page in _pages(people, VECTORS_PER_REQUEST):
            self._call("upsert", page, wait=True)
        self._has_people, self._source = True, source

    def _create_collection(self, dimension: int) -> None:
        vectors = self._models.VectorParams(
            size=dimension,
            distance=self._models.Distance.COSINE,
            **self._vector_options,
        )
        self._call(
            "create_collection", vectors_config=vectors, **self._collection_options
        )
        self._dimension = dimension
        with warnings.catch_warnings():
            # the Qdrant inside this process has no indexes
            warnings.filterwarnings("ignore", "Payload indexes have no effect")
            for name, kind in PAYLOAD_INDEXES.items():
                self._call(
                    "create_payload_index", key_of(name), field_schema=kind, wait=True
                )

    def _delete(self, names: Sequence[str]) -> None:
        for page in _pages(names, POINTS_PER_PAGE):
            selector = self._models.PointIdsList(
                points=[point_id_from_name(name) for name in page]
            )
            self._call("delete", selector, wait=True)
        self._has_people, self._source = False, None  # perhaps nobody is left

    def _delete_where(self, where: Filter) -> int:
        condition = condition_from_filter(self._models, where)
        counted = self._call("count", condition, exact=True)
        if counted.count:
            selector = self._models.FilterSelector(filter=condition)
            self._call("delete", selector, wait=True)
            self._has_people, self._source = False, None
        return int(counted.count)

    def _query(
        self, vectors: FloatArray, count: int, wheres: Sequence[Filter | None]
    ) -> list[list[Match]]:
        requests = (
            self._models.QueryRequest(
                query=vector.tolist(),
                limit=count,
                with_payload=True,
                filter=condition_from_filter(self._models, where),
                params=self._search_params,
            )
            for vector, where in zip(vectors, wheres, strict=True)
        )
        results = []
        for page in _pages(requests, VECTORS_PER_REQUEST):
            for response in self._call("query_batch_points", page):
                for point in response.points:
                    self._has_people, self._source = True, source_of(point)
                results.append([match_from_point(point) for point in response.points])
        return results


def _pages(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of up to `size` values."""
    rest = iter(values)
    while page := list(islice(rest, size)):
        yield page
