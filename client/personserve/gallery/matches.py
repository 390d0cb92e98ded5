"""Results of searches in galleries, and the errors of galleries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from personserve._errors import InvalidInputError
from personserve._results import FloatArray
from personserve._results.html import describe_untrained

PayloadValue = str | int | float | bool
"""One value of a payload, as galleries return it."""


@dataclass(frozen=True, repr=False)
class Match:
    """One result of a search.

    Attributes:
        id: Id of the known person.
        similarity: Cosine similarity to the query, -1 to 1.
        threshold: The gallery's threshold, from which on two embeddings count as those
            of the same person; None if the gallery has none.
        stand_in_weights: The network of the gallery's embeddings if its weights are
            untrained, so that the similarity has no meaning.
        payload: What the gallery stores with the person, by name, for example "camera"
            and "time_s".
    """

    id: str
    similarity: float
    threshold: float | None = None
    stand_in_weights: tuple[str, ...] = ()
    payload: Mapping[str, PayloadValue] = field(default_factory=dict, hash=False)

    @property
    def is_same_person(self) -> bool | None:
        """Whether the similarity reaches the threshold; None without a threshold."""
        return None if self.threshold is None else self.similarity >= self.threshold

    def __repr__(self) -> str:
        verdict = "no threshold"
        if self.threshold is not None:
            label = "same person" if self.is_same_person else "not the same person"
            verdict = f"{label} (threshold {self.threshold:.3f})"
        untrained = describe_untrained(self.stand_in_weights)
        values = "".join(f", {name} {value}" for name, value in self.payload.items())
        return (
            f"<Match {self.id!r} {self.similarity:.3f}, {verdict}{values}{untrained}>"
        )


@dataclass(frozen=True, eq=False)
class Entry:
    """One person of a gallery.

    Attributes:
        id: The id.
        embedding: FP32 [D] of unit length.
        payload: What is stored with the person, by name.
    """

    id: str
    embedding: FloatArray
    payload: Mapping[str, PayloadValue] = field(default_factory=dict)


class GalleryError(InvalidInputError):
    """Ids or embeddings that a gallery cannot take, or a file that is not a gallery."""
