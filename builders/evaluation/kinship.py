"""Kinship verification: area under the ROC curve, and Kaggle's submission file."""

from __future__ import annotations

import csv
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders import markdown
from builders.evaluation.assessment import Assessment, figure
from builders.evaluation.datasets import UNKNOWN, EvaluationError, Pairs
from builders.spec import Output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

UNREADABLE_PROBABILITY = 0.5
"""What a submission says of pairs whose pictures cannot be read: it must have all."""


def assess(
    data: Pairs, output: Output, probabilities: Array, readable: Array
) -> Assessment:
    """`probabilities` FP32 [N] of being related, for the pairs of `data`."""
    known = readable & (data.related != UNKNOWN)
    if data.pair_names:
        return _submission(data, probabilities, readable)
    labels, scores = data.related[known], probabilities[known].astype(np.float64)
    if len(np.unique(labels)) != 2:
        raise EvaluationError("ROC needs related and unrelated pairs")
    from sklearn.metrics import roc_auc_score

    auc = float(roc_auc_score(labels, scores))
    right = (scores >= output.threshold) == labels
    accuracy = float(right.mean())
    found = {"ROC AUC": auc, "accuracy": accuracy}
    return Assessment(
        headline=found,
        numbers={**found, "pairs": len(labels), "related": int(labels.sum())},
        text={
            "Kinship": markdown.table(
                ["", "value"],
                [
                    ["ROC AUC", f"{auc:.4f}"],
                    [f"accuracy at {output.threshold:g}", f"{accuracy:.2%}"],
                    ["pairs", str(len(labels))],
                ],
            )
        },
        plots={"roc": _roc_plot(labels, scores)},
    )


def _submission(data: Pairs, probabilities: Array, readable: Array) -> Assessment:
    filled = np.where(readable, probabilities, UNREADABLE_PROBABILITY)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["img_pair", "is_related"])
    writer.writerows(
        [name, f"{value:.6f}"]
        for name, value in zip(data.pair_names, filled, strict=True)
    )
    return Assessment(
        headline={},
        numbers={"pairs": len(filled)},
        text={
            "Submission": f"{len(filled)} pairs in submission.csv; their labels are "
            "Kaggle's."
        },
        files={"submission.csv": text.getvalue()},
    )


def _roc_plot(labels: Array, scores: Array) -> Figure:
    from sklearn.metrics import RocCurveDisplay

    plot = figure()
    RocCurveDisplay.from_predictions(
        labels, scores, name="related", ax=plot.subplots(), plot_chance_level=True
    )
    return plot
