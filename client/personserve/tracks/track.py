"""One person over time, as returned to the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from personserve._results import FloatArray, Gender, Person
from personserve._results.html import (
    describe_untrained,
    render_image,
    render_table,
    render_warning,
)
from personserve._results.person import MAX_HTML_ROWS, dict_from_person
from personserve.images.crops import Pixels
from personserve.images.thumbnails import ImageReference, render_thumbnails
from personserve.tracks.results import TrackerId


@dataclass(frozen=True, eq=False, repr=False)
class Track:
    """One person over time, as of the frame for which it was returned.

    Times are in seconds of the video, as passed to Tracks.update, or frames divided by
    the frame rate.

    Attributes:
        id: Number of the person, from 1. It stays when the tracker's id changes and the
            person is recognised.
        tracker_id: The tracker's current id; None if the tracker has moved it to
            another person.
        person: The mean of the answers: gender, and embedding of unit length, with the
            latest box. None without an answer.
        box: The latest box, (x0, y0, x1, y1) in pixels.
        gender_count: Number of answers in the mean of the gender.
        embedding_count: Number of answers in the mean of the embedding.
        frame_count: Number of frames with the person.
        first_s: Time of the first frame.
        last_s: Time of the latest frame.
        answered_s: Time of the frame of the latest answer; None without one.
        spans: Start and end of the times when the person was in the frame.
        rejoined_count: How often the person was recognised after its track was lost.
        thumbnail: The best view, UINT8 [h, w, 3] in BGR order, up to 96 pixels high;
            None if frames are encoded.
    """

    id: int
    tracker_id: TrackerId | None
    person: Person | None
    box: tuple[float, float, float, float]
    gender_count: int
    embedding_count: int
    frame_count: int
    first_s: float
    last_s: float
    answered_s: float | None
    spans: tuple[tuple[float, float], ...]
    rejoined_count: int = 0
    thumbnail: Pixels | None = None

    @property
    def gender(self) -> Gender | None:
        """The mean of the genders; None without an answer."""
        return None if self.person is None else self.person.gender

    @property
    def embedding(self) -> FloatArray | None:
        """The mean of the embeddings, FP32 [D]; None without an answer."""
        return None if self.person is None else self.person.embedding

    @property
    def age_s(self) -> float | None:
        """Seconds from the latest answer to the latest frame; None without one."""
        return None if self.answered_s is None else self.last_s - self.answered_s

    def label(self) -> str:
        """Return the text of the track, such as "3: female 0.91", to be drawn."""
        gender = self.gender
        return str(self.id) if gender is None else f"{self.id}: {gender}"

    def to_dict(self, *, embedding: bool = False) -> dict[str, Any]:
        """Convert to numbers, strings and lists, for JSON.

        Args:
            embedding: Whether to include the embedding, and other vectors.

        Returns:
            A dict with the attributes, less the thumbnail; those of the person are
            those of Person.to_dict.
        """
        person = self.person
        values = {} if person is None else dict_from_person(person, embedding=embedding)
        return {
            "track": self.id,
            "tracker_id": self.tracker_id,
            **values,
            "box": list(self.box),
            "gender_count": self.gender_count,
            "embedding_count": self.embedding_count,
            "frame_count": self.frame_count,
            "first_s": self.first_s,
            "last_s": self.last_s,
            "answered_s": self.answered_s,
            "spans": [list(span) for span in self.spans],
            "rejoined_count": self.rejoined_count,
            "stand_in_weights": [] if person is None else list(person.stand_in_weights),
        }

    def __repr__(self) -> str:
        gender = "" if self.gender is None else f" {self.gender},"
        answers = max(self.gender_count, self.embedding_count)
        stand_ins = () if self.person is None else self.person.stand_in_weights
        return (
            f"<Track {self.id}:{gender} {answers} answers for {self.frame_count} "
            f"frames, {self.first_s:.1f} to {self.last_s:.1f} s"
            f"{describe_untrained(stand_ins)}>"
        )

    def _repr_html_(self) -> str:
        return render_tracks((self,), "Track")


def render_tracks(tracks: Sequence[Track], caption: str) -> str:
    """Render a table of tracks with thumbnails.

    Args:
        tracks: The tracks.
        caption: Text above the table.

    Returns:
        The table's HTML.
    """
    shown = tracks[:MAX_HTML_ROWS]
    references = [(ImageReference(track.thumbnail), None) for track in shown]
    rows = [
        [
            str(track.id),
            render_image(thumbnail),
            "" if track.gender is None else str(track.gender),
            str(max(track.gender_count, track.embedding_count)),
            str(track.frame_count),
            f"{track.first_s:.1f} to {track.last_s:.1f} s",
        ]
        for track, thumbnail in zip(shown, render_thumbnails(references), strict=True)
    ]
    if len(tracks) > len(shown):
        caption += f"; the first {len(shown)} of {len(tracks)} are shown"
    stand_ins = [
        name
        for track in shown
        if track.person is not None
        for name in track.person.stand_in_weights
    ]
    header = ("track", "image", "gender", "answers", "frames", "time")
    warning = render_warning(tuple(dict.fromkeys(stand_ins)))
    return warning + render_table(header, rows, caption)
