"""Gender of a person from a full-body crop: ResNet18-IBN-a with a gender branch.

IBN-Net's ResNet18-IBN-a up to its third stage and an auxiliary branch, exactly as in
the published print-out of `GenderModel` (113 keys, 4,029,761 parameters, 1,460,387,968
MACs). builders/models/README.md tells what was published.

The print-out leaves these points open. They are decided from the closest public
sources:

* pixels: RGB, ImageNet mean and std (IBN-Net's imagenet.py, tensorrtx/ibnnet)
* resize: the whole crop to 224x224, bilinear, without letterbox. The 7x7 average pool
  forces 224x224; the interpolation is this project's choice
* output: sigmoid of the logit. The GenNet release of the same authors trains with
  BCEWithLogits, and the published report lists male before female, so male = 0,
  female = 1 and the sigmoid is P(female)
* threshold: 0.5

Published limits: upright people, camera angle up to 40 degrees, at least 80 pixels
wide, less than 20 % occluded; accuracy drops on unseen cameras.
"""

from __future__ import annotations

from builders.networks.heads import gender_branch
from builders.networks.residual import basic_stage, stem
from builders.ops import Ops, V
from builders.spec.model import Model
from builders.spec.source import Source
from builders.tensors import IMAGENET_MEAN, IMAGENET_STD, Image, Output


def trunk(ops: Ops[V], x: V) -> V:
    """Apply the backbone: [N, 3, H, W] to [N, 256, H / 16, W / 16].

    Every block has a split norm (instance norm and batch norm).

    Args:
        ops: The backend.
        x: Crops.
    """
    x = stem(ops, x, "backbone", pool="padded")
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        x = basic_stage(
            ops, x, "backbone", number=number, blocks=2, stride=stride, ibn=True
        )
    return x


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Return P(female) [N, 1] of crops [N, 3, 224, 224].

    Args:
        ops: The backend.
        crops: Crops.
    """
    return {"female_probability": gender_branch(ops, trunk(ops, crops))}


CROPS = Image(224, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
FEMALE_PROBABILITY = Output("female_probability", 1, labels=("male", "female"))

MODEL = Model(
    name="person_gender",
    source=Source(
        "ResNet18-IBN-a of IBN-Net with a gender branch",
        licence="MIT (IBN-Net)",
        url="https://github.com/XingangPan/IBN-Net",
        paper="arXiv:1807.09441",
    ),
    assumptions="RGB, ImageNet mean and std, bilinear resize, male=0 and female=1, "
    "threshold 0.5: not published",
    network=network,
    images=(CROPS,),
    outputs=(FEMALE_PROBABILITY,),
)
