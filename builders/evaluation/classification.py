"""ImageNet classification: top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import (
    UNKNOWN,
    EvaluationError,
    IntArray,
    LabelledImages,
)
from personserve.internal.sections import Table

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

HARDEST_CLASSES = 10
"""Number of classes with the lowest accuracy that a report lists."""


def assess(
    dataset: LabelledImages, logits: FloatArray, readable: BoolArray
) -> Assessment:
    """Compute top-1, top-5 and per-class accuracy.

    Args:
        dataset: The labelled images.
        logits: Score of each class, FP32 [N, classes]; the largest is the answer.
        readable: Images that have an answer, BOOL [N].

    Returns:
        The assessment; its headline is top-1 and top-5.

    Raises:
        EvaluationError: If the labels do not fit the network's classes.
    """
    from sklearn.metrics import top_k_accuracy_score

    known = readable & (dataset.labels != UNKNOWN)
    labels, scores = dataset.labels[known], np.asarray(logits[known])
    classes = scores.shape[1]
    _require_classes(dataset, labels, classes)
    headline = {
        f"top-{k}": float(
            top_k_accuracy_score(labels, scores, k=k, labels=np.arange(classes))
        )
        for k in (1, 5)
    }
    per_class = _accuracy_by_class(dataset, labels, scores)
    hardest = sorted(per_class.items(), key=lambda item: item[1])[:HARDEST_CLASSES]
    return Assessment(
        headline=headline,
        numbers={
            **headline,
            "images": len(labels),
            "classes": len(per_class),
            "top-1 by class": per_class,
        },
        sections=[
            Table(
                "Classification",
                ["", "accuracy", "error"],
                [[name, f"{v:.2%}", f"{1 - v:.2%}"] for name, v in headline.items()],
            ),
            Table(
                "Hardest classes",
                ["class", "top-1"],
                [[name, f"{value:.1%}"] for name, value in hardest],
            ),
        ],
    )


def _require_classes(dataset: LabelledImages, labels: IntArray, classes: int) -> None:
    if labels.size and labels.max() >= classes:
        raise EvaluationError(
            f"label {labels.max()}: the network has {classes} classes, 0 to "
            f"{classes - 1}"
        )
    # fewer classes than the network has are a subset of ImageNet
    names = len(dataset.names)
    if names not in {0, classes} and len(np.unique(labels)) > classes:
        raise EvaluationError(
            f"the data set has {names} classes, the network has {classes}"
        )


def _accuracy_by_class(
    dataset: LabelledImages, labels: IntArray, scores: FloatArray
) -> Mapping[str, Any]:
    correct = scores.argmax(axis=1) == labels
    return {
        dataset.names[label] if label < len(dataset.names) else str(label): float(
            correct[labels == label].mean()
        )
        for label in np.unique(labels)
    }
