"""Gender of a person on Intel's RMNet body, which seed 001 compares GenNet with.

RMNet has two public meanings, and the seed does not say which; this is Izutov's
(arXiv 1812.02465), with the body of OpenVINO's training extensions (rmnet.py), global
average and one logit. It normalises inside (`data_bn`), so pixels go in as 0..255 BGR,
as Intel's models take them. The body is public, a gender checkpoint is not; key names
below the stages are ours.
"""

from __future__ import annotations

from builders.models.person_gender import FEMALE_PROBABILITY
from builders.ops import BatchNorm, Ops, V
from builders.spec import Image, Model, Tolerance

STAGES = ((32, 8, 4), (64, 16, 8), (128, 32, 10), (256, 64, 11))
"""(width, bottleneck, blocks) a stage; from the second on, one more block halves the
size first."""


def network(ops: Ops[V], crops: V) -> dict[str, V]:
    """Crops to P(female)."""
    x = ops.batch_norm(crops, BatchNorm("data_bn"))
    x = ops.convolution(
        x, "conv1", 32, kernel=3, stride=2, padding=1, norm=BatchNorm("bn1")
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
        x, f"{name}.conv1", inner, kernel=1, norm=BatchNorm(f"{name}.bn1")
    )
    y = ops.convolution(
        ops.elu(y),
        f"{name}.conv2",
        inner,
        kernel=3,
        stride=2 if down else 1,
        padding=1,
        groups=inner,
        norm=BatchNorm(f"{name}.bn2"),
    )
    y = ops.convolution(
        ops.elu(y), f"{name}.conv3", width, kernel=1, norm=BatchNorm(f"{name}.bn3")
    )
    if down:
        x = ops.convolution(
            ops.max_pool(x, kernel=2, stride=2),
            f"{name}.shortcut",
            width,
            kernel=1,
            norm=BatchNorm(f"{name}.shortcut_bn"),
        )
    return ops.elu(ops.add(y, x))


MODEL = Model(
    name="person_gender_rmnet",
    source="seed 001 (RMNet); arXiv 1812.02465, openvino_training_extensions rmnet.py",
    licence="architecture: Apache-2.0 (openvino_training_extensions)",
    assumptions="which RMNet; 0..255 BGR pixels; the gender head",
    network=network,
    images=(Image(256, 128, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), order="BGR"),),
    outputs=(FEMALE_PROBABILITY,),
    # the first layer sees what data_bn stretched, and alone costs half the error; the
    # narrow stages gain nothing from INT8, each change of type around a depthwise
    # convolution being a pass of its own
    int8_exclude=("conv1", "layer1.*", "layer2.*", "layer3.*"),
    # 113 convolutions of stand-ins: 0.0203 in FP16 on an H200
    tolerance=Tolerance(reduced_abs=0.03),
)
