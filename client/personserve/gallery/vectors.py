"""Embeddings that a caller passes, as vectors of unit length and their source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve._results import (
    EmbeddingSource,
    FloatArray,
    People,
    Person,
    require_embedding,
    require_embeddings,
    require_one_source,
)
from personserve.gallery.matches import GalleryError

Embeddings = npt.ArrayLike | Person | People | Sequence[Person]
"""Numbers [N, D], or [D] for one embedding; or a Person, several, or People."""


def split_source(embeddings: Any) -> tuple[Any, EmbeddingSource | None]:
    """Split people into their embeddings and the source of these.

    Args:
        embeddings: See Embeddings.

    Returns:
        Numbers [N, D] or [D], and their source; None for numbers, which have none.

    Raises:
        GalleryError: If people of different sources are among them, or the model of
            people answers no embedding.
    """
    try:
        return _split_source(embeddings)
    except InvalidInputError as exc:
        raise GalleryError(str(exc)) from exc


def _split_source(embeddings: Any) -> tuple[Any, EmbeddingSource | None]:
    if isinstance(embeddings, People):
        return require_embeddings(embeddings), embeddings.source
    if isinstance(embeddings, Person):
        return require_embedding(embeddings), embeddings.source
    if (
        isinstance(embeddings, list | tuple)
        and embeddings
        and all(isinstance(each, Person) for each in embeddings)
    ):
        sources = (person.source for person in embeddings)
        source = require_one_source(sources)
        return [require_embedding(person) for person in embeddings], source
    return embeddings, None


def normalise(embeddings: Any, dimension: int | None) -> FloatArray:
    """Scale vectors to unit length.

    Args:
        embeddings: Numbers [N, D], or [D] for one.
        dimension: The D that is expected, or None for any.

    Returns:
        FP32 [N, D].

    Raises:
        GalleryError: Not numbers, another shape, or a vector that is zero or not
            finite; the first such vector is named by its index.
    """
    try:
        vectors = np.atleast_2d(np.asarray(embeddings, np.float32))
    except (TypeError, ValueError) as exc:
        raise GalleryError(
            f"embeddings: expected numbers [N, D], a Person or People: {exc}"
        ) from exc
    expected = dimension or vectors.shape[-1]
    if vectors.ndim == 2 and vectors.shape[0] == 0:  # of no people, of any width
        return np.empty((0, expected), np.float32)
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
