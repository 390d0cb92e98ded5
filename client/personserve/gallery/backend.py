"""The interface of a gallery's back ends, and the checks that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from personserve._results import EmbeddingSource, FloatArray, require_one_source
from personserve.gallery.filters import Filter
from personserve.gallery.matches import Entry, GalleryError, Match, PayloadValue
from personserve.gallery.thresholds import Threshold
from personserve.gallery.vectors import normalise

Payloads = Sequence[Mapping[str, PayloadValue]]
"""The payload of each person, checked."""


class Backend(ABC):
    """Storage and search of known people, and what all of them have in common."""

    _threshold: Threshold | None = None

    @property
    def threshold(self) -> Threshold | None:
        """The threshold for "the same person" that matches state; None if not set."""
        return self._threshold

    def set_threshold(self, threshold: Threshold | float | None) -> None:
        """Set the threshold that matches state. It is saved with the gallery's file.

        Args:
            threshold: What estimate_threshold returned, a cosine similarity of your
                own, or None for no threshold.

        Raises:
            GalleryError: A number that is not from -1 to 1, or a threshold of another
                model or other weights than the embeddings.
        """
        if isinstance(threshold, float | int):
            threshold = Threshold(float(threshold))
        if threshold is not None:
            require_one_source((self.source, threshold.source), GalleryError)
        self._threshold = threshold

    @property
    @abstractmethod
    def source(self) -> EmbeddingSource | None:
        """Model and weights of the embeddings; None for arrays or an empty gallery."""

    @property
    @abstractmethod
    def dimension(self) -> int | None:
        """Number of values in an embedding; None until the first person is added."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, id_: object) -> bool: ...

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Return an iterator over all people, in the order of adding."""

    def _normalise(self, embeddings: Any) -> FloatArray:
        try:
            return normalise(embeddings, self.dimension)
        except GalleryError:
            if not self._refresh():
                raise
            return normalise(embeddings, self.dimension)

    def _require_source(self, source: EmbeddingSource | None) -> None:
        if source is None:
            return
        of_threshold = None if self._threshold is None else self._threshold.source
        try:
            require_one_source((self.source, of_threshold, source), GalleryError)
        except GalleryError:
            if not self._refresh():
                raise
            require_one_source((self.source, of_threshold, source), GalleryError)

    def _refresh(self) -> bool:
        """Forget everything read from a server, and return whether there is one."""
        return False

    @abstractmethod
    def _is_empty(self) -> bool:
        """Return whether the gallery is empty."""

    @abstractmethod
    def _existing(self, names: Sequence[str]) -> Iterator[str]:
        """Yield those of the names that are in the gallery."""

    @abstractmethod
    def _insert(
        self,
        names: Sequence[str],
        vectors: FloatArray,
        payloads: Payloads,
        source: EmbeddingSource | None,
    ) -> None:
        """Add or replace people; all arguments have been checked."""

    @abstractmethod
    def _delete(self, names: Sequence[str]) -> None:
        """Remove people; all of the names are in the gallery."""

    @abstractmethod
    def _delete_where(self, where: Filter) -> int:
        """Remove the people who meet a filter, and return their number."""

    @abstractmethod
    def _query(
        self, vectors: FloatArray, count: int, wheres: Sequence[Filter | None]
    ) -> list[list[Match]]:
        """Return the most similar people for each vector and filter, best first."""
