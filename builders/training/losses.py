"""Losses, each by the formula of its paper, in FP32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from builders.evaluation.datasets import UNKNOWN


def binary_loss(
    logits: Tensor, labels: Tensor, positive_share: float | None = None
) -> Tensor:
    """Return the mean cross-entropy of a sigmoid over the rows with a label.

    Args:
        logits: FP32 [N].
        labels: INT64 [N]: 0, 1 or UNKNOWN.
        positive_share: Share p of positive rows in the training part, for the weighted
            loss: exp(1 - p) for positive rows and exp(p) for the others (Jia et al.,
            "Rethinking of Pedestrian Attribute Recognition", arXiv:2005.11909, eq. 2).
            None for weights of 1.
    """
    is_known = labels != UNKNOWN
    targets = labels.clamp(min=0).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="none"
    )
    if positive_share is not None:
        share = torch.tensor(positive_share, device=logits.device)
        losses = losses * torch.where(labels == 1, (1 - share).exp(), share.exp())
    return (losses * is_known).sum() / is_known.sum().clamp(min=1)


def class_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy with smoothed labels over the rows with a label.

    The target is 1 - smoothing at the label, plus smoothing / K everywhere (Szegedy et
    al., "Rethinking the Inception Architecture", arXiv:1512.00567, section 7).

    Args:
        logits: FP32 [N, K].
        labels: INT64 [N], or UNKNOWN.
        smoothing: Probability that is spread over all K classes.
    """
    return functional.cross_entropy(
        logits, labels, ignore_index=UNKNOWN, label_smoothing=smoothing
    )


def circle_logits(
    cosines: Tensor, labels: Tensor, scale: float = 64.0, margin: float = 0.35
) -> Tensor:
    """Return the logits of the circle loss's classification form.

    scale * alpha_p * (s_p - (1 - m)) at the label and scale * alpha_n * (s_n - m)
    elsewhere, with the weights alpha_p = max(1 + m - s_p, 0) and alpha_n =
    max(s_n + m, 0), which have no gradient (Sun et al., "Circle Loss",
    arXiv:2002.10857, eq. 6 and 8).

    Args:
        cosines: Cosine of each feature and each class's weights, FP32 [N, K].
        labels: INT64 [N].
        scale: Factor of the logits.
        margin: Relaxation m.
    """
    fixed = cosines.detach()
    positive = (1 + margin - fixed).clamp(min=0) * (cosines - (1 - margin))
    negative = (fixed + margin).clamp(min=0) * (cosines - margin)
    is_label = functional.one_hot(labels, cosines.shape[1]).bool()
    return scale * torch.where(is_label, positive, negative)


def triplet_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Return the soft-margin triplet loss with batch-hard mining.

    The mean of log(1 + exp(d_p - d_n)), where d_p is the distance to the furthest row
    of the same identity and d_n that to the nearest of all others (Hermans et al., "In
    Defense of the Triplet Loss", arXiv:1703.07737, eq. 5 and section 3.2).

    Args:
        features: FP32 [N, D].
        labels: Identity of each row, INT64 [N].
    """
    distances = euclidean_distances(features)
    is_same = labels[:, None] == labels[None, :]
    furthest = distances.masked_fill(~is_same, float("-inf")).amax(dim=1)
    nearest = distances.masked_fill(is_same, float("inf")).amin(dim=1)
    # rows whose batch has no other identity have no triplet
    has_both = nearest.isfinite()
    losses = functional.softplus(furthest - nearest.where(has_both, furthest))
    return (losses * has_both).sum() / has_both.sum().clamp(min=1)


def euclidean_distances(features: Tensor) -> Tensor:
    """Return the distances of all pairs of rows, FP32 [N, N].

    Args:
        features: FP32 [N, D].
    """
    squares = features.square().sum(dim=1)
    products = squares[:, None] + squares[None, :] - 2 * features @ features.T
    # the gradient of a root at 0 is infinite; FastReID clamps at the same value
    return products.clamp(min=1e-12).sqrt()


def divergence_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the symmetric Kullback-Leibler divergence of two classifiers.

    The mean of both directions at a temperature T, times T squared, as FastReID's
    distiller computes its "jsdiv" (projects/FastDistill/fastdistill).

    Args:
        student: Logits, FP32 [N, K].
        teacher: Logits, FP32 [N, K], without gradient.
        temperature: T.
    """
    first, second = (
        functional.log_softmax(x / temperature, dim=1) for x in (student, teacher)
    )
    both = [
        functional.kl_div(a, b, reduction="batchmean", log_target=True)
        for a, b in ((first, second), (second, first))
    ]
    return temperature**2 * torch.stack(both).mean()
