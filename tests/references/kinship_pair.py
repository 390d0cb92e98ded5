"""The pair head of the compact siamese network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KinshipPair(nn.Module):
    vector_size = 256

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, embedding_a: Tensor, embedding_b: Tensor) -> dict[str, Tensor]:
        apart, together = embedding_a - embedding_b, embedding_a * embedding_b
        logit = self.head(torch.hstack([apart.abs(), together]))
        return {"related_probability": torch.sigmoid(logit)}


REFERENCE = KinshipPair
