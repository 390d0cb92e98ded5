"""What stands behind a trunk: the gender branch and the ReID embedding head."""

from __future__ import annotations

from builders.ops import BatchNorm, Ops, V


def gender_branch(ops: Ops[V], x: V) -> V:
    """Seed 000's auxiliary branch: [N, 256, 14, 14] -> P(female) [N, 1].

    A stride-2 convolution with bias and batch norm, a 7x7 average pool and two linear
    layers with nothing between them (as the print-out shows), then a sigmoid.
    """
    x = ops.convolution(
        x,
        "gender_conv.0",
        512,
        kernel=3,
        stride=2,
        padding=1,
        bias=True,
        norm=BatchNorm("gender_conv.1"),
    )
    x = ops.flatten(ops.average_pool(ops.relu(x), kernel=7, stride=7))
    linear = "gender_classifier.linear_layers.linear"
    x = ops.linear(x, f"{linear}.0", 128)
    return ops.sigmoid(ops.linear(x, f"{linear}.1", 1))


def reid_head(ops: Ops[V], x: V) -> V:
    """FastReID's EmbeddingHead at inference: GeM pooling with a learned power, the
    batch-norm neck, and L2 normalisation (the model leaves that to its callers; ours
    must not have to remember it). [N, C, H, W] -> unit embedding [N, C].
    """
    x = ops.gem_pool(x, "heads.pool_layer")
    x = ops.batch_norm(x, BatchNorm("heads.bottleneck.0"))
    return ops.l2_norm(ops.flatten(x))
