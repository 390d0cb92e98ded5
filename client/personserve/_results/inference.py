"""Results of single networks: raw outputs, and classes of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._results.html import describe_untrained


class InferResult(dict[str, npt.NDArray[Any]]):
    """A model's output arrays by name.

    Attributes:
        model: Name of the model.
        stand_in_weights: As in People.
        weights: Origin of the model's weights as the server states it; empty if the
            server does not.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[Any]],
        model: str = "",
        stand_in_weights: tuple[str, ...] = (),
        weights: str = "",
    ) -> None:
        super().__init__(arrays)
        self.model = model
        self.stand_in_weights = stand_in_weights
        self.weights = weights

    def __repr__(self) -> str:
        arrays = ", ".join(
            f"{name} {np.asarray(array).dtype} {list(np.shape(array))}"
            for name, array in self.items()
        )
        untrained = describe_untrained(self.stand_in_weights)
        return f"<InferResult of {self.model}: {arrays}{untrained}>"


@dataclass(frozen=True)
class ClassScore:
    """One class of a classification.

    Attributes:
        index: Number of the class.
        probability: Probability of the class, 0 to 1.
        label: Name of the class, or None if the caller gave no labels.
    """

    index: int
    probability: float
    label: str | None = None


@dataclass(frozen=True, eq=False)
class Classification:
    """The most probable classes of one image.

    Attributes:
        classes: The classes, the most probable first.
        stand_in_weights: As in People.
    """

    classes: tuple[ClassScore, ...]
    stand_in_weights: tuple[str, ...] = ()


def top_classes(
    probabilities: npt.NDArray[np.float32],
    count: int,
    labels: Sequence[str] | None,
    stand_in_weights: tuple[str, ...],
) -> Classification:
    """Return the most probable classes.

    Args:
        probabilities: FP32 [C].
        count: Number of classes to return.
        labels: Names of all classes; None for none.
        stand_in_weights: As in People.

    Returns:
        The classes; of equally probable ones the one with the lower index first.
    """
    order = np.argsort(-probabilities, kind="stable")[:count]
    classes = (
        ClassScore(
            int(i), float(probabilities[i]), None if labels is None else labels[i]
        )
        for i in order
    )
    return Classification(tuple(classes), stand_in_weights)
