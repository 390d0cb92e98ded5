"""Gender of a person, a RECONSTRUCTION of seed 001's GenNet.

GenNet's architecture is not public: the seed shows it only as a picture that is not in
its text. What the seed fixes is the input (256x128), one logit with BCEWithLogits, and
0.82 ms on a GTX 1060. This network fits those and has no other evidence: five stride-2
convolutions, global average, two linear layers. Do not expect anybody's checkpoint to
load; `features.*` and `classifier.*` are our names.
"""

from __future__ import annotations

from builders.models.person_gender import FEMALE_PROBABILITY
from builders.ops import BatchNorm, Ops, V
from builders.spec import IMAGENET_MEAN, IMAGENET_STD, Image, Model

WIDTHS = (32, 64, 128, 128, 256)


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Crops to P(female)."""
    x = crops
    for stage, width in enumerate(WIDTHS):
        x = ops.convolution(
            x,
            f"features.{3 * stage}",
            width,
            kernel=3,
            stride=2,
            padding=1,
            norm=BatchNorm(f"features.{3 * stage + 1}"),
        )
        x = ops.relu(x)
    x = ops.flatten(ops.global_average(x))
    x = ops.relu(ops.linear(x, "classifier.0", 64))
    return {"female_probability": ops.sigmoid(ops.linear(x, "classifier.3", 1))}


MODEL = Model(
    name="person_gender_gennet_recon",
    source="seed 001 (GenNet), reconstructed: the architecture is not public",
    licence="ours: Apache-2.0",
    assumptions="everything but the input size and the single logit",
    network=network,
    images=(Image(256, 128, mean=IMAGENET_MEAN, std=IMAGENET_STD),),
    outputs=(FEMALE_PROBABILITY,),
)
