"""ImageNet classification: top-1 and top-5 accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from builders import markdown
from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import UNKNOWN, EvaluationError, Labelled

FloatArray = npt.NDArray[np.float32]

SHOWN_CLASSES = 10


def assess(data: Labelled, logits: FloatArray, readable: Any) -> Assessment:
    """`logits` FP32 [N, classes] of the pictures of `data` that were `readable` [N]."""
    from sklearn.metrics import top_k_accuracy_score

    known = readable & (data.labels != UNKNOWN)
    labels, scores = data.labels[known], np.asarray(logits[known])
    classes = scores.shape[1]
    if labels.size and labels.max() >= classes:
        raise EvaluationError(
            f"label {labels.max()}: the network knows {classes} classes, 0 to "
            f"{classes - 1}"
        )
    if len(data.names) not in {0, classes} and len(np.unique(labels)) > classes:
        raise EvaluationError(f"{len(data.names)} classes, the network has {classes}")
    top1, top5 = (
        float(top_k_accuracy_score(labels, scores, k=k, labels=np.arange(classes)))
        for k in (1, 5)
    )
    right = scores.argmax(axis=1) == labels
    per_class = {
        data.names[label] if label < len(data.names) else str(label): float(
            right[labels == label].mean()
        )
        for label in np.unique(labels)
    }
    worst = sorted(per_class.items(), key=lambda item: item[1])[:SHOWN_CLASSES]
    return Assessment(
        headline={"top-1": top1, "top-5": top5},
        numbers={
            "top-1": top1,
            "top-5": top5,
            "pictures": len(labels),
            "classes": len(per_class),
            "top-1 by class": per_class,
        },
        text={
            "Classification": markdown.table(
                ["", "accuracy", "error"],
                [
                    ["top-1", f"{top1:.2%}", f"{1 - top1:.2%}"],
                    ["top-5", f"{top5:.2%}", f"{1 - top5:.2%}"],
                ],
            ),
            "Hardest classes": markdown.table(
                ["class", "top-1"], [[name, f"{value:.1%}"] for name, value in worst]
            ),
        },
    )
