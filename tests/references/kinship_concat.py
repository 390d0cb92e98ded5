"""The siamese network of recognizing-faces-in-the-wild, at a smaller size of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.references import SMALL_SIZES_HW

SIDE_PX = SMALL_SIZES_HW["kinship_concat"][0]


class KinshipConcat(nn.Module):
    """The published network, as in its train.py, where a face has 100 x 100 pixels."""

    crop_hw = (SIDE_PX, SIDE_PX)

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs in ((3, 64), (64, 64), (64, 32)):
            parts += [
                nn.ReflectionPad2d(1),
                nn.Conv2d(inputs, outputs, 3),
                nn.ReLU(inplace=True),
                nn.BatchNorm2d(outputs),
                nn.Dropout2d(0.2),
            ]
        self.cnn1 = nn.Sequential(*parts)
        self.fc1 = nn.Linear(2 * 32 * SIDE_PX * SIDE_PX, 500)
        self.fc2 = nn.Linear(500, 500)
        self.fc3 = nn.Linear(500, 2)

    def forward(self, face_a: Tensor, face_b: Tensor) -> dict[str, Tensor]:
        flat = [
            self.cnn1(f.permute(0, 3, 1, 2) / 255).flatten(1) for f in (face_a, face_b)
        ]
        x = functional.relu(self.fc1(torch.cat(flat, 1)))
        logits = self.fc3(functional.relu(self.fc2(x)))
        return {"related_probability": logits.softmax(1)[:, 1:]}


REFERENCE = KinshipConcat
