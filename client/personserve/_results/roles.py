"""Roles: the meaning of each output of a model that answers about people.

A role is the name of an output tensor, and its ending tells what kind it is:
`embedding` and `kinship_embedding` are embeddings, `female_probability` and
`face_female_probability` are genders. So two outputs of one kind are told apart by
their roles, whatever the networks behind them are called.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from personserve._errors import InvalidInputError
from personserve._results.source import EmbeddingSource

GENDER_ROLE = "female_probability"
EMBEDDING_ROLE = "embedding"
KINSHIP_ROLE = "kinship_embedding"
CLASSES_ROLE = "class_probabilities"

RoleKind = Literal["gender", "embedding", "classes", "values"]
"""What an output holds for each person: a probability with two labels, a vector to be
compared by its cosine, probabilities of classes, or other numbers."""

_KINDS: dict[str, RoleKind] = {
    GENDER_ROLE: "gender",
    EMBEDDING_ROLE: "embedding",
    CLASSES_ROLE: "classes",
}


@dataclass(frozen=True)
class Gender:
    """The gender network's answer for one person.

    Attributes:
        female_probability: Probability of "female", 0 to 1.
        label: The server's label for this probability, by the server's threshold.
        abstained: Whether the client's `abstain_below` is higher than the probability
            of either label, so that the label should not be used.
    """

    female_probability: float
    label: str
    abstained: bool = False

    @property
    def probability(self) -> float:
        """Probability of the more probable label: that of `label` at threshold 0.5."""
        return max(self.female_probability, 1.0 - self.female_probability)

    def __str__(self) -> str:
        label = "undecided" if self.abstained else self.label
        return f"{label} {self.probability:.2f}"


@dataclass(frozen=True)
class Role:
    """An output of a model, as its description on the server explains it.

    Attributes:
        name: Name of the output.
        labels: Names of the classes: of female probabilities 0 and 1 for a gender, of
            each column for classes; empty if the server states none.
        threshold: Probability from which on the second label of a gender holds.
        abstain_below: The client's limit for genders; see Client.
        source: Model and weights of the output; None if the server does not state them.
    """

    name: str
    labels: tuple[str, ...] = ()
    threshold: float = 0.5
    abstain_below: float = 0.0
    source: EmbeddingSource | None = None

    @property
    def kind(self) -> RoleKind:
        """Meaning of an output, by the ending of its name."""
        return kind_of_role(self.name)

    def gender(self, female_probability: float) -> Gender:
        """Return the gender for a probability, by the labels and the threshold.

        Args:
            female_probability: Probability of the second label, 0 to 1.

        Returns:
            The gender.
        """
        return Gender(
            female_probability,
            self.labels[int(female_probability >= self.threshold)],
            max(female_probability, 1.0 - female_probability) < self.abstain_below,
        )


def kind_of_role(name: str) -> RoleKind:
    """Return what an output holds, by the ending of its name.

    Args:
        name: Name of the output.

    Returns:
        The kind.
    """
    for ending, kind in _KINDS.items():
        if name == ending or name.endswith(f"_{ending}"):
            return kind
    return "values"


def missing_role(
    kind: RoleKind,
    roles: Iterable[str],
    role: str = "",
    error: type[InvalidInputError] = InvalidInputError,
) -> InvalidInputError:
    """Build the error for something that the people's model does not answer.

    Args:
        kind: What is missing.
        roles: The outputs that the model answers.
        role: The output that was expected; empty for the usual one of its kind.
        error: Class of the error.

    Returns:
        The error, to be raised by the caller.
    """
    names = list(roles)
    alternatives = [name for name in names if kind_of_role(name) == kind]
    advice = "ask a model that answers it (client.frame_models() lists them)"
    if alternatives and kind in {"gender", "embedding"}:
        advice = f'choose people.select({kind}="{alternatives[0]}")'
    return error(
        f"these people have no {kind}{role and f' {role!r}'}: their model answers "
        f"{', '.join(names) or 'nothing'}; {advice}"
    )
