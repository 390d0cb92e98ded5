"""Confidence of a trained probability: temperature, threshold, and reliability.

Temperature scaling divides a logit by one number, which is chosen on validation data
(Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599). It does not
change which answers are given at a threshold of 0.5, only how sure they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders.training.scores import binary_scores
from personserve.internal.figures import new_figure, place_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

BINS = 10
TEMPERATURES = (0.05, 20.0)
TARGET_ACCURACY = 0.95
BAND_STEPS = 100


@dataclass(frozen=True)
class Confidence:
    """Statistics of a probability on the validation part.

    Attributes:
        temperature: Divisor of the logit that makes the probability fit best.
        threshold: Threshold of the served probability with the largest macro F1.
        abstain: Half-width of the band around the threshold outside of which
            TARGET_ACCURACY of the answers are right; None if no band achieves it.
        coverage: Share of the rows outside the band.
        error_before: Expected calibration error of the served probability.
        error_after: The same with the temperature.
    """

    temperature: float
    threshold: float
    abstain: float | None
    coverage: float
    error_before: float
    error_after: float


def measure_confidence(logits: FloatArray, labels: IntArray) -> Confidence:
    """Return temperature, threshold and abstain band of a probability.

    Args:
        logits: FP [N].
        labels: 0 or 1, INT64 [N].
    """
    temperature = fit_temperature(logits, labels)
    plain = sigmoid(logits)
    threshold = _choose_threshold(plain, labels)
    abstain, coverage = _choose_band(plain, labels, threshold)
    return Confidence(
        temperature,
        threshold,
        abstain,
        coverage,
        calibration_error(plain, labels),
        calibration_error(sigmoid(logits / temperature), labels),
    )


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """Return the temperature with the smallest cross-entropy, within TEMPERATURES.

    Args:
        logits: FP [N].
        labels: 0 or 1, INT64 [N].
    """
    from scipy.optimize import minimize_scalar

    signed = np.where(labels == 1, logits, -logits).astype(np.float64)

    def cross_entropy(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    bounds = np.log(TEMPERATURES)
    result = minimize_scalar(cross_entropy, bounds=bounds, method="bounded")
    return float(np.exp(result.x))


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x)), without overflow.

    Args:
        logits: x.
    """
    result: FloatArray = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    return result


def calibration_error(probabilities: FloatArray, labels: IntArray) -> float:
    """Return the expected calibration error over BINS bins of equal width.

    Args:
        probabilities: FP [N], of label 1.
        labels: 0 or 1, INT64 [N].
    """
    return float(
        sum(
            count / len(labels) * abs(share - mean)
            for mean, share, count in _reliability(probabilities, labels)
        )
    )


def _reliability(
    probabilities: FloatArray, labels: IntArray
) -> list[tuple[float, float, int]]:
    """Return mean probability, share of label 1 and size of each bin with rows."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    rows = []
    for index in range(BINS):
        mask = bins == index
        if mask.any():
            mean, share = probabilities[mask].mean(), labels[mask].mean()
            rows.append((float(mean), float(share), int(mask.sum())))
    return rows


def _choose_threshold(probabilities: FloatArray, labels: IntArray) -> float:
    """Return the threshold of the largest macro F1; of several, the middle one."""
    choice = np.linspace(0.02, 0.98, 97)
    f1 = np.array(
        [binary_scores(probabilities, labels, float(t))["macro F1"] for t in choice]
    )
    best = choice[f1 >= f1.max() - 1e-12]
    return float(best[len(best) // 2])


def _choose_band(
    probabilities: FloatArray, labels: IntArray, threshold: float
) -> tuple[float | None, float]:
    correct = (probabilities >= threshold) == labels
    distance = np.abs(probabilities - threshold)
    for band in np.linspace(0, 0.5, BAND_STEPS, endpoint=False):
        answered = distance >= band
        if answered.any() and correct[answered].mean() >= TARGET_ACCURACY:
            return float(band), float(answered.mean())
    return None, 0.0


def draw_reliability(
    probabilities: Sequence[tuple[str, FloatArray]], labels: IntArray
) -> Figure:
    """Draw how often label 1 is right against the probability that is answered.

    Args:
        probabilities: Name and values [N] of each series.
        labels: 0 or 1, INT64 [N].
    """
    figure = new_figure()
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), linestyle=":", color="grey", label="ideal")
    for name, values in probabilities:
        rows = _reliability(values, labels)
        axes.plot([r[0] for r in rows], [r[1] for r in rows], marker="o", label=name)
    axes.set(xlabel="mean probability of a bin", ylabel="share of label 1 in the bin")
    axes.grid(alpha=0.3)
    place_legend(figure, [axes])
    return figure
