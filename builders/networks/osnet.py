"""The omni-scale networks of torchreid: OSNet and OSNet-AIN.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification"
(arXiv:1905.00953), and "Learning Generalisable Omni-Scale Representations for Person
Re-Identification" (arXiv:1910.06827). Key names are those of torchreid
(github.com/KaiyangZhou/deep-person-reid, torchreid/models/osnet.py and osnet_ain.py),
whose files boxmot and other trackers use unchanged.

torchreid resizes with Pillow's bilinear filter and boxmot with OpenCV's INTER_LINEAR,
which is faster and is declared here; the other one is a variant. The embedding has unit
length: torchreid returns it with its length and measures OSNet by Euclidean distance
and OSNet-AIN by cosine distance, and galleries and trackers compare cosines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

from builders.ops import BatchNorm, Conv, InstanceNorm, Norm, Ops, V
from builders.spec.model import Model
from builders.spec.source import Source
from builders.spec.variants import interpolation_choice
from builders.tensors import IMAGENET_MEAN, IMAGENET_STD, Image, Output

CHANNELS = (64, 256, 384, 512)
"""Channels of the stem and of the three stages at width 1.0."""

REDUCTION = 4
"""Channels of a stage over those inside its blocks."""

GATE_REDUCTION = 16
"""Channels of a gate's input over those of its hidden layer."""

STREAMS = (1, 2, 3, 4)
"""Depth of each stream of a block, in 3x3 convolutions: the scales that it sees."""

EMBEDDING_SIZE = 512

INSTANCE_NORM_BLOCKS = ((True, True), (False, True), (True, False))
"""Blocks with instance norm in each stage of OSNet-AIN, as its search found them."""


def osnet_model(name: str, *, width: float, ain: bool, source: Source) -> Model:
    """Declare a model of the OSNet family at torchreid's crop size, 256x128.

    Args:
        name: Name of the model.
        width: Multiplier of the channels, 1.0 or 0.25.
        ain: Whether it is OSNet-AIN: with instance norm in the stem and in some blocks,
            and other key names.
        source: Citation of the network.
    """
    channels = tuple(round(width * size) for size in CHANNELS)
    return Model(
        name=name,
        source=source,
        assumptions="unit embedding; torchreid returns it with its length",
        network=_network(channels, ain=ain),
        images=(Image(256, 128, mean=IMAGENET_MEAN, std=IMAGENET_STD),),
        outputs=(Output("embedding", EMBEDDING_SIZE),),
        dropped=("classifier.*",),
        choices=(
            interpolation_choice(
                "linear",
                "linear_antialias",
                use="as torchreid's published accuracies were measured",
            ),
        ),
        on_request=True,
    )


def osnet_source(name: str, paper: str) -> Source:
    """Return the citation of a network of torchreid.

    Args:
        name: Name of the network.
        paper: Its paper, as `arXiv:<number>`.
    """
    return Source(
        f"{name} of torchreid",
        licence="MIT (deep-person-reid)",
        url="https://github.com/KaiyangZhou/deep-person-reid",
        paper=paper,
    )


def _network(channels: tuple[int, ...], *, ain: bool) -> Callable[..., Mapping[str, V]]:
    def network(ops: Ops[V], crops: V) -> dict[str, V]:
        stem, *widths = channels
        norm: Norm = InstanceNorm("conv1.bn") if ain else BatchNorm("conv1.bn")
        x = ops.convolution(
            crops, Conv("conv1.conv", stem, kernel=7, stride=2, padding=3, norm=norm)
        )
        x = ops.max_pool(ops.relu(x), kernel=3, stride=2, padding=1)
        for index, width in enumerate(widths):
            stage = f"conv{index + 2}"
            for number, has_norm in enumerate(INSTANCE_NORM_BLOCKS[index]):
                x = _block(
                    ops,
                    x,
                    f"{stage}.{number}",
                    width,
                    project=number == 0,
                    ain=ain,
                    instance_norm=ain and has_norm,
                )
            if index < len(widths) - 1:
                pool = f"pool{index + 2}.0" if ain else f"{stage}.2.0"
                x = ops.relu(_pointwise(ops, x, pool, width))
                x = ops.average_pool(x, kernel=2, stride=2)
        x = ops.relu(_pointwise(ops, x, "conv5", widths[-1]))
        x = ops.flatten(ops.global_average(x))
        x = ops.relu(ops.linear(x, "fc.0", EMBEDDING_SIZE, BatchNorm("fc.1")))
        return {"embedding": ops.l2_norm(x)}

    return network


def _block(
    ops: Ops[V],
    x: V,
    name: str,
    width: int,
    *,
    project: bool,
    ain: bool,
    instance_norm: bool,
) -> V:
    """Apply an omni-scale block: streams of several depths, joined by one gate."""
    inner = width // REDUCTION
    reduced = ops.relu(_pointwise(ops, x, f"{name}.conv1", inner))
    gated = []
    for index, depth in enumerate(STREAMS):
        stream = reduced
        for layer in _stream_layers(name, index, depth, ain=ain):
            stream = _light_convolution(ops, stream, layer, inner)
        gated.append(_gate(ops, stream, f"{name}.gate", inner))
    norm = InstanceNorm(f"{name}.IN") if instance_norm else None
    y = _pointwise(ops, reduce(ops.add, gated), f"{name}.conv3", width, norm)
    if project:
        x = _pointwise(ops, x, f"{name}.downsample", width)
    return ops.relu(ops.add(y, x))


def _stream_layers(block: str, index: int, depth: int, *, ain: bool) -> list[str]:
    """Return the checkpoint names of a stream's light convolutions."""
    if ain:
        return [f"{block}.conv2.{index}.layers.{layer}" for layer in range(depth)]
    stream = f"{block}.conv2{'abcd'[index]}"
    if depth == 1:
        return [stream]  # no Sequential around a single layer
    return [f"{stream}.{layer}" for layer in range(depth)]


def _light_convolution(ops: Ops[V], x: V, name: str, channels: int) -> V:
    """Apply a 1x1 convolution and a 3x3 depthwise one, with one norm and ReLU."""
    x = ops.convolution(x, Conv(f"{name}.conv1", channels, kernel=1))
    x = ops.convolution(
        x,
        Conv(
            f"{name}.conv2",
            channels,
            kernel=3,
            padding=1,
            groups=channels,
            norm=BatchNorm(f"{name}.bn"),
        ),
    )
    return ops.relu(x)


def _gate(ops: Ops[V], x: V, name: str, channels: int) -> V:
    """Weigh channels by a gate, whose weights the streams of a block share."""
    gate = ops.convolution(
        ops.global_average(x),
        Conv(
            f"{name}.fc1", channels // GATE_REDUCTION, kernel=1, bias=True, precise=True
        ),
    )
    gate = ops.convolution(
        ops.relu(gate),
        Conv(f"{name}.fc2", channels, kernel=1, bias=True, precise=True),
    )
    return ops.scale_channels(x, ops.flatten(ops.sigmoid(gate)))


def _pointwise(
    ops: Ops[V], x: V, name: str, channels: int, norm: Norm | None = None
) -> V:
    """Apply a 1x1 convolution and its norm, the batch norm `<name>.bn` by default."""
    norm = norm or BatchNorm(f"{name}.bn")
    return ops.convolution(x, Conv(f"{name}.conv", channels, kernel=1, norm=norm))
