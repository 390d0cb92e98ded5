"""Gender of a person from a full-body crop: a RECONSTRUCTION of GenNet.

GenNet's architecture is not public; its release shows it only as an image. Known are
the input (256x128), one logit trained with BCEWithLogits, and 0.82 ms on a GTX 1060.
This network fits those figures and has no other evidence: five stride-2 convolutions,
a global average and two linear layers. A GenNet checkpoint is not expected to load;
the key names `features.*` and `classifier.*` are this project's.
"""

from __future__ import annotations

from builders.models.person_gender import FEMALE_PROBABILITY
from builders.ops import BatchNorm, Conv, Ops, V
from builders.spec.model import Model
from builders.spec.source import Source
from builders.tensors import IMAGENET_MEAN, IMAGENET_STD, Image

WIDTHS = (32, 64, 128, 128, 256)


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Return P(female) [N, 1] of crops [N, 3, 256, 128].

    Args:
        ops: The backend.
        crops: Crops.
    """
    x = crops
    for stage, width in enumerate(WIDTHS):
        x = ops.convolution(
            x,
            Conv(
                f"features.{3 * stage}",
                width,
                kernel=3,
                stride=2,
                padding=1,
                norm=BatchNorm(f"features.{3 * stage + 1}"),
            ),
        )
        x = ops.relu(x)
    x = ops.flatten(ops.global_average(x))
    x = ops.relu(ops.linear(x, "classifier.0", 64))
    return {"female_probability": ops.sigmoid(ops.linear(x, "classifier.3", 1))}


MODEL = Model(
    name="person_gender_gennet_recon",
    source=Source(
        "reconstruction of GenNet, whose architecture is not public",
        licence="Apache-2.0 (this project)",
        url="https://github.com/onearmbandit/VAS-Core-Research/pull/64",
    ),
    assumptions="everything but the input size and the single logit",
    network=network,
    images=(Image(256, 128, mean=IMAGENET_MEAN, std=IMAGENET_STD),),
    outputs=(FEMALE_PROBABILITY,),
)
