"""Gender of a person from a full-body crop, on Intel's RMNet body.

The body is that of Izutov's RMNet (arXiv:1812.02465) as in OpenVINO's training
extensions (rmnet.py), with a global average and one logit. It normalises inside
(`data_bn`), so its pixels are 0..255 BGR, as in Intel's models. The body is public, a
gender checkpoint is not. Keys of the body load under rmnet.py's names, too; the head's
(`classifier`) are this project's.

The GenNet release compares GenNet with an RMNet but does not say which of the two
public networks of that name it means.
"""

from __future__ import annotations

from builders.models.person_gender import FEMALE_PROBABILITY
from builders.ops import BatchNorm, Conv, Ops, V
from builders.spec.model import Model, Tolerance
from builders.spec.source import Source
from builders.tensors import Image

STAGES = ((32, 8, 4), (64, 16, 8), (128, 32, 10), (256, 64, 11))
"""(channels, bottleneck channels, blocks) of each stage.

From the second stage on, one more block halves the size first.
"""


HEAD_LAYERS = ("data_bn", "conv1", "bn1")
"""Layers before the first stage."""

LAYERS = {
    "squeeze_conv": "conv1",
    "squeeze_bn": "bn1",
    "dw_conv": "conv2",
    "dw_bn": "bn2",
    "expand_conv": "conv3",
    "expand_bn": "bn3",
    "skip_conv": "shortcut",
    "skip_conv_bn": "shortcut_bn",
}
"""Names of a block's layers by their names in rmnet.py."""


def original_names() -> dict[str, str]:
    """Return the prefixes of keys of rmnet.py's body, and the ones here.

    There a body is `stages`, or `backbone.stages` in a classifier, and the block that
    halves the size is the first of its stage.
    """
    aliases = {f"stages.stage_0.{name}.": f"{name}." for name in HEAD_LAYERS}
    for number, (_, _, blocks) in enumerate(STAGES, start=1):
        names = ["down"] * (number > 1) + [str(index) for index in range(blocks)]
        for position, block in enumerate(names):
            aliases |= {
                f"stages.stage_{number}.{position}.{original}.": (
                    f"layer{number}.{block}.{name}."
                )
                for original, name in LAYERS.items()
            }
    return aliases | {f"backbone.{old}": new for old, new in aliases.items()}


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Return P(female) [N, 1] of crops [N, 3, 256, 128].

    Args:
        ops: The backend.
        crops: Crops, 0..255 BGR.
    """
    x = ops.batch_norm(crops, BatchNorm("data_bn"))
    x = ops.convolution(
        x, Conv("conv1", 32, kernel=3, stride=2, padding=1, norm=BatchNorm("bn1"))
    )
    x = ops.relu(x)
    for number, (width, inner, blocks) in enumerate(STAGES, start=1):
        if number > 1:
            x = _block(ops, x, f"layer{number}.down", width, inner, down=True)
        for index in range(blocks):
            x = _block(ops, x, f"layer{number}.{index}", width, inner, down=False)
    x = ops.flatten(ops.global_average(x))
    return {"female_probability": ops.sigmoid(ops.linear(x, "classifier", 1))}


def _block(ops: Ops[V], x: V, name: str, width: int, inner: int, *, down: bool) -> V:
    y = ops.convolution(
        x, Conv(f"{name}.conv1", inner, kernel=1, norm=BatchNorm(f"{name}.bn1"))
    )
    y = ops.convolution(
        ops.elu(y),
        Conv(
            f"{name}.conv2",
            inner,
            kernel=3,
            stride=2 if down else 1,
            padding=1,
            groups=inner,
            norm=BatchNorm(f"{name}.bn2"),
        ),
    )
    y = ops.convolution(
        ops.elu(y),
        Conv(f"{name}.conv3", width, kernel=1, norm=BatchNorm(f"{name}.bn3")),
    )
    if down:
        x = ops.convolution(
            ops.max_pool(x, kernel=2, stride=2),
            Conv(
                f"{name}.shortcut",
                width,
                kernel=1,
                norm=BatchNorm(f"{name}.shortcut_bn"),
            ),
        )
    return ops.elu(ops.add(y, x))


MODEL = Model(
    name="person_gender_rmnet",
    source=Source(
        "RMNet body of OpenVINO training extensions with a gender head",
        licence="Apache-2.0 (openvino_training_extensions)",
        url="https://github.com/opencv/openvino_training_extensions",
        paper="arXiv:1812.02465",
    ),
    assumptions="which RMNet; 0..255 BGR pixels; the gender head",
    network=network,
    images=(Image(256, 128, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), order="BGR"),),
    outputs=(FEMALE_PROBABILITY,),
    aliases=original_names(),
    # the first layer reads the output of data_bn, whose range is wide, and alone causes
    # half of the error; the narrow stages gain nothing from INT8, because every change
    # of type around a depthwise convolution is a pass over memory of its own
    int8_exclude=("conv1", "layer1.*", "layer2.*", "layer3.*"),
    # 113 convolutions of stand-in weights: a difference of 0.0203 in FP16 on an H200
    tolerance=Tolerance(reduced_abs=0.03),
)
