"""Kinship verification: area under the ROC curve, and Kaggle's submission file.

The metric and the submission's format are those of the competition "Northeastern
SMILE Lab - Recognizing Faces in the Wild"
(https://www.kaggle.com/c/recognizing-faces-in-the-wild).
"""

from __future__ import annotations

import csv
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import UNKNOWN, EvaluationError, ImagePairs
from builders.tensors import Output
from personserve.internal.figures import new_figure, place_legend
from personserve.internal.sections import Paragraph, Plot, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

UNREADABLE_PROBABILITY = 0.5
"""Answer for pairs with an unreadable image: a submission must contain every pair."""


def assess(
    dataset: ImagePairs, output: Output, probabilities: Array, readable: Array
) -> Assessment:
    """Compute ROC AUC and accuracy, or write the submission of unlabelled pairs.

    Args:
        dataset: The pairs. With `pair_names` they are Kaggle's unlabelled test pairs.
        output: The network's output, for its threshold.
        probabilities: Probability of each pair to be related, FP32 [N].
        readable: Pairs that have an answer, BOOL [N].

    Returns:
        The assessment; its headline is ROC AUC and accuracy, or empty for a submission.

    Raises:
        EvaluationError: If the labelled pairs are all related or all unrelated.
    """
    if dataset.pair_names:
        return _assess_submission(dataset, probabilities, readable)
    from sklearn.metrics import roc_auc_score

    known = readable & (dataset.related != UNKNOWN)
    labels, scores = dataset.related[known], probabilities[known].astype(np.float64)
    if len(np.unique(labels)) != 2:
        raise EvaluationError("a ROC curve needs both related and unrelated pairs")
    auc = float(roc_auc_score(labels, scores))
    accuracy = float(((scores >= output.threshold) == labels).mean())
    headline = {"ROC AUC": auc, "accuracy": accuracy}
    return Assessment(
        headline=headline,
        numbers={**headline, "pairs": len(labels), "related": int(labels.sum())},
        sections=[
            Table(
                "Kinship",
                ["", "value"],
                [
                    ["ROC AUC", f"{auc:.4f}"],
                    [f"accuracy at {output.threshold:g}", f"{accuracy:.2%}"],
                    ["pairs", str(len(labels))],
                ],
            ),
            Plot("ROC curve", _draw_roc_curve(labels, scores), "roc"),
        ],
    )


def _assess_submission(
    dataset: ImagePairs, probabilities: Array, readable: Array
) -> Assessment:
    answers = np.where(readable, probabilities, UNREADABLE_PROBABILITY)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["img_pair", "is_related"])
    writer.writerows(
        [name, f"{value:.6f}"]
        for name, value in zip(dataset.pair_names, answers, strict=True)
    )
    return Assessment(
        headline={},
        numbers={"pairs": len(answers)},
        sections=[
            Paragraph(
                "Submission",
                f"submission.csv has the answers for {len(answers)} pairs. Their "
                "labels are not public; Kaggle computes the score.",
            )
        ],
        files={"submission.csv": text.getvalue()},
    )


def _draw_roc_curve(labels: Array, scores: Array) -> Figure:
    from sklearn.metrics import RocCurveDisplay

    plot = new_figure()
    axes = plot.subplots()
    RocCurveDisplay.from_predictions(
        labels, scores, name="related", ax=axes, plot_chance_level=True
    )
    axes.set(
        xlabel="share of unrelated pairs called related",
        ylabel="share of related pairs called related",
    )
    place_legend(plot, [axes])
    return plot
