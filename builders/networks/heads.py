"""Heads of the person networks: the gender branch and the ReID embedding head."""

from __future__ import annotations

from typing import Literal

from builders.ops import BatchNorm, Conv, Ops, V

HeadPool = Literal["gem", "average"]
"""Pooling of FastReID's head: generalised mean with a learned power, or the mean."""


def gender_branch(ops: Ops[V], x: V) -> V:
    """Apply the auxiliary gender branch: [N, 256, 14, 14] to P(female) [N, 1].

    A stride-2 convolution with bias and batch norm, a 7x7 average pool, two linear
    layers with nothing between them (as in the published print-out) and a sigmoid.

    Args:
        ops: The backend.
        x: Output of the backbone's third stage.
    """
    x = ops.convolution(
        x,
        Conv(
            "gender_conv.0",
            512,
            kernel=3,
            stride=2,
            padding=1,
            bias=True,
            norm=BatchNorm("gender_conv.1"),
        ),
    )
    x = ops.flatten(ops.average_pool(ops.relu(x), kernel=7, stride=7))
    linear = "gender_classifier.linear_layers.linear"
    x = ops.linear(x, f"{linear}.0", 128)
    return ops.sigmoid(ops.linear(x, f"{linear}.1", 1))


def reid_head(ops: Ops[V], x: V, pool: HeadPool = "gem") -> V:
    """Apply FastReID's EmbeddingHead: [N, C, H, W] to a unit embedding [N, C].

    Pooling, the batch-norm neck, and L2 normalisation, which FastReID leaves to the
    caller and which is part of the network here
    (fastreid/modeling/heads/embedding_head.py).

    Args:
        ops: The backend.
        x: Output of the backbone's last stage.
        pool: Kind of the pooling.
    """
    is_gem = pool == "gem"
    x = ops.gem_pool(x, "heads.pool_layer") if is_gem else ops.global_average(x)
    x = ops.batch_norm(x, BatchNorm("heads.bottleneck.0"))
    return ops.l2_norm(ops.flatten(x))
