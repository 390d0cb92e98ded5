"""tensorpack's SE-ResNet50."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SameConv(nn.Module):
    """Convolution and batch norm under one name, with TensorFlow's SAME padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bn = nn.BatchNorm2d(outputs)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        size, kernel = x.shape[-1], self.weight.shape[-1]
        out = -(-size // self.stride)
        total = max((out - 1) * self.stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        x = functional.pad(x, (before, after, before, after))
        return self.bn(functional.conv2d(x, self.weight, stride=self.stride))


class SEBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = SameConv(inputs, width, 1, 1)
        self.conv2 = SameConv(width, width, 3, stride)
        self.conv3 = SameConv(width, width * 4, 1, 1)
        self.fc1 = nn.Linear(width * 4, width // 4)
        self.fc2 = nn.Linear(width // 4, width * 4)
        if inputs != width * 4:
            self.convshortcut = SameConv(inputs, width * 4, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv1(x))
        y = self.conv3(functional.relu(self.conv2(y)))
        gate = torch.sigmoid(self.fc2(functional.relu(self.fc1(y.mean((2, 3))))))
        y = y * gate[:, :, None, None]
        return functional.relu(
            y + (self.convshortcut(x) if hasattr(self, "convshortcut") else x)
        )


class SEResNet50(nn.Module):
    """tensorpack's graph, on BGR in 0..1 with reversed mean and std."""

    crop_hw = (224, 224)

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = SameConv(3, 64, 7, 2)
        inputs = 64
        for group, (width, blocks) in enumerate(
            ((64, 3), (128, 4), (256, 6), (512, 3))
        ):
            stage = nn.Module()
            for index in range(blocks):
                stride = 2 if group > 0 and index == 0 else 1
                stage.add_module(f"block{index}", SEBlock(inputs, width, stride))
                inputs = width * 4
            self.add_module(f"group{group}", stage)
        self.linear = nn.Linear(2048, 1000)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images.flip(-1).permute(0, 3, 1, 2) / 255
        mean = torch.tensor([0.406, 0.456, 0.485], device=x.device)[:, None, None]
        std = torch.tensor([0.225, 0.224, 0.229], device=x.device)[:, None, None]
        x = functional.relu(self.conv0((x - mean) / std))
        x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1)), 3, 2)
        for group in range(4):
            for block in getattr(self, f"group{group}").children():
                x = block(x)
        return {"logits": self.linear(x.mean((2, 3)))}


REFERENCE = SEResNet50
