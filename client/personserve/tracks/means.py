"""Weighted means of a track's answers, in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from personserve._results import FloatArray

MAX_LOG_ODDS = math.log(0.999 / 0.001)
"""Limit on the log-odds of an answer, so that a single one that is certain, and wrong,
does not outvote the others."""

SETTLED_ERRORS = 2.0
"""Standard errors between a mean and the threshold from which on it is settled."""


@dataclass
class GenderMean:
    """Mean of the log-odds of "female", weighted by the quality of the boxes.

    The mean of log-odds is the logarithmic opinion pool of C. Genest and J. V. Zidek,
    "Combining probability distributions" (Statistical Science, 1986).

    Attributes:
        count: Number of answers.
        weight: Sum of their weights.
        total: Sum of the weighted log-odds.
        total_squares: Sum of the weighted squares of the log-odds.
        squared_weight: Sum of the squares of the weights.
    """

    count: int = 0
    weight: float = 0.0
    total: float = 0.0
    total_squares: float = 0.0
    squared_weight: float = 0.0

    def add(self, female_probability: float, weight: float) -> None:
        """Add an answer.

        Args:
            female_probability: Probability of "female", 0 to 1.
            weight: Quality of the box, over 0.
        """
        value = log_odds(female_probability)
        self.count += 1
        self.weight += weight
        self.total += weight * value
        self.total_squares += weight * value**2
        self.squared_weight += weight**2

    def merge(self, other: GenderMean) -> None:
        """Add all answers of another mean.

        Args:
            other: The other mean.
        """
        self.count += other.count
        self.weight += other.weight
        self.total += other.total
        self.total_squares += other.total_squares
        self.squared_weight += other.squared_weight

    def is_settled(self, threshold: float) -> bool:
        """Return whether the mean is clearly on one side of the threshold.

        It is if the threshold is not within two standard errors of the mean. From one
        answer, the error cannot be estimated.

        Args:
            threshold: Probability between the two labels.

        Returns:
            True if it is, or there is one answer or none.
        """
        if self.count < 2:
            return True
        mean = self.total / self.weight
        # of a weighted sample: sum of squared weights over the squared sum
        share = self.squared_weight / self.weight**2
        variance = max(0.0, self.total_squares / self.weight - mean**2)
        error = math.sqrt(variance * share / max(1e-9, 1.0 - share))
        return abs(mean - log_odds(threshold)) > SETTLED_ERRORS * error

    @property
    def female_probability(self) -> float | None:
        """The probability whose log-odds are the mean; None without answers."""
        if not self.count:
            return None
        return 1.0 / (1.0 + math.exp(-self.total / self.weight))


@dataclass
class EmbeddingMean:
    """Running mean of embeddings, weighted by the quality of the boxes.

    Attributes:
        count: Number of answers.
        total: Sum of the weighted embeddings, FP32 [D]; None without answers.
    """

    count: int = 0
    total: FloatArray | None = None

    def add(self, embedding: FloatArray, weight: float) -> None:
        """Add an embedding.

        Args:
            embedding: FP32 [D] of unit length.
            weight: Quality of the box, over 0.
        """
        self.count += 1
        weighted = np.asarray(weight * embedding, np.float32)
        self.total = weighted if self.total is None else self.total + weighted

    def merge(self, other: EmbeddingMean) -> None:
        """Add all answers of another mean.

        Args:
            other: The other mean, of the same model and weights.
        """
        if other.total is not None:
            self.count += other.count
            self.total = other.total if self.total is None else self.total + other.total

    @property
    def embedding(self) -> FloatArray | None:
        """The mean, FP32 [D] of unit length; None without answers."""
        if self.total is None:
            return None
        length = float(np.linalg.norm(self.total))
        # opposite embeddings have no mean direction
        return np.asarray(self.total / length, np.float32) if length > 0 else None


def log_odds(probability: float) -> float:
    """Return the logarithm of the odds of a probability, within MAX_LOG_ODDS.

    Args:
        probability: From 0 to 1.

    Returns:
        From -MAX_LOG_ODDS to MAX_LOG_ODDS.
    """
    if probability <= 0.0 or probability >= 1.0:
        return math.copysign(MAX_LOG_ODDS, probability - 0.5)
    value = math.log(probability / (1.0 - probability))
    return max(-MAX_LOG_ODDS, min(MAX_LOG_ODDS, value))
