"""Gender and embedding of a person in one pass: the concurrent network.

One ResNet18-IBN-a trunk. The gender branch starts after stage 3 and the ReID branch
after stage 4, so that each task has layers of its own. Gender keys are those of
person_gender; stage 4 continues the trunk (`backbone.layer4`, stride 2 as in IBN-Net)
and the ReID head has FastReID's key names.

The published description covers the split, but no print-out of the ReID side: the
head, its 512 values and the shared 224x224 crop are this project's reading. The
decisions about the gender side are those of person_gender.
"""

from __future__ import annotations

from builders.models.person_gender import CROPS, FEMALE_PROBABILITY, trunk
from builders.networks.heads import gender_branch, reid_head
from builders.networks.residual import basic_stage
from builders.ops import Ops, V
from builders.spec.model import Model
from builders.spec.source import Source
from builders.tensors import Output


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Return P(female) [N, 1] and unit embeddings [N, 512] of crops [N, 3, 224, 224].

    Args:
        ops: The backend.
        crops: Crops.
    """
    shared = trunk(ops, crops)
    reid = basic_stage(ops, shared, "backbone", number=4, blocks=2, stride=2, ibn=False)
    return {
        "female_probability": gender_branch(ops, shared),
        "embedding": reid_head(ops, reid),
    }


MODEL = Model(
    name="person_gender_reid",
    source=Source(
        "concurrent gender and ReID network on ResNet18-IBN-a",
        licence="MIT (IBN-Net), Apache-2.0 (fast-reid head)",
        url="https://github.com/XingangPan/IBN-Net",
        paper="arXiv:1807.09441",
    ),
    assumptions="ReID head (GeM, BN neck, 512 values), the shared 224x224 crop, and "
    "all that person_gender assumes: not published",
    network=network,
    images=(CROPS,),
    outputs=(FEMALE_PROBABILITY, Output("embedding", 512)),
    dropped=("heads.weight",),  # the classifier that only training needs
    # the largest maps cause a third of the embedding's error (cosine 0.985 to 0.991)
    int8_exclude=("backbone.conv1", "backbone.layer1.*"),
)
