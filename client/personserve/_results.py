"""What calls return: frozen, typed, and plain NumPy inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Gender:
    """The gender network's answer for one person.

    `label` is the server's label for `female_probability` at the server's threshold.
    `abstained` says that the client was told to decide only above a probability that
    this one does not reach.
    """

    female_probability: float
    label: str
    abstained: bool = False

    @property
    def probability(self) -> float:
        """The probability of `label`, if the threshold is one half."""
        return max(self.female_probability, 1.0 - self.female_probability)


@dataclass(frozen=True, eq=False)
class Person:
    """One person. `embedding` is FP32 [D] of unit length; `box` is (x0, y0, x1, y1)
    in pixels as it was asked, or None where crops were sent.
    """

    gender: Gender
    embedding: FloatArray
    box: tuple[float, float, float, float] | None = None

    def similarity(self, other: Person) -> float:
        """Cosine similarity of two people, -1 to 1."""
        return float(self.embedding @ other.embedding)

    def to_dict(self, *, embedding: bool = True) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        found: dict[str, Any] = {
            "gender": {
                "label": self.gender.label,
                "probability": self.gender.probability,
                "female_probability": self.gender.female_probability,
                "abstained": self.gender.abstained,
            }
        }
        if self.box is not None:
            found["box"] = list(self.box)
        if embedding:
            found["embedding"] = self.embedding.tolist()
        return found


@dataclass(frozen=True, eq=False)
class People(Sequence[Person]):
    """The answer for N people, in the order they were asked.

    `female_probabilities` is FP32 [N], `embeddings` FP32 [N, D]. `stand_in_weights`
    names the server's models whose weights are untrained stand-ins: if it is not
    empty, the numbers mean nothing.
    """

    persons: tuple[Person, ...]
    female_probabilities: FloatArray
    embeddings: FloatArray
    stand_in_weights: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Person: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Person, ...]: ...
    def __getitem__(self, index: int | slice) -> Person | tuple[Person, ...]:
        return self.persons[index]

    def __len__(self) -> int:
        return len(self.persons)

    def __iter__(self) -> Iterator[Person]:
        return iter(self.persons)

    def similarities(self, other: People | None = None) -> FloatArray:
        """Cosine similarity of these people with `other` ones, or each other [N, M]."""
        others = self if other is None else other
        if len(self) == 0 or len(others) == 0:
            return np.empty((len(self), len(others)), np.float32)
        return self.embeddings @ others.embeddings.T

    def nearest(
        self, to: Person | FloatArray, count: int = 1
    ) -> tuple[tuple[int, float], ...]:
        """(index, cosine similarity) of the `count` people most alike `to`, a person or
        an embedding [D]; the most alike first, of equals the first.
        """
        embedding = to.embedding if isinstance(to, Person) else np.asarray(to)
        if len(self) == 0:
            return ()
        if embedding.shape != self.embeddings.shape[1:]:
            raise InvalidInputError(
                f"nearest: expected an embedding [{self.embeddings.shape[1]}], got "
                f"{list(embedding.shape)}"
            )
        values = self.embeddings @ embedding
        order = np.argsort(-values, kind="stable")[:count]
        return tuple((int(i), float(values[i])) for i in order)

    def to_dict(self, *, embeddings: bool = True) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "people": [person.to_dict(embedding=embeddings) for person in self],
            "stand_in_weights": list(self.stand_in_weights),
        }

    def to_json(self, *, embeddings: bool = True) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(embeddings=embeddings))


@dataclass(frozen=True, eq=False)
class Kinship:
    """Who is kin to whom: `probabilities` is FP32 [N, M], P(related) of face n of the
    first set and face m of the second. `stand_in_weights` as in People.
    """

    probabilities: FloatArray
    stand_in_weights: tuple[str, ...] = ()

    @property
    def probability(self) -> float:
        """P(related) of the only pair. Raises ValueError where there are more."""
        return float(self.probabilities.item())


@dataclass(frozen=True)
class Class:
    """One of a classifier's classes; `label` is None where nobody gave labels."""

    index: int
    probability: float
    label: str | None = None


@dataclass(frozen=True, eq=False)
class Classification:
    """The most probable classes of a picture, the first the most; `stand_in_weights`
    as in People.
    """

    classes: tuple[Class, ...]
    stand_in_weights: tuple[str, ...] = ()
