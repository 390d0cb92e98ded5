"""Validation scores that are computed in every epoch.

The full protocols are in builders.evaluation; these are their main figures, with NumPy
and torch alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

EPS = 1e-7
QUERY_BLOCK = 1024


def binary_scores(
    probabilities: FloatArray, labels: IntArray, threshold: float = 0.5
) -> dict[str, float]:
    """Return loss, accuracy and macro F1 of a probability.

    Args:
        probabilities: FP [N].
        labels: 0 or 1, INT64 [N].
        threshold: Smallest probability that is answered with 1.
    """
    p = np.clip(probabilities.astype(np.float64), EPS, 1 - EPS)
    answers = probabilities >= threshold
    f1 = []
    for positive in (False, True):
        hits = np.count_nonzero((answers == positive) & (labels == positive))
        misses = np.count_nonzero(answers == positive) + np.count_nonzero(
            labels == positive
        )
        f1.append(2 * hits / misses if misses else 0.0)
    return {
        "loss": float(-np.where(labels == 1, np.log(p), np.log(1 - p)).mean()),
        "accuracy": float((answers == labels).mean()),
        "macro F1": float(np.mean(f1)),
    }


def retrieval_scores(
    features: Tensor, identities: IntArray, cameras: IntArray
) -> dict[str, float]:
    """Return rank-1 and mAP of every image as a query among all others.

    Images of the same person by the same camera do not count, as in Market-1501's
    protocol, unless all images are of one camera; a query without a match is left out.

    Args:
        features: Embeddings, FP32 [N, D].
        identities: INT64 [N].
        cameras: INT64 [N].
    """
    device = features.device
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    people = torch.from_numpy(identities).to(device)
    views = torch.from_numpy(cameras).to(device)
    count = len(identities)
    if len(np.unique(cameras)) == 1:
        views = torch.arange(count, device=device)
    firsts, precisions = [], []
    for start in range(0, count, QUERY_BLOCK):
        rows = torch.arange(start, min(start + QUERY_BLOCK, count), device=device)
        # 64-bit sums, and a stable sort: ties keep the gallery's order
        order = (unit[rows].double() @ unit.double().T).argsort(
            dim=1, descending=True, stable=True
        )
        is_person = people[order] == people[rows][:, None]
        is_left_out = (is_person & (views[order] == views[rows][:, None])) | (
            order == rows[:, None]
        )
        matches = is_person & ~is_left_out
        rank = (~is_left_out).cumsum(dim=1)
        precision = matches.cumsum(dim=1) / rank.clamp(min=1)
        total = matches.sum(dim=1)
        has_match = total > 0
        ap = (precision * matches).sum(dim=1) / total.clamp(min=1)
        firsts.append(((rank == 1) & matches).any(dim=1)[has_match].double())
        precisions.append(ap[has_match].double())
    first, precise = torch.cat(firsts), torch.cat(precisions)
    if not len(precise):
        return {"loss": 1.0, "rank-1": 0.0, "mAP": 0.0, "queries": 0.0}
    mean_ap = float(precise.mean())
    return {
        "loss": 1.0 - mean_ap,
        "rank-1": float(first.mean()),
        "mAP": mean_ap,
        "queries": float(len(precise)),
    }


def class_scores(logits: FloatArray, labels: IntArray) -> dict[str, float]:
    """Return loss and top-1 accuracy of classes.

    Args:
        logits: FP [N, K].
        labels: INT64 [N].
    """
    values = logits.astype(np.float64)
    shifted = values - values.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return {
        "loss": float(-log_p[np.arange(len(labels)), labels].mean()),
        "accuracy": float((values.argmax(axis=1) == labels).mean()),
    }
