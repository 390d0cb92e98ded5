"""The compact siamese network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KinshipCompact(nn.Module):
    crop_hw = (100, 100)

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs, stride in (
            (3, 32, 2),
            (32, 64, 2),
            (64, 128, 2),
            (128, 192, 2),
            (192, 192, 1),
        ):
            parts += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*parts)
        self.embed = nn.Linear(192, 256)
        self.head = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, face_a: Tensor, face_b: Tensor) -> dict[str, Tensor]:
        a, b = (
            self.embed(self.trunk(f.permute(0, 3, 1, 2) / 255).mean((2, 3)))
            for f in (face_a, face_b)
        )
        logit = self.head(torch.cat(((a - b).abs(), a * b), 1))
        return {"related_probability": torch.sigmoid(logit)}


REFERENCE = KinshipCompact
