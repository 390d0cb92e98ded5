"""What calls return: frozen, typed, and plain NumPy inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Gender:
    """The gender network's answer for one person.

    `label` is the server's label for `female_probability` at the server's threshold.
    """

    female_probability: float
    label: str

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


@dataclass(frozen=True, eq=False)
class Kinship:
    """Who is kin to whom: `probabilities` is FP32 [N, M], P(related) of face n of the
    first set and face m of the second. `stand_in_weights` as in People.
    """

    probabilities: FloatArray
    stand_in_weights: tuple[str, ...] = ()


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

    def similarities(self) -> FloatArray:
        """Cosine similarity of every two people, [N, N]."""
        return self.embeddings @ self.embeddings.T
