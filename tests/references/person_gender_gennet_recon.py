"""The reconstruction of GenNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.references.blocks.pixels import zero_to_one


class GenNet(nn.Module):
    crop_hw = (256, 128)

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 128), (128, 256)):
            parts += [
                nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Sequential(
            nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1)
        )

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        x = self.features(zero_to_one(crops)).mean((2, 3))
        return {"female_probability": torch.sigmoid(self.classifier(x))}


REFERENCE = GenNet
