"""dlib-models' gender classifier, from the ONNX graph of the published file."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN = (122.782, 117.001, 104.298)


class FaceGender(nn.Module):
    crop_hw = (32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, 1, 1), nn.Conv2d(32, 32, 3, 1, 1)
        self.conv3, self.conv4 = nn.Conv2d(32, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1)
        self.fc1, self.fc2 = nn.Linear(64 * 8 * 8, 16), nn.Linear(16, 2)
        self.pool = nn.AvgPool2d(2)

    def forward(self, face: Tensor) -> dict[str, Tensor]:
        x = (face.float() - torch.tensor(MEAN, device=face.device)) / 256
        x = x.permute(0, 3, 1, 2)
        x = self.pool(self.conv2(self.conv1(x).relu()).relu())
        x = self.pool(self.conv4(self.conv3(x).relu()).relu())
        x = self.fc2(self.fc1(x.flatten(1)).relu()).softmax(1)
        return {"female_probability": x[:, :1]}


REFERENCE = FaceGender
