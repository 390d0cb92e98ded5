"""Where embeddings come from: the model and the weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from personserve._errors import InvalidInputError


@dataclass(frozen=True)
class EmbeddingSource:
    """The model and the weights that embeddings were computed with.

    The cosine similarity of two embeddings has a meaning only if both come from the
    same network with the same weights, even if their dimensions are equal.

    Attributes:
        model: Name of the network on the server.
        weights: Origin of its weights as the server states it: a file and its digest.
        untrained: Whether the weights are untrained stand-ins, so that the embeddings
            have no meaning.
    """

    model: str
    weights: str
    untrained: bool = False

    def __str__(self) -> str:
        return f"{self.model} ({self.weights})"


def require_one_source(
    sources: Iterable[EmbeddingSource | None],
    error: type[InvalidInputError] = InvalidInputError,
) -> EmbeddingSource | None:
    """Return the source that embeddings have in common.

    Args:
        sources: The source of each part; None, an unknown one, agrees with every other.
        error: Class of the error.

    Returns:
        The source, or None if all of them are unknown.

    Raises:
        InvalidInputError: If there are two different sources.
    """
    first: EmbeddingSource | None = None
    for source in sources:
        if source is None or source == first:
            continue
        if first is not None:
            raise error(
                f"embeddings of {first} cannot be compared with those of {source}: "
                "similarities between different networks or weights have no meaning; "
                "embed all of the images again with one of them"
            )
        first = source
    return first
