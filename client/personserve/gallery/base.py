"""The methods that every gallery has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from personserve._results import (
    EmbeddingSource,
    FloatArray,
    People,
    Person,
)
from personserve._results.html import describe_untrained
from personserve._results.person import model_text
from personserve.gallery.backend import Backend, Payloads
from personserve.gallery.files import GalleryFile
from personserve.gallery.filters import Filter
from personserve.gallery.matches import GalleryError, Match
from personserve.gallery.payloads import (
    Payload,
    normalise_payloads,
    seconds_from_time,
)
from personserve.gallery.vectors import Embeddings, split_source

if TYPE_CHECKING:
    from typing_extensions import Self


class BaseGallery(Backend):
    """Known people: ids, embeddings of unit length, and a payload for each.

    Ids are unique. A call that is refused changes nothing. A payload says where and
    when a person was seen (see Payload); searches filter by it.

    A gallery of People knows the model and the weights of its embeddings, and refuses
    people of others: similarities between them have no meaning. Plain arrays have no
    such source. They are taken on trust, and a gallery of arrays takes everything.
    """

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.items())

    def add(
        self,
        ids: str | Sequence[str],
        embeddings: Embeddings,
        payload: Payload | Sequence[Payload] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Add people: all of them, or none if one is refused.

        Args:
            ids: One non-empty string for each person.
            embeddings: A Person or People; or numbers [N, D], which are scaled to unit
                length.
            payload: What to store with them, for example
                {"camera": "entrance", "time_s": 12.5, "track": 3}: one mapping for all,
                or one for each.
            replace: Whether people whose id is in the gallery already are replaced,
                with their payload. They are refused otherwise.

        Raises:
            GalleryError: An id that is empty, given twice or already there; embeddings
                of another size, of length zero, or not finite; people of another model
                or other weights than those in the gallery; or an invalid payload.
        """
        names = list_from_ids(ids)
        values, source = split_source(embeddings)
        payloads = normalise_payloads(payload, len(names))
        self._add(names, values, payloads, source, replace=replace)

    def _add(
        self,
        names: list[str],
        embeddings: Any,
        payloads: Payloads,
        source: EmbeddingSource | None,
        *,
        replace: bool = False,
    ) -> None:
        vectors = self._normalise(embeddings)
        if len(names) != len(vectors):
            raise GalleryError(f"{len(names)} ids for {len(vectors)} embeddings")
        seen: set[str] = set()
        for name in names:
            if not isinstance(name, str) or not name:
                raise GalleryError(f"id {name!r}: expected a non-empty string")
            if name in seen:
                raise GalleryError(f"duplicate id {name!r}")
            seen.add(name)
        if not replace:
            for name in self._existing(names):
                raise GalleryError(
                    f"id {name!r} is already in the gallery; remove it first, or add "
                    "with replace=True"
                )
        # arrays in a gallery of people are taken for its own; people in one of arrays
        # do not tell where the arrays came from
        is_first = bool(names) and self._is_empty()
        self._require_source(source)
        if names:
            origin = source if is_first else self.source
            self._insert(names, vectors, payloads, origin)

    @overload
    def search(
        self,
        query: People,
        count: int = 5,
        *,
        min_similarity: float = -1.0,
        where: Filter | None = None,
    ) -> list[list[Match]]: ...
    @overload
    def search(
        self,
        query: Person | npt.ArrayLike,
        count: int = 5,
        *,
        min_similarity: float = -1.0,
        where: Filter | None = None,
    ) -> list[Match]: ...
    def search(
        self,
        query: Person | People | npt.ArrayLike,
        count: int = 5,
        *,
        min_similarity: float = -1.0,
        where: Filter | None = None,
    ) -> list[Match] | list[list[Match]]:
        """Find the known people most similar to one person, or to each of a frame.

        Args:
            query: A person, an embedding [D], or People.
            count: Return at most this many matches.
            min_similarity: Leave out matches with a lower cosine similarity.
            where: Search only among people who meet this filter.

        Returns:
            Matches in descending order of similarity; none from an empty gallery. For
            People, a list of matches for each.

        Raises:
            GalleryError: Not one embedding of the gallery's dimension, a `count` below
                1, or people of another model or other weights than the gallery's.
        """
        if isinstance(query, People):
            return self.search_all(
                query, count, min_similarity=min_similarity, where=where
            )
        if not isinstance(query, Person) and np.ndim(np.asarray(query)) != 1:
            raise GalleryError(
                f"search: expected one embedding [D], got {list(np.shape(query))}; "
                "search_all takes several"
            )
        (matches,) = self.search_all(
            query, count, min_similarity=min_similarity, where=where
        )
        return matches

    def search_all(
        self,
        embeddings: Embeddings,
        count: int = 5,
        *,
        min_similarity: float = -1.0,
        where: Filter | Sequence[Filter | None] | None = None,
    ) -> list[list[Match]]:
        """Find the known people most similar to each of several, in one request.

        Args:
            embeddings: People, or numbers [N, D].
            count: Return at most this many matches for each embedding.
            min_similarity: Leave out matches with a lower cosine similarity.
            where: Search only among people who meet this filter; or a list with a
                filter, or None, for each embedding.

        Returns:
            N lists as `search` returns them.

        Raises:
            GalleryError: As `search`, or another number of filters than of embeddings.
        """
        if count < 1:
            raise GalleryError(f"count {count}: expected at least 1")
        values, source = split_source(embeddings)
        vectors = self._normalise(values)
        wheres = _list_from_filters(where, len(vectors))
        self._require_source(source)
        if self.dimension is None or not len(vectors):
            return [[] for _ in vectors]
        rows = self._query(vectors, count, wheres)
        # another process may have filled the collection again; the answers tell
        self._require_source(source)
        threshold = None if self._threshold is None else self._threshold.similarity
        return [
            [
                replace(match, threshold=threshold)
                for match in matches
                if match.similarity >= min_similarity
            ]
            for matches in rows
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove people: all of them, or none if an id is unknown.

        Args:
            ids: Ids of people in the gallery.

        Raises:
            GalleryError: An unknown id.
        """
        names = list_from_ids(ids)
        existing = set(self._existing(names))
        for name in names:
            if name not in existing:
                raise GalleryError(f"unknown id {name!r}")
        if names:
            self._delete(names)

    def expire(self, before: float | datetime, *, where: Filter | None = None) -> int:
        """Remove people who were seen before a time.

        Nothing expires by itself: call this where people are added, or regularly.
        People whose payload has no time stay.

        Args:
            before: The time in the seconds of the payload's `time_s`, or a datetime
                with a time zone. People of exactly this time stay.
            where: Remove only people who meet this filter, too; its `until` is
                replaced if it is later.

        Returns:
            The number of people removed.

        Raises:
            GalleryError: Not a time.
        """
        before_s = seconds_from_time(before, "before")
        where = where or Filter()
        _, until_s = where.interval_s
        if until_s is not None:
            before_s = min(before_s, until_s)
        if self.dimension is None:
            return 0
        return self._delete_where(replace(where, until=before_s))

    def items(self) -> Iterator[tuple[str, FloatArray]]:
        """Return an iterator over (id, embedding [D]), in the order of adding."""
        return ((entry.id, entry.embedding) for entry in self.entries())

    def save(self, path: Path | str) -> None:
        """Write everyone to a file, atomically, with payloads, source and threshold.

        Args:
            path: File to write, by convention .npz; its folder is created.
        """
        entries = list(self.entries())
        GalleryFile(
            [entry.id for entry in entries],
            np.array([entry.embedding for entry in entries]),
            [entry.payload for entry in entries],
            self.source,
            self.threshold,
        ).write(Path(path))

    def add_from(self, path: Path | str) -> Self:
        """Add everyone from a file that `save` wrote. Pickles are not loaded.

        The file's threshold is used if this gallery has none.

        Args:
            path: The file.

        Returns:
            This gallery.

        Raises:
            GalleryError: The file is not a gallery, or `add` refuses its people.
        """
        file = GalleryFile.read(path)
        if file.ids:
            payloads = normalise_payloads(file.payloads, len(file.ids))
            self._add(file.ids, file.embeddings, payloads, file.source)
        if self._threshold is None:
            self.set_threshold(file.threshold)
        return self

    def __repr__(self) -> str:
        return f"<{self._describe()}>"

    def _describe(self) -> str:
        """Describe the gallery in a line."""
        return f"{type(self).__name__}: {len(self)} people{self._describe_vectors()}"

    def _describe_vectors(self) -> str:
        source, threshold = self.source, self._threshold
        size = f", embeddings [{self.dimension}]" if self.dimension else ""
        limit = "no threshold"
        if threshold is not None:
            limit = f"threshold {threshold.similarity:.3f}"
        stand_ins = (source.model,) if source is not None and source.untrained else ()
        return f"{size}{model_text(source)}, {limit}{describe_untrained(stand_ins)}"


def list_from_ids(ids: Iterable[str]) -> list[str]:
    """Return ids as a list; a single string is one id, not several characters.

    Args:
        ids: One id, or several.

    Returns:
        The ids as they are.
    """
    return [ids] if isinstance(ids, str) else list(ids)


def _list_from_filters(
    where: Filter | Sequence[Filter | None] | None, count: int
) -> list[Filter | None]:
    if where is None or isinstance(where, Filter):
        return [where] * count
    if len(where) != count:
        raise GalleryError(
            f"where: {len(where)} filters for {count} embeddings; expected one for "
            "each, or one for all"
        )
    return list(where)
