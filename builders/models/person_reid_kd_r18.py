"""Person re-identification, FastReID's distilled ResNet18-IBN (kd-r18-r101_ibn).

Stride 1 in the last stage, GeM pooling with a learned power, batch-norm neck,
512 values; the embedding is L2-normalised here because cosine is how it is compared.

No public configuration carries this name: depth, IBN and size follow seed 004 and the
FastRT documents. Keys of training-time parts (classifier, distillation connectors,
pixel buffers) are dropped by name.
"""

from __future__ import annotations

from builders.models.person_gender import IMAGENET_MEAN, IMAGENET_STD
from builders.networks.heads import reid_head
from builders.networks.residual import basic_stage, stem
from builders.ops import Ops, V
from builders.spec import Image, Model, Output


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Crops to unit embeddings."""
    x = stem(ops, crops, "backbone", pool="ceil")
    for number, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        x = basic_stage(
            ops, x, "backbone", number=number, blocks=2, stride=stride, ibn=number < 4
        )
    return {"embedding": reid_head(ops, x)}


MODEL = Model(
    name="person_reid_kd_r18",
    source="seed 004; JDAI-CV/fast-reid, projects/FastDistill",
    licence="architecture: Apache-2.0 (fast-reid)",
    assumptions="384x128 as in seed 004; no public configuration states the size",
    network=network,
    images=(
        Image(384, 128, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="cubic"),
    ),
    outputs=(Output("embedding", 512),),
    dropped=(
        "heads.weight",
        "heads.classifier.weight",
        "pixel_mean",
        "pixel_std",
        "connectors_*",
        "margin*",
    ),
)
