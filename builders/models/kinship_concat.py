"""Kinship of two faces: the siamese network of recognizing-faces-in-the-wild.

Exactly the published network. Each face passes reflection padding, a convolution with
bias, ReLU and batch norm (in that order) three times at full size. Both results are
flattened to 320,000 values and concatenated, and three linear layers give two logits;
P(related) is the softmax of the second. The first linear layer alone has 320,000,500
parameters (1.28 GB), so the model is built only when it is named.

Published accuracy on 296 pairs: 58.5 % and 59.3 % (chance is 50 %). The publication
resizes with Pillow's bilinear filter, which averages where an image shrinks: variant
`linear_antialias`. OpenCV's bilinear interpolation is declared, as for the other
kinship networks; P(related) differs by up to 0.17.
"""

from __future__ import annotations

from builders.models.kinship_compact import RELATED, face
from builders.ops import BatchNorm, Conv, Ops, V
from builders.spec.model import Batching, Model
from builders.spec.source import Source
from builders.spec.variants import interpolation_choice

STAGES = ((1, 64), (6, 64), (11, 32))
"""(index in cnn1, channels) of each convolution."""


def network(ops: Ops[V], face_a: V, face_b: V) -> dict[str, V]:
    """Return P(related) [N, 1] of two faces [N, 3, 100, 100] each.

    Args:
        ops: The backend.
        face_a: First face.
        face_b: Second face.
    """
    x = ops.concatenate(_face_values(ops, face_a), _face_values(ops, face_b))
    x = ops.relu(ops.linear(x, "fc1", 500))
    x = ops.relu(ops.linear(x, "fc2", 500))
    logits = ops.linear(x, "fc3", 2)
    return {RELATED.name: ops.select(ops.softmax(logits), 1)}


def _face_values(ops: Ops[V], x: V) -> V:
    for number, width in STAGES:
        x = ops.reflection_pad(x, 1)
        x = ops.convolution(x, Conv(f"cnn1.{number}", width, kernel=3, bias=True))
        x = ops.batch_norm(ops.relu(x), BatchNorm(f"cnn1.{number + 2}"))
    return ops.flatten(x)


MODEL = Model(
    name="kinship_concat",
    source=Source(
        "siamese network of recognizing-faces-in-the-wild",
        licence="MIT (recognizing-faces-in-the-wild)",
        url="https://github.com/sdecoder/recognizing-faces-in-the-wild",
    ),
    network=network,
    images=(face("face_a"), face("face_b")),
    outputs=(RELATED,),
    choices=(
        interpolation_choice(
            "linear",
            "linear_antialias",
            use="as the published accuracy was measured",
        ),
    ),
    batching=Batching(max_batch_size=64, opt_batch_size=64, cpu_instances=1),
    on_request=True,
)
