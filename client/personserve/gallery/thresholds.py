"""Thresholds of cosine similarity for "the same person", estimated from examples.

A threshold belongs to a network, its weights and the kind of images: estimate it on
images of the cameras where it is used. The rate is that of one comparison. In a search
of G known people a stranger is taken for one of them with a probability of about
1 - (1 - rate) ** G: with a rate of 0.1 % and 1,000 people that is 63 %.

The two errors are called as in ISO/IEC 19795-1: a false match takes two people for one
(an impostor pair), a false non-match takes one for two (a genuine pair).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._results import EmbeddingSource, FloatArray, People, require_one_source
from personserve.gallery.matches import GalleryError
from personserve.gallery.vectors import Embeddings, normalise, split_source

DEFAULT_FALSE_MATCH_RATE = 1e-3

BLOCK_ROWS = 1024
"""Embeddings whose similarities to all others are computed at once."""

Z_95 = 1.6448536269514722
"""Quantile of the normal distribution for a one-sided bound of 95 %."""


@dataclass(frozen=True, repr=False)
class Threshold:
    """A cosine similarity from which on two embeddings count as the same person's.

    Attributes:
        similarity: The threshold, -1 to 1.
        origin: What it was estimated from.
        false_match_rate: Share of the impostor pairs that reach it; None if unknown.
        false_match_bound: Upper bound of that rate with a confidence of 95 % (Wilson's
            interval), if the pairs were independent; None if unknown.
        false_non_match_rate: Share of the genuine pairs below it; None if unknown.
        impostor_pairs: Number of pairs of different people.
        genuine_pairs: Number of pairs of one person.
        source: Model and weights of the embeddings; None if unknown.
    """

    similarity: float
    origin: str = "given by the caller"
    false_match_rate: float | None = None
    false_match_bound: float | None = None
    false_non_match_rate: float | None = None
    impostor_pairs: int = 0
    genuine_pairs: int = 0
    source: EmbeddingSource | None = None

    def __post_init__(self) -> None:
        if not -1.0 <= self.similarity <= 1.0:  # false for NaN
            raise GalleryError(
                f"threshold: expected a cosine similarity from -1 to 1, got "
                f"{self.similarity}"
            )

    def __str__(self) -> str:
        parts = [f"{self.similarity:.3f}, {self.origin}"]
        if self.false_match_rate is not None and self.false_match_bound is not None:
            parts.append(
                f"false matches {self.false_match_rate:.3%} of {self.impostor_pairs:,} "
                f"pairs (at most {self.false_match_bound:.3%} with 95 % confidence)"
            )
        if self.false_non_match_rate is not None:
            parts.append(
                f"false non-matches {self.false_non_match_rate:.1%} of "
                f"{self.genuine_pairs:,} pairs"
            )
        if self.source is not None and self.source.untrained:
            parts.append("UNTRAINED weights: without meaning")
        return "; ".join(parts)

    def __repr__(self) -> str:
        return f"<Threshold {self}>"

    def to_dict(self) -> dict[str, Any]:
        """Convert to numbers, strings and dicts, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Threshold:
        """Read what to_dict returned.

        Args:
            values: The dict.

        Returns:
            The threshold.

        Raises:
            TypeError: If the dict has other entries.
        """
        source = values.get("source")
        return cls(**{**values, "source": source and EmbeddingSource(**source)})


def estimate_threshold(
    embeddings: Embeddings,
    identities: Sequence[Hashable],
    *,
    false_match_rate: float = DEFAULT_FALSE_MATCH_RATE,
) -> Threshold:
    """Estimate a threshold from people whose identities are known.

    All pairs of different identities are compared. The threshold is the lowest at which
    no more than the given share of them would be taken for the same person; the pairs
    of one identity then tell how many are missed.

    Assumptions: the labels are right; the images are like those of later use (cameras,
    light, clothes); and identities are as similar as strangers there. Pairs that share
    a person are not independent, so the bound is optimistic: ISO/IEC 19795-1 counts
    people, not pairs. A rate of 0.1 % needs at least 1,000 pairs, which 46 people give;
    several hundred people make it reliable.

    Args:
        embeddings: Embeddings of N images, numbers [N, D] or People.
        identities: The identity of each, of any hashable type.
        false_match_rate: Share of impostor pairs that may reach the threshold.

    Returns:
        The threshold with its error rates.

    Raises:
        GalleryError: If there are fewer than 1 / false_match_rate impostor pairs, if
            the numbers of embeddings and identities differ, or if the embeddings are
            invalid.
    """
    values, source = split_source(embeddings)
    vectors = normalise(values, None)
    if len(vectors) != len(identities):
        raise GalleryError(
            f"{len(identities)} identities for {len(vectors)} embeddings; expected one "
            "for each"
        )
    numbers = {identity: number for number, identity in enumerate(set(identities))}
    labels = np.array([numbers[identity] for identity in identities], np.int64)
    impostors = _Impostors(false_match_rate, _count_impostor_pairs(labels))
    genuine = [np.empty(0, np.float32)]
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        similarities = vectors[rows] @ vectors[start:].T
        same = labels[rows, None] == labels[None, start:]
        once = np.triu(np.ones(similarities.shape, bool), k=1)  # each pair once
        impostors.add(similarities[once & ~same])
        genuine.append(similarities[once & same])
    origin = f"estimated from {len(vectors)} images of {len(numbers)} people"
    return impostors.estimate(origin, np.concatenate(genuine), source)


def estimate_threshold_from_frames(
    frames: Iterable[People],
    *,
    false_match_rate: float = DEFAULT_FALSE_MATCH_RATE,
    max_overlap: float = 0.2,
) -> Threshold:
    """Estimate a threshold from a video, without labels.

    People in one frame are different people, so all pairs within a frame are impostor
    pairs. How many pairs of one person are missed remains unknown.

    Assumptions: the detector has no two boxes on one person (boxes that overlap are
    left out), and the image has no mirrors or posters of people in it. All pairs share
    the camera and the light, so the threshold is for this camera. Successive frames
    show the same pairs again and are not independent: take frames some seconds apart,
    from as much of the day as possible, because the bound counts each pair as new.

    Args:
        frames: The people of each frame, with boxes; frames of one person count for
            nothing.
        false_match_rate: Share of impostor pairs that may reach the threshold.
        max_overlap: Leave out pairs of which more than this share of the smaller box is
            inside the other.

    Returns:
        The threshold with its rate of false matches.

    Raises:
        GalleryError: If there are fewer than 1 / false_match_rate pairs, or the people
            are of different models or weights.
    """
    similarities = [np.empty(0, np.float32)]
    sources: list[EmbeddingSource | None] = []
    for people in frames:
        sources.append(people.source)
        if len(people) > 1:
            apart = np.triu(_overlaps(people) <= max_overlap, k=1)
            similarities.append(people.similarities()[apart])
    values = np.concatenate(similarities)
    source = require_one_source(sources, GalleryError)
    impostors = _Impostors(false_match_rate, len(values))
    impostors.add(values)
    origin = f"estimated from people in the same frame, {len(sources)} frames"
    return impostors.estimate(origin, np.empty(0, np.float32), source)


class _Impostors:
    """The highest similarities of impostor pairs, one more than may be reached."""

    def __init__(self, false_match_rate: float, pair_count: int) -> None:
        if not 0.0 < false_match_rate < 1.0:
            raise GalleryError(
                f"false_match_rate: expected a number between 0 and 1, got "
                f"{false_match_rate}"
            )
        needed = math.ceil(1.0 / false_match_rate)
        if pair_count < needed:
            raise GalleryError(
                f"a false match rate of {false_match_rate:g} needs at least {needed:,} "
                f"pairs of different people, got {pair_count:,}; take more images, or "
                "a higher rate"
            )
        self._count = pair_count
        self._allowed = int(false_match_rate * pair_count)
        self._highest = np.empty(0, np.float32)

    def add(self, similarities: npt.NDArray[Any]) -> None:
        """Take more similarities; only the highest are kept."""
        highest = np.concatenate([self._highest, similarities])
        if len(highest) > self._allowed + 1:
            highest = np.partition(highest, -self._allowed - 1)[-self._allowed - 1 :]
        self._highest = highest

    def estimate(
        self, origin: str, genuine: FloatArray, source: EmbeddingSource | None
    ) -> Threshold:
        """Return the lowest threshold that no more pairs than allowed reach."""
        # the next number above the highest one that must not reach it
        limit = np.nextafter(np.float32(self._highest.min()), np.float32(2))
        if limit > 1.0:
            raise GalleryError(
                f"{len(self._highest):,} pairs of different people have equal "
                "embeddings, more than the rate allows; expected different images of "
                "correctly labelled people"
            )
        rate = float((self._highest >= limit).sum()) / self._count
        missed = float((genuine < limit).mean()) if len(genuine) else None
        return Threshold(
            *(float(limit), origin, rate, _upper_bound(rate, self._count), missed),
            *(self._count, len(genuine), source),
        )


def _upper_bound(rate: float, count: int) -> float:
    """Return the upper end of a one-sided 95 % interval of a share.

    E. B. Wilson: Probable Inference, the Law of Succession, and Statistical Inference,
    Journal of the American Statistical Association 22, 1927.
    """
    spread = math.sqrt(rate * (1 - rate) / count + Z_95**2 / (4 * count**2))
    centre = rate + Z_95**2 / (2 * count)
    return min(1.0, (centre + Z_95 * spread) / (1 + Z_95**2 / count))


def _count_impostor_pairs(labels: npt.NDArray[np.int64]) -> int:
    sizes = np.bincount(labels) if len(labels) else labels
    total = len(labels) * (len(labels) - 1) // 2
    return total - int((sizes * (sizes - 1) // 2).sum())


def _overlaps(people: People) -> npt.NDArray[np.float64]:
    """Return the common share of the smaller box of each pair, [N, N]."""
    boxes = np.array(list(_boxes(people)), np.float64)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.maximum(high - low, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    shares: npt.NDArray[np.float64] = common / np.minimum(areas[:, None], areas)
    return shares


def _boxes(people: People) -> Iterator[tuple[float, float, float, float]]:
    for person in people:
        if person.box is None:
            raise GalleryError(
                "people of crops have no boxes, so it is unknown who was in one frame; "
                "pass the results of client.attributes(frame, boxes)"
            )
        yield person.box
