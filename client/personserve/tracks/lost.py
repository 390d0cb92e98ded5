"""Recognition of people whose track was lost, by a gallery of their embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from personserve._errors import InvalidInputError
from personserve._results import FloatArray
from personserve.gallery import BaseGallery, Filter
from personserve.tracks.state import TrackState

CANDIDATES = 5
"""Matches that are requested for each person; the best may belong to another."""


class LostTracks:
    """The tracks that are not in the frame, in a gallery.

    Args:
        gallery: The gallery; its threshold says who is the same person. People that
            others add to it are ignored.
        camera: Name of the camera in the payload, and before the ids; None for none.

    Raises:
        InvalidInputError: If the gallery has no threshold.
    """

    def __init__(self, gallery: BaseGallery, camera: str | None) -> None:
        if gallery.threshold is None:
            raise InvalidInputError(
                "the gallery of lost tracks has no threshold; expected a cosine "
                "similarity from which on two embeddings are the same person's: "
                "gallery.set_threshold(...), personserve.gallery.estimate_threshold "
                "finds it"
            )
        self._gallery = gallery
        self._camera = camera
        self._tracks: dict[str, int] = {}

    @property
    def similarity(self) -> float:
        """Cosine similarity from which on two embeddings are the same person's."""
        threshold = self._gallery.threshold
        return 1.0 if threshold is None else threshold.similarity

    def hold(self, absent: Mapping[int, TrackState]) -> None:
        """Make the gallery hold these tracks and no others of this camera.

        Args:
            absent: Tracks with an embedding that are not in the frame, by id.
        """
        self.remove([id_ for id_ in self._tracks.values() if id_ not in absent])
        known = set(self._tracks.values())
        for id_, state in absent.items():
            person = state.person()
            if id_ in known or person is None or person.embedding is None:
                continue
            name = str(id_) if self._camera is None else f"{self._camera}/{id_}"
            payload = {
                "camera": self._camera,
                "track": id_,
                "time_s": state.latest.time_s,
            }
            self._gallery.add(name, person, payload)
            self._tracks[name] = id_

    def remove(self, ids: Iterable[int]) -> None:
        """Remove tracks, because they have ended or were seen again.

        Args:
            ids: Ids of tracks; those that are not in the gallery are skipped.
        """
        ended = set(ids)
        names = [name for name, id_ in self._tracks.items() if id_ in ended]
        # others may have removed them, for example by expire()
        self._gallery.remove([name for name in names if name in self._gallery])
        for name in names:
            del self._tracks[name]

    def recognise(self, embeddings: Sequence[FloatArray]) -> list[int | None]:
        """Find the lost track of each of several people.

        A lost track is that of one person: the most similar pairs are taken first.

        Args:
            embeddings: FP32 [D] of each person.

        Returns:
            The id of each person's track; None if it is not one of them.
        """
        recognised: list[int | None] = [None] * len(embeddings)
        if not embeddings or not self._tracks:
            return recognised
        where = None if self._camera is None else Filter(cameras=self._camera)
        rows = self._gallery.search_all(
            list(embeddings), CANDIDATES, min_similarity=self.similarity, where=where
        )
        pairs = sorted(
            (-match.similarity, index, self._tracks[match.id])
            for index, matches in enumerate(rows)
            for match in matches
            if match.id in self._tracks
        )
        for _, index, id_ in pairs:
            if recognised[index] is None and id_ not in recognised:
                recognised[index] = id_
        return recognised
