"""Omni-scale blocks and networks, after the papers and torchreid's key names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.references.blocks.pixels import zero_to_one


class Normed(nn.Module):
    """A convolution with a batch norm, an instance norm or none."""

    def __init__(
        self, inputs: int, outputs: int, norm: type[nn.Module] | None = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        if norm is not None:
            self.bn = norm(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.bn(x) if hasattr(self, "bn") else x


class LightConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.conv1(x))).clamp(min=0)


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // 16, 1)
        self.fc2 = nn.Conv2d(width // 16, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(nn.functional.adaptive_avg_pool2d(x, 1)).clamp(min=0)
        return x * self.fc2(hidden).sigmoid()


class OmniScaleBlock(nn.Module):
    """A block of OSNet; subclasses name the streams."""

    def __init__(self, inputs: int, outputs: int, instance_norm: bool = False) -> None:
        super().__init__()
        width = outputs // 4
        self.conv1 = Normed(inputs, width)
        self.add_streams(width)
        self.gate = Gate(width)
        self.conv3 = Normed(
            width, outputs, norm=None if instance_norm else nn.BatchNorm2d
        )
        if instance_norm:
            self.IN = nn.InstanceNorm2d(outputs, affine=True)
        if inputs != outputs:
            self.downsample = Normed(inputs, outputs)

    def add_streams(self, width: int) -> None:
        self.conv2a = LightConv(width)
        for letter, depth in (("b", 2), ("c", 3), ("d", 4)):
            layers = [LightConv(width) for _ in range(depth)]
            self.add_module(f"conv2{letter}", nn.Sequential(*layers))

    def streams(self) -> list[nn.Module]:
        return [self.get_submodule(f"conv2{letter}") for letter in "abcd"]

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv1(x).clamp(min=0)
        parts = [self.gate(stream(reduced)) for stream in self.streams()]
        y = self.conv3(torch.stack(parts).sum(0))
        if hasattr(self, "IN"):
            y = self.IN(y)
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return (shortcut + y).clamp(min=0)


class Stream(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(LightConv(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AinBlock(OmniScaleBlock):
    """A block of OSNet-AIN: the same streams under other names."""

    def add_streams(self, width: int) -> None:
        self.conv2 = nn.ModuleList(Stream(width, depth) for depth in range(1, 5))

    def streams(self) -> list[nn.Module]:
        return list(self.conv2)


class Reduce(nn.Sequential):
    """The transition between two stages, which halves the maps."""

    def __init__(self, width: int) -> None:
        super().__init__(Normed(width, width), nn.AvgPool2d(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x).clamp(min=0))


class OmniScaleNetwork(nn.Module):
    """What both networks share: the stem, the last layers and the normalisation."""

    crop_hw = (256, 128)

    def __init__(self, stem: int, last: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = Normed(3, stem, norm)
        self.conv1.conv = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.conv5 = Normed(last, last)
        self.fc = nn.Sequential(nn.Linear(last, 512), nn.BatchNorm1d(512), nn.ReLU())
        self.classifier = nn.Linear(512, 7)

    def stages(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.conv1(zero_to_one(crops)).clamp(min=0))
        x = self.conv5(self.stages(x)).clamp(min=0)
        v = self.fc(x.mean(dim=(2, 3)))
        return {"embedding": v / v.norm(dim=1, keepdim=True)}


class OSNet(OmniScaleNetwork):
    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        stem, a, b, c = widths
        super().__init__(stem, c, nn.BatchNorm2d)
        block = OmniScaleBlock
        self.conv2 = nn.Sequential(block(stem, a), block(a, a), Reduce(a))
        self.conv3 = nn.Sequential(block(a, b), block(b, b), Reduce(b))
        self.conv4 = nn.Sequential(block(b, c), block(c, c))

    def stages(self, x: Tensor) -> Tensor:
        return self.conv4(self.conv3(self.conv2(x)))


class OSNetAin(OmniScaleNetwork):
    def __init__(self) -> None:
        super().__init__(64, 512, nn.InstanceNorm2d)
        block = AinBlock
        self.conv2 = nn.Sequential(block(64, 256, True), block(256, 256, True))
        self.pool2 = Reduce(256)
        self.conv3 = nn.Sequential(block(256, 384), block(384, 384, True))
        self.pool3 = Reduce(384)
        self.conv4 = nn.Sequential(block(384, 512, True), block(512, 512))

    def stages(self, x: Tensor) -> Tensor:
        x = self.pool2(self.conv2(x))
        return self.conv4(self.pool3(self.conv3(x)))
