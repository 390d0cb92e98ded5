"""Kinship of two faces: a compact siamese network of this project.

The published network (`kinship_concat`) has 320 million parameters; this one has
762,401. Both faces pass the same trunk, and the answer does not depend on their order:
|a - b| and a * b go to a small head. There is no public checkpoint; the key names
`trunk.*`, `embed` and `head.*` are this project's.
"""

from __future__ import annotations

from builders.ops import BatchNorm, Conv, Ops, V
from builders.spec.model import Model
from builders.spec.source import Source
from builders.tensors import Image, Output

STAGES = ((0, 32, 2), (3, 64, 2), (6, 128, 2), (9, 192, 2), (12, 192, 1))
"""(index in the trunk, channels, stride) of each convolution."""

RELATED = Output("related_probability", 1, labels=("unrelated", "related"))


def face(name: str) -> Image:
    """Return a face input of 100x100 pixels, scaled to 0..1.

    Args:
        name: Name of the input tensor.
    """
    return Image(100, 100, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), name=name)


def embed_face(ops: Ops[V], x: V) -> V:
    """Apply the trunk: [N, 3, H, W] to an embedding [N, 256], not normalised.

    Args:
        ops: The backend.
        x: Faces.
    """
    for number, width, stride in STAGES:
        x = ops.convolution(
            x,
            Conv(
                f"trunk.{number}",
                width,
                kernel=3,
                stride=stride,
                padding=1,
                norm=BatchNorm(f"trunk.{number + 1}"),
            ),
        )
        x = ops.relu(x)
    return ops.linear(ops.flatten(ops.global_average(x)), "embed", 256)


def network(ops: Ops[V], face_a: V, face_b: V) -> dict[str, V]:
    """Return P(related) [N, 1] of two faces [N, 3, H, W] each.

    Args:
        ops: The backend.
        face_a: First face.
        face_b: Second face.
    """
    return compare_embeddings(ops, embed_face(ops, face_a), embed_face(ops, face_b))


def compare_embeddings(ops: Ops[V], a: V, b: V) -> dict[str, V]:
    """Return P(related) [N, 1] of two embeddings [N, 256] each.

    Args:
        ops: The backend.
        a: First embedding.
        b: Second embedding.
    """
    x = ops.concatenate(ops.absolute_difference(a, b), ops.multiply(a, b))
    x = ops.relu(ops.linear(x, "head.0", 128))
    return {RELATED.name: ops.sigmoid(ops.linear(x, "head.2", 1))}


MODEL = Model(
    name="kinship_compact",
    source=Source(
        "compact siamese network of this project, for the task of "
        "recognizing-faces-in-the-wild",
        licence="Apache-2.0 (this project)",
        url="https://github.com/sdecoder/recognizing-faces-in-the-wild",
    ),
    assumptions="the whole architecture; the published one is kinship_concat",
    network=network,
    images=(face("face_a"), face("face_b")),
    outputs=(RELATED,),
)
