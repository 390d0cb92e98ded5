"""Stem and residual stages of the ResNet family.

Sources: IBN-Net (github.com/XingangPan/IBN-Net, ibnnet/resnet_ibn.py) and FastReID
(github.com/JDAI-CV/fast-reid, fastreid/modeling/backbones/resnet.py), including the
key names. FastReID's distillation backbones have the ReLU at the start of a block
instead of its end. With the same weights the results are identical, so one wiring is
used for both.
"""

from __future__ import annotations

from typing import Literal

from builders.ops import BatchNorm, Conv, InstanceBatchNorm, Ops, V

StemPool = Literal["padded", "ceil"]
"""Kind of the 3x3 stride-2 max pool in the stem.

`padded` has padding 1 (IBN-Net, torchvision, and FastReID before 2020-08-14); `ceil`
has no padding and rounds the output size up (FastReID since). Both halve an even size,
but they sample different windows.
"""

WIDTHS = (64, 128, 256, 512)
"""Channels of each stage; a bottleneck stage has four times as many at its end."""


def stem(ops: Ops[V], x: V, prefix: str, pool: StemPool) -> V:
    """Apply the stem: [N, 3, H, W] to [N, 64, H / 4, W / 4].

    A 7x7 stride-2 convolution, batch norm, ReLU and max pool.

    Args:
        ops: The backend.
        x: The input.
        prefix: Prefix of the checkpoint keys.
        pool: Kind of the max pool.
    """
    norm = BatchNorm(f"{prefix}.bn1")
    x = ops.convolution(
        x, Conv(f"{prefix}.conv1", 64, kernel=7, stride=2, padding=3, norm=norm)
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
    """Apply a stage of two-convolution blocks (ResNet-18 and ResNet-34).

    [N, C, H, W] to [N, WIDTHS[number - 1], H / stride, W / stride].

    Args:
        ops: The backend.
        x: The input.
        prefix: Prefix of the checkpoint keys, before `.layer<number>`.
        number: Number of the stage, from 1.
        blocks: Number of blocks.
        stride: Stride of the first block.
        ibn: Whether the first norm of each block is IBN-Net's split norm.
    """
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
            # the stem already has 64 channels, so layer1 needs no projection
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
        Conv(
            f"{block}.conv1",
            width,
            kernel=3,
            stride=stride,
            padding=1,
            norm=norm(f"{block}.bn1"),
        ),
    )
    y = ops.convolution(
        ops.relu(y),
        Conv(
            f"{block}.conv2", width, kernel=3, padding=1, norm=BatchNorm(f"{block}.bn2")
        ),
    )
    if project:
        x = _shortcut(ops, x, block, width, stride)
    return ops.relu(ops.add(y, x))


def _shortcut(ops: Ops[V], x: V, block: str, channels: int, stride: int) -> V:
    """Apply the projection of a block that changes size or channels."""
    return ops.convolution(
        x,
        Conv(
            f"{block}.downsample.0",
            channels,
            kernel=1,
            stride=stride,
            norm=BatchNorm(f"{block}.downsample.1"),
        ),
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
    """Apply a stage of three-convolution blocks (ResNet-50).

    [N, C, H, W] to [N, 4 * WIDTHS[number - 1], H / stride, W / stride].

    Args:
        ops: The backend.
        x: The input.
        prefix: Prefix of the checkpoint keys, before `.layer<number>`.
        number: Number of the stage, from 1.
        blocks: Number of blocks.
        stride: Stride of the first block.
        ibn: Whether the first norm of each block is IBN-Net's split norm.
        non_local: Number of blocks at the end of the stage that a non-local block
            follows.
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
        non_local_index = index - (blocks - non_local)
        if non_local_index >= 0:
            x = _non_local(
                ops,
                x,
                f"{prefix}.NL_{number}.{non_local_index}",
                4 * WIDTHS[number - 1],
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
    y = ops.convolution(
        x, Conv(f"{block}.conv1", width, kernel=1, norm=norm(f"{block}.bn1"))
    )
    y = ops.convolution(
        ops.relu(y),
        Conv(
            f"{block}.conv2",
            width,
            kernel=3,
            stride=stride,
            padding=1,
            norm=BatchNorm(f"{block}.bn2"),
        ),
    )
    y = ops.convolution(
        ops.relu(y),
        Conv(f"{block}.conv3", 4 * width, kernel=1, norm=BatchNorm(f"{block}.bn3")),
    )
    if project:
        x = _shortcut(ops, x, block, 4 * width, stride)
    return ops.relu(ops.add(y, x))


def _non_local(ops: Ops[V], x: V, name: str, channels: int) -> V:
    """Apply FastReID's Non_local, with one inner channel as in its code."""
    theta, phi, g = (
        ops.convolution(x, Conv(f"{name}.{part}", 1, kernel=1, bias=True, precise=True))
        for part in ("theta", "phi", "g")
    )
    y = ops.convolution(
        ops.attend(theta, phi, g),
        Conv(
            f"{name}.W.0",
            channels,
            kernel=1,
            bias=True,
            norm=BatchNorm(f"{name}.W.1"),
            precise=True,
        ),
    )
    return ops.add(x, y)
