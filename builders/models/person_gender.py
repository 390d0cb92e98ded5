"""Gender of a person from a full-body crop: seed 000's GenderModel.

ResNet18-IBN-a up to stage 3 and an auxiliary branch, exactly as the seed prints it
(113 keys, 4,029,761 parameters, 1,460,387,968 MACs).

The seed leaves open, and this file decides from the closest public sources:

* pixels: RGB, ImageNet mean and std (IBN-Net's imagenet.py, tensorrtx/ibnnet)
* resize: the whole crop to 224x224, bilinear, no letterbox (the 7x7 average pool
  forces 224x224; the interpolation is our choice)
* output: sigmoid of the logit. The sibling release (seed 001) trains with
  BCEWithLogits, and the seed's report lists male before female, so that
  male = 0, female = 1 and the sigmoid is P(female)
* threshold: 0.5

The seed states its own limits: upright people, camera angle up to 40 degrees, at
least 80 pixels wide, less than 20 % occluded; accuracy drops on unseen cameras.
"""

from __future__ import annotations

from builders.networks.heads import gender_branch
from builders.networks.residual import basic_stage, stem
from builders.ops import Ops, V
from builders.spec import IMAGENET_MEAN, IMAGENET_STD, Image, Model, Output


def trunk(ops: Ops[V], x: V) -> V:
    """[N, 3, H, W] -> [N, 256, H / 16, W / 16], instance norm in every block."""
    x = stem(ops, x, "backbone", pool="padded")
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        x = basic_stage(
            ops, x, "backbone", number=number, blocks=2, stride=stride, ibn=True
        )
    return x


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Crops to P(female)."""
    return {"female_probability": gender_branch(ops, trunk(ops, crops))}


CROPS = Image(224, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
FEMALE_PROBABILITY = Output("female_probability", 1, labels=("male", "female"))

MODEL = Model(
    name="person_gender",
    source="seed 000 (GenderModel print-out); XingangPan/IBN-Net",
    licence="architecture: MIT (IBN-Net)",
    assumptions="RGB ImageNet mean and std, bilinear resize, male=0 and female=1, "
    "threshold 0.5: not in the seed",
    network=network,
    images=(CROPS,),
    outputs=(FEMALE_PROBABILITY,),
)
