"""Are two faces kin: a compact siamese network, OURS, of the size seed 002 claims.

The seed's engine files of 3 MB cannot hold its published network (1.28 GB of weights,
see kinship_concat); this one has 762,401 parameters. It shares one trunk between both
faces and is symmetric: |a - b| and a * b go to a small head. No public checkpoint
exists; `trunk.*`, `embed` and `head.*` are our names.
"""

from __future__ import annotations

from builders.ops import BatchNorm, Ops, V
from builders.spec import Image, Model, Output

STAGES = ((0, 32, 2), (3, 64, 2), (6, 128, 2), (9, 192, 2), (12, 192, 1))
"""(number in the trunk, width, stride)."""

RELATED = Output("related_probability", 1, labels=("unrelated", "related"))


def face(name: str) -> Image:
    """A face of 100x100 in 0..1, as seed 002 takes it."""
    return Image(100, 100, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), name=name)


def embedding(ops: Ops[V], x: V) -> V:
    """[N, 3, H, W] -> [N, 256]."""
    for number, width, stride in STAGES:
        x = ops.convolution(
            x,
            f"trunk.{number}",
            width,
            kernel=3,
            stride=stride,
            padding=1,
            norm=BatchNorm(f"trunk.{number + 1}"),
        )
        x = ops.relu(x)
    return ops.linear(ops.flatten(ops.global_average(x)), "embed", 256)


def network(ops: Ops[V], face_a: V, face_b: V) -> dict[str, V]:
    """Two faces to P(related)."""
    return related(ops, embedding(ops, face_a), embedding(ops, face_b))


def related(ops: Ops[V], a: V, b: V) -> dict[str, V]:
    """Two embeddings [N, 256] to P(related)."""
    x = ops.concatenate(ops.absolute_difference(a, b), ops.multiply(a, b))
    x = ops.relu(ops.linear(x, "head.0", 128))
    return {RELATED.name: ops.sigmoid(ops.linear(x, "head.2", 1))}


MODEL = Model(
    name="kinship_compact",
    source="ours, of the size that seed 002 claims",
    licence="ours: Apache-2.0",
    assumptions="the whole architecture",
    network=network,
    images=(face("face_a"), face("face_b")),
    outputs=(RELATED,),
)
