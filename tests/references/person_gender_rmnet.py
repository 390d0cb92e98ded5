"""RMNet's body with a gender head, after OpenVINO's rmnet.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMBlock(nn.Module):
    def __init__(self, inputs: int, width: int, inner: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        stride = 2 if down else 1
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        if down:
            self.shortcut = nn.Conv2d(inputs, width, 1, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.elu(self.bn1(self.conv1(x)))
        y = functional.elu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if hasattr(self, "shortcut"):
            x = self.shortcut_bn(self.shortcut(functional.max_pool2d(x, 2)))
        return functional.elu(x + y)


class RMNet(nn.Module):
    crop_hw = (256, 128)

    def __init__(self) -> None:
        super().__init__()
        self.data_bn = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        inputs = 32
        for number, (blocks, width, inner) in enumerate(
            ((4, 32, 8), (8, 64, 16), (10, 128, 32), (11, 256, 64)), start=1
        ):
            stage = nn.Module()
            if number > 1:
                stage.add_module("down", RMBlock(inputs, width, inner, True))
            for index in range(blocks):
                stage.add_module(str(index), RMBlock(width, width, inner, False))
            self.add_module(f"layer{number}", stage)
            inputs = width
        self.classifier = nn.Linear(256, 1)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        x = self.data_bn(crops.flip(-1).permute(0, 3, 1, 2).float())
        x = functional.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            for block in getattr(self, f"layer{number}").children():
                x = block(x)
        return {"female_probability": torch.sigmoid(self.classifier(x.mean((2, 3))))}


REFERENCE = RMNet
