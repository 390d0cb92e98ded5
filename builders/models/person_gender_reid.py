"""Gender and ReID in one pass: the concurrent network that seed 000 describes.

One ResNet18-IBN-a trunk; the gender branch leaves after block 3, the ReID branch
after block 4, so that both tasks keep features of their own. Gender keys are those
of person_gender; block 4 continues the trunk (`backbone.layer4`, stride 2 as in
IBN-Net) and the ReID head has FastReID's names.

The seed describes the split and shows no print-out of the ReID side: the head, its
512 values and the shared 224x224 crop are our reading. What the gender side leaves
open is decided in person_gender.
"""

from __future__ import annotations

from builders.models.person_gender import CROPS, FEMALE_PROBABILITY, trunk
from builders.networks.heads import gender_branch, reid_head
from builders.networks.residual import basic_stage
from builders.ops import Ops, V
from builders.spec import Model, Output


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Crops to P(female) and unit embeddings."""
    shared = trunk(ops, crops)
    own = basic_stage(ops, shared, "backbone", number=4, blocks=2, stride=2, ibn=False)
    return {
        "female_probability": gender_branch(ops, shared),
        "embedding": reid_head(ops, own),
    }


MODEL = Model(
    name="person_gender_reid",
    source="seed 000 (concurrent gender and ReID); XingangPan/IBN-Net",
    licence="architecture: MIT (IBN-Net), Apache-2.0 (fast-reid head)",
    assumptions="ReID head (GeM, BN neck, 512 values), the shared 224x224 crop, and "
    "all that person_gender assumes: not in the seed",
    network=network,
    images=(CROPS,),
    outputs=(FEMALE_PROBABILITY, Output("embedding", 512)),
    # the largest maps: a third of the embedding's error (cosine 0.985 to 0.991)
    int8_exclude=("backbone.conv1", "backbone.layer1.*"),
)
