"""GenderModel, as in its published print-out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.references.blocks.pixels import zero_to_one
from tests.references.blocks.resnet import Block, make_stage


class ResNetIBNAux(nn.Module):
    """The backbone, up to layer3, or to layer4 for the concurrent network."""

    def __init__(self, last: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = make_stage(Block, 64, 64, 1, True)
        self.layer2 = make_stage(Block, 64, 128, 2, True)
        self.layer3 = make_stage(Block, 128, 256, 2, True)
        if last == 4:
            self.layer4 = make_stage(Block, 256, 512, 2, False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))


class LinearLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Linear(512, 128), nn.Linear(128, 1))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_layers = LinearLayers()


class GenderModel(nn.Module):
    """The published print-out of GenderModel."""

    crop_hw = (224, 224)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNetIBNAux()
        self.gender_classifier = Classifier()
        self.gender_conv = nn.Sequential(
            nn.Conv2d(256, 512, 3, 2, 1),
            nn.BatchNorm2d(512),
            nn.ReLU(),
            nn.AvgPool2d(7, 7, 0),
        )

    def gender(self, x: Tensor) -> Tensor:
        x = self.gender_conv(x).view(len(x), -1)
        return torch.sigmoid(self.gender_classifier.linear_layers.linear(x))

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        return {"female_probability": self.gender(self.backbone(zero_to_one(crops)))}


REFERENCE = GenderModel
