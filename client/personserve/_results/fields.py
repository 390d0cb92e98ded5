"""Fields of People: from the outputs of one call, and joined from several."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from personserve._errors import InvalidInputError
from personserve._results.person import Box, FloatArray, Person
from personserve._results.roles import EMBEDDING_ROLE, GENDER_ROLE, Gender, Role
from personserve._results.source import EmbeddingSource, require_one_source
from personserve.images.thumbnails import ImageReference

if TYPE_CHECKING:
    from personserve._results.people import People

UNIT_TOLERANCE = 1e-3
"""Difference from length 1 that reduced precision explains."""


def fields_from_outputs(
    outputs: Mapping[str, FloatArray],
    roles: Mapping[str, Role],
    boxes: Iterable[Box | None],
    images: Iterable[ImageReference | None],
    stand_in_weights: tuple[str, ...],
    *,
    gender: str = GENDER_ROLE,
    embedding: str = EMBEDDING_ROLE,
) -> dict[str, Any]:
    """Return the fields of People for a model's outputs.

    Args:
        outputs: FP32 [N, D] by role; at least one.
        roles: What the server states about each output.
        boxes: The box of each person, at least N.
        images: The image of each person, at least N.
        stand_in_weights: Names of the models with untrained weights.
        gender: The output that the genders come from, if it is there.
        embedding: The output that the embeddings come from, if it is there.

    Returns:
        The fields.
    """
    columns = zip(*outputs.values(), strict=True)
    rows = [dict(zip(outputs, row, strict=True)) for row in columns]
    genders: Iterable[Gender | None] = itertools.repeat(None)
    probabilities: FloatArray | None = None
    labels: tuple[str, ...] = ()
    if gender in outputs:
        probabilities, labels = outputs[gender][:, 0], roles[gender].labels
        genders = [roles[gender].gender(value) for value in probabilities.tolist()]
    embeddings: FloatArray | None = None
    vectors: Iterable[FloatArray | None] = itertools.repeat(None)
    source: EmbeddingSource | None = None
    if embedding in outputs:
        vectors = embeddings = scale_to_unit(outputs[embedding])
        source = roles[embedding].source
    persons = tuple(
        Person(
            *(answer, vector, box, source, stand_in_weights, image),
            outputs=row,
            embedding_role=embedding,
        )
        for row, answer, vector, box, image in zip(
            rows, genders, vectors, boxes, images, strict=False
        )
    )
    return {
        "persons": persons,
        "female_probabilities": probabilities,
        "embeddings": embeddings,
        "stand_in_weights": stand_in_weights,
        "source": source,
        "gender_labels": labels,
        "outputs": outputs,
        "roles": roles,
        "gender_role": gender,
        "embedding_role": embedding,
    }


def join_fields(parts: Sequence[People]) -> dict[str, Any]:
    """Implement People.concatenate.

    Args:
        parts: See People.concatenate.

    Returns:
        The fields of the joined people.

    Raises:
        InvalidInputError: See People.concatenate.
    """
    if not parts:
        raise InvalidInputError("concatenate: expected at least one People, got 0")
    # no people of an unreachable server have embeddings [0, 0] and unknown outputs
    filled = [part for part in parts if len(part)] or [parts[-1]]
    _require_same_outputs(filled)
    outputs = {
        name: np.concatenate([part.outputs[name] for part in filled])
        for name in filled[0].outputs
    }
    embeddings = [each.embeddings for each in filled if each.embeddings is not None]
    names = (name for part in parts for name in part.stand_in_weights)
    labels = (part.gender_labels for part in parts if part.gender_labels)
    gender, embedding = filled[0].gender_role, filled[0].embedding_role
    return {
        "persons": tuple(person for part in parts for person in part),
        "female_probabilities": outputs[gender][:, 0] if gender in outputs else None,
        "embeddings": np.concatenate(embeddings) if embeddings else None,
        "stand_in_weights": tuple(dict.fromkeys(names)),
        "source": require_one_source(part.source for part in parts),
        "gender_labels": next(labels, ()),
        "outputs": outputs,
        "roles": _join_roles(parts),
        "gender_role": gender,
        "embedding_role": embedding,
    }


def scale_to_unit(vectors: FloatArray) -> FloatArray:
    """Return vectors of unit length; those that have it already are not changed.

    The networks of this project end with the scaling; imported ones may not.

    Args:
        vectors: FP32 [N, D]. A vector of length zero stays as it is.

    Returns:
        FP32 [N, D].
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (np.abs(lengths - 1.0) <= UNIT_TOLERANCE).all():
        return vectors
    return np.asarray(vectors / np.where(lengths > 0.0, lengths, 1.0), np.float32)


def _require_same_outputs(parts: Sequence[People]) -> None:
    first = parts[0]
    for part in parts[1:]:
        roles = [
            (*each.outputs, each.gender_role, each.embedding_role)
            for each in (first, part)
        ]
        if set(roles[0]) != set(roles[1]):
            raise InvalidInputError(
                "concatenate: expected people of one model, got outputs "
                f"{list(first.outputs)} and {list(part.outputs)}"
            )
    for name in first.outputs:
        widths = {part.outputs[name].shape[1] for part in parts}
        if len(widths) > 1:
            raise InvalidInputError(
                f"concatenate: expected outputs {name!r} of one size, got "
                f"{sorted(widths)}"
            )


def _join_roles(parts: Sequence[People]) -> dict[str, Role]:
    """Return the roles of all parts, with the sources that they have in common."""
    roles: dict[str, Role] = {}
    for part in parts:
        for name, role in part.roles.items():
            known = roles.setdefault(name, role)
            source = require_one_source((known.source, role.source))
            roles[name] = replace(known, source=source)
    return roles
