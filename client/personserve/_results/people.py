"""The people of a call."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve._results.detections import detections_with_people, results_with_people
from personserve._results.fields import fields_from_outputs, join_fields
from personserve._results.html import describe_untrained
from personserve._results.inference import Classification, top_classes
from personserve._results.person import (
    FloatArray,
    Person,
    model_text,
    render_people,
    require_embedding,
)
from personserve._results.records import (
    dict_from_people,
    records_from_people,
    table_from_people,
)
from personserve._results.roles import (
    CLASSES_ROLE,
    EMBEDDING_ROLE,
    GENDER_ROLE,
    KINSHIP_ROLE,
    Role,
    RoleKind,
    kind_of_role,
    missing_role,
)
from personserve._results.source import EmbeddingSource, require_one_source

PersonIndices = Sequence[int] | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]
"""Several people: their indices, or a mask of all of them."""


@dataclass(frozen=True, eq=False, repr=False)
class People(Sequence[Person]):
    """The people of one call, in the order of the boxes or crops.

    A slice, a list of indices or a mask gives People again. What the people have
    depends on the model: each of its outputs is a role, and what it does not answer is
    None.

    Attributes:
        persons: One Person for each box or crop.
        female_probabilities: FP32 [N]; None if the model answers no gender.
        embeddings: FP32 [N, D], each row of unit length; D is the network's for no
            people, too. None if the model answers no embedding.
        stand_in_weights: Names of the server's models that run on untrained stand-in
            weights. If there are any, the numbers have no meaning.
        source: Model and weights of the embeddings; None if the server does not state
            them.
        gender_labels: The server's labels of female probabilities 0 and 1.
        outputs: Everything that the model answered, FP32 [N, D] by role (the name of
            the output), as it came.
        roles: What the server states about each output.
        gender_role: The output that the genders come from.
        embedding_role: The output that the embeddings come from.
    """

    persons: tuple[Person, ...]
    female_probabilities: FloatArray | None
    embeddings: FloatArray | None
    stand_in_weights: tuple[str, ...] = ()
    source: EmbeddingSource | None = None
    gender_labels: tuple[str, ...] = field(default=(), kw_only=True)
    outputs: Mapping[str, FloatArray] = field(default_factory=dict, kw_only=True)
    roles: Mapping[str, Role] = field(default_factory=dict, kw_only=True)
    gender_role: str = field(default=GENDER_ROLE, kw_only=True)
    embedding_role: str = field(default=EMBEDDING_ROLE, kw_only=True)

    def __post_init__(self) -> None:
        if not self.outputs:  # people that the caller has made
            outputs = {}
            if self.female_probabilities is not None:
                outputs[self.gender_role] = self.female_probabilities[:, None]
            if self.embeddings is not None:
                outputs[self.embedding_role] = self.embeddings
            object.__setattr__(self, "outputs", outputs)

    @overload
    def __getitem__(self, index: int) -> Person: ...
    @overload
    def __getitem__(self, index: slice | PersonIndices) -> People: ...
    def __getitem__(self, index: int | slice | PersonIndices) -> Person | People:
        if isinstance(index, int | np.integer):
            return self.persons[index]
        rows: Any = index if isinstance(index, slice) else _check_indices(index)
        probabilities, embeddings = self.female_probabilities, self.embeddings
        return replace(
            self,
            persons=tuple(self.persons[i] for i in np.arange(len(self))[rows]),
            female_probabilities=None if probabilities is None else probabilities[rows],
            embeddings=None if embeddings is None else embeddings[rows],
            outputs={name: values[rows] for name, values in self.outputs.items()},
        )

    def __len__(self) -> int:
        return len(self.persons)

    def __iter__(self) -> Iterator[Person]:
        return iter(self.persons)

    @classmethod
    def concatenate(cls, parts: Sequence[People]) -> People:
        """Join the people of several calls, for example of a video's frames.

        Args:
            parts: At least one People, all from the same model and weights.

        Returns:
            All people in order.

        Raises:
            InvalidInputError: If there are no parts, or they have different outputs, or
                embeddings of different models or weights, or of different sizes.
        """
        return parts[0] if len(parts) == 1 else cls(**join_fields(parts))

    @property
    def kinship_embeddings(self) -> FloatArray | None:
        """Embeddings for kinship, FP32 [N, D]; None if the model answers none."""
        return self.outputs.get(KINSHIP_ROLE)

    @property
    def class_probabilities(self) -> FloatArray | None:
        """Probabilities of classes, FP32 [N, C]; None if the model answers none."""
        return self.outputs.get(CLASSES_ROLE)

    def select(
        self, *, gender: str | None = None, embedding: str | None = None
    ) -> People:
        """Return the same people with other outputs as their gender and embedding.

        Comparisons and galleries use the embedding of people; with
        `people.select(embedding="kinship_embedding")` they use that one.

        Args:
            gender: Role of the gender, for example "face_female_probability"; None for
                the present one.
            embedding: Role of the embedding; None for the present one.

        Returns:
            People with the same outputs.

        Raises:
            InvalidInputError: If the model does not answer the role, or it is of
                another kind.
        """
        if gender is None and embedding is None:
            return self
        choices: dict[RoleKind, str | None] = {"gender": gender, "embedding": embedding}
        for kind, name in choices.items():
            if name is not None and (
                name not in self.roles or kind_of_role(name) != kind
            ):
                raise missing_role(kind, self.outputs, name)
        fields = fields_from_outputs(
            self.outputs,
            self.roles,
            [person.box for person in self],
            [person.image for person in self],
            self.stand_in_weights,
            gender=gender or self.gender_role,
            embedding=embedding or self.embedding_role,
        )
        return People(**fields)

    def top_classes(self, count: int = 5) -> list[Classification]:
        """Return the most probable classes of each person.

        Args:
            count: Number of classes to return for each person.

        Returns:
            One Classification for each person, in order.

        Raises:
            InvalidInputError: If the model answers no classes.
        """
        probabilities = self.class_probabilities
        if probabilities is None:
            raise missing_role("classes", self.outputs)
        role = self.roles.get(CLASSES_ROLE)
        labels = None if role is None or not role.labels else role.labels
        return [
            top_classes(row, count, labels, self.stand_in_weights)
            for row in probabilities
        ]

    def similarities(self, other: People | None = None) -> FloatArray:
        """Return the cosine similarities of all pairs.

        Args:
            other: People to compare with, or None to compare these with each other.

        Returns:
            FP32 [N, M]; row n belongs to person n, column m to person m of `other`.

        Raises:
            InvalidInputError: If the embeddings come from different models or weights,
                or the model answers none.
        """
        others = self if other is None else other
        if len(self) == 0 or len(others) == 0:
            return np.empty((len(self), len(others)), np.float32)
        first, second = require_embeddings(self), require_embeddings(others)
        require_one_source((self.source, others.source))
        return first @ second.T

    def nearest(
        self, to: Person | FloatArray, count: int = 1
    ) -> tuple[tuple[int, float], ...]:
        """Return the most similar people.

        Args:
            to: A person, or an embedding FP32 [D].
            count: Number of people to return, if there are as many.

        Returns:
            Pairs of index and cosine similarity, the most similar first; of equally
            similar ones the one with the lower index.

        Raises:
            InvalidInputError: If the embedding has another length than these people's,
                or comes from another model or other weights; or if a model answers no
                embedding.
        """
        embedding = require_embedding(to) if isinstance(to, Person) else np.asarray(to)
        if len(self) == 0:
            return ()
        embeddings = require_embeddings(self)
        if isinstance(to, Person):
            require_one_source((self.source, to.source))
        if embedding.shape != embeddings.shape[1:]:
            raise InvalidInputError(
                f"nearest: expected an embedding [{embeddings.shape[1]}], got "
                f"{list(embedding.shape)}"
            )
        values = embeddings @ embedding
        order = np.argsort(-values, kind="stable")[:count]
        return tuple((int(i), float(values[i])) for i in order)

    def labels(self) -> list[str]:
        """Return the text of each person, such as "female 0.91", to be drawn.

        Without a gender it is "person".
        """
        return [
            "person" if person.gender is None else str(person.gender) for person in self
        ]

    def to_dict(self, *, embeddings: bool = False) -> dict[str, Any]:
        """Convert to numbers, strings and lists, for JSON.

        Args:
            embeddings: Whether to include the embeddings, and other vectors.

        Returns:
            A dict with "people" (see Person.to_dict) and "stand_in_weights", and with
            "embedding_source" if it is known, and the sources of other embeddings.
        """
        return dict_from_people(self, embeddings=embeddings)

    def to_json(self, *, embeddings: bool = False) -> str:
        """Convert to JSON text.

        Args:
            embeddings: Whether to include the embeddings, and other vectors.

        Returns:
            The JSON text of to_dict.
        """
        return json.dumps(self.to_dict(embeddings=embeddings))

    def to_records(self, *, embeddings: bool = False) -> list[dict[str, Any]]:
        """Convert to flat rows, for tables and CSV files.

        Args:
            embeddings: Whether to include the embeddings, as lists.

        Returns:
            For each person a dict of RECORD_COLUMNS, and "embedding" if included.
            "person" is the index; the corners of the box are None for crops.
        """
        return records_from_people(self, embeddings=embeddings)

    def to_pandas(self, *, embeddings: bool = False) -> Any:
        """Convert to a pandas DataFrame.

        Args:
            embeddings: Whether to include the embeddings, as lists.

        Returns:
            A pandas.DataFrame of one row for each person, with the columns of
            to_records.

        Raises:
            InvalidInputError: If pandas is not installed.
        """
        return table_from_people(self, embeddings=embeddings)

    def to_supervision(
        self, detections: Any = None, *, embeddings: bool = False
    ) -> Any:
        """Return supervision's Detections with the results in their `data`.

        Args:
            detections: The Detections that were passed as boxes; they are not changed,
                and their tracker ids and other fields are kept. None for new ones.
            embeddings: Whether to include the embeddings, FP32 [N, D].

        Returns:
            Detections whose `data` have "gender", "gender_probability" and
            "female_probability", and "embedding" if included.

        Raises:
            InvalidInputError: If the number of detections is another, if people without
                boxes have no detections, or if supervision is not installed.
        """
        return detections_with_people(self, detections, embeddings=embeddings)

    def to_ultralytics(self, results: Any) -> Any:
        """Return ultralytics' Results whose classes are the genders.

        `plot()` then draws the gender and its probability in place of the detector's
        class and confidence. Track ids, masks and keypoints are kept.

        Args:
            results: The Results that were passed as boxes; they are not changed.

        Returns:
            Results with `names` and the boxes' `cls` and `conf` of the gender.

        Raises:
            InvalidInputError: If the number of boxes is another.
        """
        return results_with_people(self, results)

    def __repr__(self) -> str:
        return f"<{self._describe()}{describe_untrained(self.stand_in_weights)}>"

    def _repr_html_(self) -> str:
        return render_people(self, self._describe(), self.stand_in_weights)

    def _describe(self) -> str:
        genders = Counter(
            "undecided" if person.gender.abstained else person.gender.label
            for person in self
            if person.gender is not None
        )
        counts = ", ".join(f"{count} {label}" for label, count in genders.items())
        text = f"People: {len(self)}{f' ({counts})' if counts else ''}"
        if self.embeddings is not None:
            shape = list(self.embeddings.shape)
            text += f", embeddings {shape}{model_text(self.source)}"
        for name, values in self.outputs.items():
            if name not in {self.gender_role, self.embedding_role}:
                role = self.roles.get(name)
                source = None if role is None else role.source
                text += f", {name} {list(values.shape)}{model_text(source)}"
        return text


def require_embeddings(people: People) -> FloatArray:
    """Return the embeddings of people.

    Args:
        people: The people.

    Returns:
        FP32 [N, D].

    Raises:
        InvalidInputError: If their model answers none.
    """
    if people.embeddings is None:
        raise missing_role("embedding", people.outputs)
    return people.embeddings


def _check_indices(index: PersonIndices) -> npt.NDArray[Any]:
    rows = np.asarray(index)
    if rows.size == 0:
        return np.empty(0, np.intp)
    if rows.ndim != 1 or rows.dtype.kind not in "bi":
        raise TypeError(
            "People: expected an index, a slice, a list of indices or a mask, got "
            f"{type(index).__name__}"
        )
    return rows
