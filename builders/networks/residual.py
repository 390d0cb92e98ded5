"""Residual stages: the stem and the blocks of the ResNet family.

Sources: IBN-Net (XingangPan/IBN-Net, ibnnet/resnet_ibn.py) and FastReID
(fastreid/modeling/backbones/resnet.py); key names are theirs. FastReID's distillation
backbones place the ReLU at the start of a block instead of its end; with the same
weights the results are identical, so one wiring serves both.
"""

from __future__ import annotations

from typing import Literal

from builders.ops import BatchNorm, InstanceBatchNorm, Ops, V

StemPool = Literal["padded", "ceil"]
"""3x3 stride-2 max pool of the stem: `padded` is padding 1 (IBN-Net, torchvision, and
FastReID before 2020-08-14), `ceil` no padding but rounding up (FastReID since). Both
halve an even size, but they sample different windows."""

WIDTHS = (64, 128, 256, 512)


def stem(ops: Ops[V], x: V, prefix: str, pool: StemPool) -> V:
    """7x7 stride-2 convolution, batch norm, ReLU, max pool: a quarter of the size."""
    norm = BatchNorm(f"{prefix}.bn1")
    x = ops.convolution(
        x, f"{prefix}.conv1", 64, kernel=7, stride=2, padding=3, norm=norm
    )
    padded = pool == "padded"
    return ops.max_pool(
        ops.relu(x), kernel=3, stride=2, padding=1 if padded else 0, ceil=not padded
    )


def basic_stage(
    ops: Ops[V],
    x: V,
    prefix: str,
    *,
    number: int,
    blocks: int,
    stride: int,
    ibn: bool,
) -> V:
    """Stage `layer<number>` of two-convolution blocks (ResNet-18 and -34)."""
    width = WIDTHS[number - 1]
    for index in range(blocks):
        block = f"{prefix}.layer{number}.{index}"
        first = index == 0
        x = _basic_block(
            ops,
            x,
            block,
            width=width,
            stride=stride if first else 1,
            ibn=ibn,
            # the stem already delivers 64 channels, so layer1 needs no projection
            project=first and (stride != 1 or number != 1),
        )
    return x


def _basic_block(
    ops: Ops[V],
    x: V,
    block: str,
    *,
    width: int,
    stride: int,
    ibn: bool,
    project: bool,
) -> V:
    norm = InstanceBatchNorm if ibn else BatchNorm
    y = ops.convolution(
        x,
        f"{block}.conv1",
        width,
        kernel=3,
        stride=stride,
        padding=1,
        norm=norm(f"{block}.bn1"),
    )
    y = ops.convolution(
        ops.relu(y),
        f"{block}.conv2",
        width,
        kernel=3,
        padding=1,
        norm=BatchNorm(f"{block}.bn2"),
    )
    if project:
        x = _projected(ops, x, block, width, stride)
    return ops.relu(ops.add(y, x))


def _projected(ops: Ops[V], x: V, block: str, channels: int, stride: int) -> V:
    """The shortcut of a block that changes size or channels."""
    return ops.convolution(
        x,
        f"{block}.downsample.0",
        channels,
        kernel=1,
        stride=stride,
        norm=BatchNorm(f"{block}.downsample.1"),
    )


def bottleneck_stage(
    ops: Ops[V],
    x: V,
    prefix: str,
    *,
    number: int,
    blocks: int,
    stride: int,
    ibn: bool,
    non_local: int = 0,
) -> V:
    """Stage `layer<number>` of three-convolution blocks (ResNet-50), four times as
    wide at its end. After each of the last `non_local` blocks stands a non-local one.
    """
    for index in range(blocks):
        block = f"{prefix}.layer{number}.{index}"
        x = _bottleneck(
            ops,
            x,
            block,
            width=WIDTHS[number - 1],
            stride=stride if index == 0 else 1,
            ibn=ibn,
            project=index == 0,
        )
        place = index - (blocks - non_local)
        if place >= 0:
            x = _non_local(
                ops, x, f"{prefix}.NL_{number}.{place}", 4 * WIDTHS[number - 1]
            )
    return x


def _bottleneck(
    ops: Ops[V],
    x: V,
    block: str,
    *,
    width: int,
    stride: int,
    ibn: bool,
    project: bool,
) -> V:
    norm = InstanceBatchNorm if ibn else BatchNorm
    y = ops.convolution(x, f"{block}.conv1", width, kernel=1, norm=norm(f"{block}.bn1"))
    y = ops.convolution(
        ops.relu(y),
        f"{block}.conv2",
        width,
        kernel=3,
        stride=stride,
        padding=1,
        norm=BatchNorm(f"{block}.bn2"),
    )
    y = ops.convolution(
        ops.relu(y),
        f"{block}.conv3",
        4 * width,
        kernel=1,
        norm=BatchNorm(f"{block}.bn3"),
    )
    if project:
        x = _projected(ops, x, block, 4 * width, stride)
    return ops.relu(ops.add(y, x))


def _non_local(ops: Ops[V], x: V, name: str, channels: int) -> V:
    """FastReID's Non_local, with one inner channel as its code has it."""
    theta, phi, g = (
        ops.convolution(x, f"{name}.{part}", 1, kernel=1, bias=True, precise=True)
        for part in ("theta", "phi", "g")
    )
    y = ops.convolution(
        ops.attend(theta, phi, g),
        f"{name}.W.0",
        channels,
        kernel=1,
        bias=True,
        norm=BatchNorm(f"{name}.W.1"),
        precise=True,
    )
    return ops.add(x, y)
