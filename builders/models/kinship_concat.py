"""Are two faces kin: seed 002's siamese network, exactly as its author published it.

Three times reflection padding, convolution with bias, ReLU, batch norm (in that order)
at full size, both faces flattened to 320,000 values and concatenated, three linear
layers, two logits; P(related) is the second's softmax. fc1 alone has 320,000,500
parameters (1.28 GB), so it is only built when it is named.

Published accuracy on 296 pairs: 58.5 to 59.3 % (chance is 50 %).
"""

from __future__ import annotations

from builders.models.kinship_compact import RELATED, face
from builders.ops import BatchNorm, Ops, V
from builders.spec import Batching, Model

STAGES = ((1, 64), (6, 64), (11, 32))
"""(number in cnn1, width)."""


def network(ops: Ops[V], face_a: V, face_b: V) -> dict[str, V]:
    """Two faces to P(related)."""
    x = ops.concatenate(_flat(ops, face_a), _flat(ops, face_b))
    x = ops.relu(ops.linear(x, "fc1", 500))
    x = ops.relu(ops.linear(x, "fc2", 500))
    logits = ops.linear(x, "fc3", 2)
    return {RELATED.name: ops.select(ops.softmax(logits), 1)}


def _flat(ops: Ops[V], x: V) -> V:
    for number, width in STAGES:
        x = ops.reflection_pad(x, 1)
        x = ops.convolution(x, f"cnn1.{number}", width, kernel=3, bias=True)
        x = ops.batch_norm(ops.relu(x), BatchNorm(f"cnn1.{number + 2}"))
    return ops.flatten(x)


MODEL = Model(
    name="kinship_concat",
    source="seed 002; sdecoder/recognizing-faces-in-the-wild",
    licence="architecture: MIT (recognizing-faces-in-the-wild)",
    network=network,
    images=(face("face_a"), face("face_b")),
    outputs=(RELATED,),
    batching=Batching(maximum=64, usual=64, cpu_instances=1),
    on_request=True,
)
