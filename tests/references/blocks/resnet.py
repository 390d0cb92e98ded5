"""Blocks of IBN-Net and FastReID, and stages built from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class IBN(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.half = int(planes * 0.5)
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(planes - self.half)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, self.half, 1)
        return torch.cat((self.IN(first.contiguous()), self.BN(second.contiguous())), 1)


class Block(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = IBN(planes) if ibn else nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def shortcut(self, x: Tensor) -> Tensor:
        return self.downsample(x) if hasattr(self, "downsample") else x

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class DistillBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return y + self.shortcut(x)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = IBN(planes) if ibn else nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        if stride != 1 or inputs != planes * 4:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes * 4, 1, stride, bias=False),
                nn.BatchNorm2d(planes * 4),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(
            y + (self.downsample(x) if hasattr(self, "downsample") else x)
        )


class NonLocal(nn.Module):
    """FastReID's Non_local with one inner channel, in its literal N x N form."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, 1, 1)
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))
        self.theta = nn.Conv2d(channels, 1, 1)
        self.phi = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        g = self.g(x).view(batch, 1, -1).permute(0, 2, 1)
        theta = self.theta(x).view(batch, 1, -1).permute(0, 2, 1)
        phi = self.phi(x).view(batch, 1, -1)
        f = torch.matmul(theta, phi)
        y = torch.matmul(f / f.size(-1), g).permute(0, 2, 1).contiguous()
        return self.W(y.view(batch, 1, *x.shape[2:])) + x


def make_stage(
    block: type[nn.Module],
    inputs: int,
    planes: int,
    stride: int,
    ibn: bool,
    blocks: int = 2,
) -> nn.Sequential:
    width = planes * (4 if block is Bottleneck else 1)
    return nn.Sequential(
        block(inputs, planes, stride, ibn),
        *(block(width, planes, 1, ibn) for _ in range(blocks - 1)),
    )
