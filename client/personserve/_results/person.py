"""One person: gender, embedding and all other answers of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._results.html import (
    describe_untrained,
    render_image,
    render_table,
    render_warning,
)
from personserve._results.roles import (
    CLASSES_ROLE,
    EMBEDDING_ROLE,
    GENDER_ROLE,
    KINSHIP_ROLE,
    Gender,
    missing_role,
)
from personserve._results.source import EmbeddingSource, require_one_source
from personserve.images.thumbnails import ImageReference, render_thumbnails

FloatArray = npt.NDArray[np.float32]

Box = tuple[float, float, float, float]
"""A box as (x0, y0, x1, y1) in pixels."""

MAX_HTML_ROWS = 50
"""People that are shown in a notebook; each thumbnail takes about 3 KB."""


@dataclass(frozen=True, eq=False, repr=False)
class Person:
    """Gender and embedding of one person, and the model's other outputs.

    Attributes:
        gender: The gender network's answer; None if the model answers no gender.
        embedding: The ReID network's embedding, FP32 [D] of unit length; None if the
            model answers none.
        box: The box as given by the caller, (x0, y0, x1, y1) in pixels, or None if the
            caller sent crops.
        source: Model and weights of the embedding; None if the server does not state
            them.
        stand_in_weights: As in People.
        image: Reference to the frame or the crop, for thumbnails; it does not keep the
            image in memory.
        outputs: Everything that the model answered, FP32 [D] by role (the name of the
            output).
        embedding_role: The output that the embedding comes from.
    """

    gender: Gender | None
    embedding: FloatArray | None
    box: Box | None = None
    source: EmbeddingSource | None = None
    stand_in_weights: tuple[str, ...] = ()
    image: ImageReference | None = None
    outputs: Mapping[str, FloatArray] = field(default_factory=dict, kw_only=True)
    embedding_role: str = field(default=EMBEDDING_ROLE, kw_only=True)

    @property
    def kinship_embedding(self) -> FloatArray | None:
        """Embedding for kinship, FP32 [D]; None if the model answers none."""
        return self.outputs.get(KINSHIP_ROLE)

    @property
    def class_probabilities(self) -> FloatArray | None:
        """Probability of each class, FP32 [C]; None if the model answers none."""
        return self.outputs.get(CLASSES_ROLE)

    def similarity(self, other: Person) -> float:
        """Return the cosine similarity to another person.

        Args:
            other: The other person.

        Returns:
            Cosine of the angle between the embeddings, -1 to 1.

        Raises:
            InvalidInputError: If the embeddings come from different models or weights,
                or one of the people has none.
        """
        first, second = require_embedding(self), require_embedding(other)
        require_one_source((self.source, other.source))
        return float(first @ second)

    def to_dict(self, *, embedding: bool = False) -> dict[str, Any]:
        """Convert to numbers, strings and lists, for JSON.

        Args:
            embedding: Whether to include the embedding, and other vectors.

        Returns:
            A dict with "stand_in_weights", and with "gender", "box", "embedding" and
            other outputs by role if there are any.
        """
        values = dict_from_person(self, embedding=embedding)
        return {**values, "stand_in_weights": list(self.stand_in_weights)}

    def __repr__(self) -> str:
        parts = [] if self.box is None else [f"box {_box_text(self.box)}"]
        if self.embedding is not None:
            shape = list(self.embedding.shape)
            parts.append(f"embedding {shape}{model_text(self.source)}")
        parts += [
            f"{name} {list(values.shape)}"
            for name, values in self.outputs.items()
            if name not in {GENDER_ROLE, self.embedding_role}
        ]
        name = "Person" if self.gender is None else f"Person {self.gender}"
        separator = ": " if self.gender is None and parts else ", " if parts else ""
        untrained = describe_untrained(self.stand_in_weights)
        return f"<{name}{separator}{', '.join(parts)}{untrained}>"

    def _repr_html_(self) -> str:
        return render_people((self,), "Person", self.stand_in_weights)


def require_embedding(person: Person) -> FloatArray:
    """Return the embedding of a person.

    Args:
        person: The person.

    Returns:
        FP32 [D].

    Raises:
        InvalidInputError: If the person's model answers none.
    """
    if person.embedding is None:
        raise missing_role("embedding", person.outputs)
    return person.embedding


def dict_from_person(person: Person, *, embedding: bool) -> dict[str, Any]:
    """Convert a person to numbers, strings and lists.

    Args:
        person: The person.
        embedding: Whether to include the embedding, and other vectors.

    Returns:
        Person.to_dict without "stand_in_weights".
    """
    values: dict[str, Any] = {}
    if person.gender is not None:
        values["gender"] = {
            "label": person.gender.label,
            "probability": person.gender.probability,
            "female_probability": person.gender.female_probability,
            "abstained": person.gender.abstained,
        }
    if person.box is not None:
        values["box"] = list(person.box)
    outputs = dict(person.outputs)
    if person.embedding is not None:
        outputs[person.embedding_role] = person.embedding
    return {**values, **values_from_outputs(outputs, vectors=embedding)}


def values_from_outputs(
    outputs: Mapping[str, FloatArray], *, vectors: bool
) -> dict[str, Any]:
    """Convert the outputs for one person to numbers and lists.

    Args:
        outputs: FP32 [D] by role.
        vectors: Whether to include outputs of several numbers.

    Returns:
        A number or a list by role. The gender is left out; it has keys of its own.
    """
    values: dict[str, Any] = {}
    for name, output in outputs.items():
        if name == GENDER_ROLE:
            continue
        if output.size == 1:
            values[name] = float(output[0])
        elif vectors:
            values[name] = output.tolist()
    return values


def render_people(
    people: Sequence[Person], caption: str, stand_in_weights: tuple[str, ...]
) -> str:
    """Render a table of people with thumbnails.

    Args:
        people: The people.
        caption: Text above the table.
        stand_in_weights: Names of the models with untrained weights.

    Returns:
        The table's HTML.
    """
    shown = people[:MAX_HTML_ROWS]
    thumbnails = render_thumbnails([(person.image, person.box) for person in shown])
    header = ["index", "image", "box"]
    has_gender = any(person.gender is not None for person in shown)
    if has_gender:
        header += ["gender", "probability"]
    rows = [
        [
            str(index),
            render_image(thumbnail),
            "" if person.box is None else _box_text(person.box),
            *(_gender_texts(person.gender) if has_gender else ()),
        ]
        for index, (person, thumbnail) in enumerate(zip(shown, thumbnails, strict=True))
    ]
    if len(people) > len(shown):
        caption += f"; the first {len(shown)} of {len(people)} are shown"
    return render_warning(stand_in_weights) + render_table(header, rows, caption)


def _gender_texts(gender: Gender | None) -> tuple[str, str]:
    if gender is None:
        return "", ""
    label = "undecided" if gender.abstained else gender.label
    return label, f"{gender.probability:.3f}"


def _box_text(box: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.0f}' for value in box)})"


def model_text(source: EmbeddingSource | None) -> str:
    """Return " of " and the name of the embeddings' model, empty if it is unknown.

    Args:
        source: Model and weights of the embeddings.

    Returns:
        The text.
    """
    return "" if source is None else f" of {source.model}"
