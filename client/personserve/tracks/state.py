"""The state of each track while it can be seen again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from personserve._results import Person
from personserve._results.roles import Role
from personserve.images.crops import Pixels
from personserve.images.thumbnails import (
    MAX_THUMBNAIL_WIDTH,
    THUMBNAIL_HEIGHT,
    ImageReference,
)
from personserve.tracks.means import EmbeddingMean, GenderMean
from personserve.tracks.policy import View
from personserve.tracks.quality import BoxQuality, intersection_over_union
from personserve.tracks.results import TrackerId
from personserve.tracks.track import Track

CLOSED_GAP_S = 1.0
"""Shorter absences do not end a span: detectors miss people for some frames."""

MAX_SPANS = 32
"""Spans that are kept; of more, those with the shortest gap between them are joined."""

CROSSING_OVERLAP = 0.3
"""Intersection over union with another box, from which on a tracker may confuse the
two."""

APART_OVERLAP = 0.05
"""Overlap under which the two are apart again, and the track is worth a look."""

THUMBNAIL_GAIN = 1.2
"""A view that is this many times as good replaces the thumbnail."""


@dataclass(frozen=True)
class Sighting:
    """A box of a frame.

    Attributes:
        time_s: Time of the frame.
        box: FP32 [4], (x0, y0, x1, y1) in pixels.
        quality: Its quality.
        crop: Its pixels; None for an encoded frame.
        image: Reference to the frame.
    """

    time_s: float
    box: npt.NDArray[np.float32]
    quality: BoxQuality
    crop: Pixels | None = None
    image: ImageReference | None = None


@dataclass(frozen=True)
class Answer:
    """The server's answer about a box.

    Attributes:
        person: The person.
        role: Labels, threshold and abstention of the gender; None if unknown.
    """

    person: Person
    role: Role | None = None


Verdict = Literal["same person", "other person", "suspect"]
"""Whether an answer fits its track; "suspect" until a second answer agrees with it."""


@dataclass
class TrackState:
    """Everything that is kept of a track; its size is bounded.

    Attributes:
        id: Number of the person.
        tracker_id: The tracker's current id; None after the tracker moved it to another
            person.
        latest: The latest sighting.
        first_s: Time of the first sighting.
        frame_count: Number of sightings.
        gender: Mean of the genders.
        embedding: Mean of the embeddings.
        answer: The latest answer in the means.
        answered: The sighting that it is about.
        asked_s: Time of the latest answer of all; minus infinity without one.
        best_quality: Best quality of the boxes that were answered.
        is_pending: Whether a request is under way.
        in_doubt: Whether the tracker's id may have moved to another person.
        suspect: A sighting whose answer did not fit the track, and the answer.
        overlaps: Whether another person's box overlaps.
        spans: Start and end of the times of sightings.
        rejoined_count: How often the person was recognised.
        thumbnail: The best view.
    """

    id: int
    tracker_id: TrackerId | None
    latest: Sighting
    first_s: float
    frame_count: int = 0
    gender: GenderMean = field(default_factory=GenderMean)
    embedding: EmbeddingMean = field(default_factory=EmbeddingMean)
    answer: Answer | None = None
    answered: Sighting | None = None
    asked_s: float = -math.inf
    best_quality: float = 0.0
    is_pending: bool = False
    in_doubt: bool = False
    suspect: tuple[Sighting, Answer] | None = None
    overlaps: bool = False
    spans: list[tuple[float, float]] = field(default_factory=list)
    rejoined_count: int = 0
    thumbnail: Pixels | None = None
    _thumbnail_quality: float = 0.0

    @property
    def last_s(self) -> float:
        """Time of the latest sighting."""
        return self.latest.time_s

    def add_sighting(self, sighting: Sighting) -> None:
        """Add a sighting.

        Args:
            sighting: The sighting, not before the latest one.
        """
        if self.frame_count and not intersection_over_union(
            self.latest.box, sighting.box
        ):
            self.in_doubt = True  # it jumped
        overlap = sighting.quality.overlap
        if overlap >= CROSSING_OVERLAP:
            self.overlaps = True
        elif self.overlaps and overlap <= APART_OVERLAP:
            self.overlaps = False
            self.in_doubt = True
        self.frame_count += 1
        # the pixels of a whole frame would stay in memory with the crop
        self.latest = replace(sighting, crop=None)
        self.spans = extend_spans(self.spans, (sighting.time_s, sighting.time_s))
        quality = sighting.quality.value
        if (
            sighting.crop is not None
            and quality > THUMBNAIL_GAIN * self._thumbnail_quality
        ):
            self.thumbnail = shrink(sighting.crop)
            self._thumbnail_quality = quality

    def judge(
        self, sighting: Sighting, answer: Answer, min_similarity: float
    ) -> Verdict:
        """Compare an answer with the track, because trackers confuse people.

        One answer that does not fit may be a bad view, so a second one is awaited. If
        it agrees with the first one, the tracker's id is now another person's.
        Otherwise the person looks different from different sides.

        Args:
            sighting: What the answer is about.
            answer: The answer.
            min_similarity: Cosine similarity from which on two embeddings are the same
                person's.

        Returns:
            Whether the answer is about the same person.
        """
        mean, embedding = self.embedding.embedding, answer.person.embedding
        if mean is None or embedding is None or not self._has_source_of(answer):
            return "same person"
        if float(mean @ embedding) >= min_similarity:
            self.suspect = None
            return "same person"
        if self.suspect is None:
            self.suspect = sighting, answer
            self.asked_s = max(self.asked_s, sighting.time_s)
            self.in_doubt = True
            return "suspect"
        before = self.suspect[1].person.embedding
        if before is not None and float(before @ embedding) >= min_similarity:
            return "other person"
        self.suspect = None
        return "same person"

    def add_answer(self, sighting: Sighting, answer: Answer) -> None:
        """Add an answer to the means.

        Args:
            sighting: What the answer is about.
            answer: The answer.
        """
        person, quality = answer.person, sighting.quality.value
        if not self._has_source_of(answer):
            self.embedding = EmbeddingMean()  # the weights were replaced
        if person.gender is not None:
            self.gender.add(person.gender.female_probability, quality)
        if person.embedding is not None:
            self.embedding.add(person.embedding, quality)
        self.answer, self.answered = answer, sighting
        self.asked_s = max(self.asked_s, sighting.time_s)
        self.best_quality = max(self.best_quality, quality)
        self.in_doubt = False

    def withdraw(self) -> None:
        """End the track at its latest answer: the tracker's id is another person's."""
        self.tracker_id = self.suspect = None
        self.in_doubt = self.is_pending = self.overlaps = False
        if self.answered is not None:
            self.latest = self.answered
            self.spans = [
                (start, min(end, self.last_s))
                for start, end in self.spans
                if start <= self.last_s
            ]

    def is_like(self, other: TrackState) -> bool:
        """Return whether the embeddings of two tracks can be compared.

        Args:
            other: The other track.
        """
        if self.answer is None or other.answer is None or not self.embedding.count:
            return False
        return self._has_source_of(other.answer)

    def _has_source_of(self, answer: Answer) -> bool:
        return self.answer is None or answer.person.source == self.answer.person.source

    def absorb(self, other: TrackState) -> None:
        """Add everything of a later track of the same person.

        Args:
            other: The later track.
        """
        self.tracker_id = other.tracker_id
        self.gender.merge(other.gender)
        self.embedding.merge(other.embedding)
        self.answer, self.answered = other.answer, other.answered
        self.best_quality = max(self.best_quality, other.best_quality)
        self.frame_count += other.frame_count
        self.asked_s, self.latest = other.asked_s, other.latest
        self.in_doubt, self.overlaps = other.in_doubt, other.overlaps
        self.suspect, self.is_pending = None, other.is_pending
        for span in other.spans:
            self.spans = extend_spans(self.spans, span)
        self.rejoined_count += 1 + other.rejoined_count
        if other._thumbnail_quality > self._thumbnail_quality:
            self.thumbnail = other.thumbnail
            self._thumbnail_quality = other._thumbnail_quality

    def view(self) -> View:
        """Return the input of the request policy."""
        return View(
            quality=self.latest.quality.value,
            best_quality=self.best_quality,
            answer_count=max(self.gender.count, self.embedding.count),
            waited_s=self.last_s - self.asked_s,
            in_doubt=self.in_doubt,
            is_settled=self._has_clear_gender(),
        )

    def _has_clear_gender(self) -> bool:
        role = None if self.answer is None else self.answer.role
        probability = self.gender.female_probability
        if role is None or probability is None:
            return True
        if role.labels and role.gender(probability).abstained:
            return False
        return self.gender.is_settled(role.threshold)

    def person(self) -> Person | None:
        """Return the mean of the answers; None without one."""
        if self.answer is None:
            return None
        latest, role = self.answer.person, self.answer.role
        embedding = self.embedding.embedding
        outputs = dict(latest.outputs)
        for name, values in latest.outputs.items():
            if embedding is not None and values is latest.embedding:
                outputs[name] = embedding
        gender, probability = latest.gender, self.gender.female_probability
        if gender is not None and probability is not None:
            if role is not None and role.labels:
                gender = role.gender(probability)
                outputs[role.name] = np.array([probability], np.float32)
            else:
                gender = replace(gender, female_probability=probability)
        return replace(
            latest,
            gender=gender,
            embedding=embedding,
            box=box_from_array(self.latest.box),
            image=self.latest.image,
            outputs=outputs,
        )

    def snapshot(self) -> Track:
        """Return the track as of now."""
        return Track(
            id=self.id,
            tracker_id=self.tracker_id,
            person=self.person(),
            box=box_from_array(self.latest.box),
            gender_count=self.gender.count,
            embedding_count=self.embedding.count,
            frame_count=self.frame_count,
            first_s=self.first_s,
            last_s=self.last_s,
            answered_s=None if self.answered is None else self.answered.time_s,
            spans=tuple(self.spans),
            rejoined_count=self.rejoined_count,
            thumbnail=self.thumbnail,
        )


def extend_spans(
    spans: list[tuple[float, float]], span: tuple[float, float]
) -> list[tuple[float, float]]:
    """Append a span, and join it with the last one across a short gap.

    Args:
        spans: Spans in order.
        span: A span that starts after the start of the last one.

    Returns:
        Up to MAX_SPANS spans.
    """
    if spans and span[0] - spans[-1][1] <= CLOSED_GAP_S:
        start, end = spans[-1]
        return [*spans[:-1], (start, max(end, span[1]))]
    spans = [*spans, span]
    if len(spans) > MAX_SPANS:
        gaps = [after[0] - before[1] for before, after in pairwise(spans)]
        index = min(range(len(gaps)), key=gaps.__getitem__)
        spans[index : index + 2] = [(spans[index][0], spans[index + 1][1])]
    return spans


def shrink(crop: Pixels) -> Pixels:
    """Return a copy of a crop that is no larger than a thumbnail.

    Args:
        crop: UINT8 [h, w, 3].

    Returns:
        UINT8 [h, w, 3].
    """
    height, width = crop.shape[:2]
    scale = min(1.0, THUMBNAIL_HEIGHT / height, MAX_THUMBNAIL_WIDTH / width)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA)
    return np.array(small, np.uint8)


def box_from_array(box: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Convert a box to plain numbers.

    Args:
        box: FP32 [4].

    Returns:
        (x0, y0, x1, y1).
    """
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1
