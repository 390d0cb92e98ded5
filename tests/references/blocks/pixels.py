"""Conversion of crops to network inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def zero_to_one(crops: Tensor) -> Tensor:
    """Apply torchvision's ToTensor and Normalize with ImageNet's statistics."""
    x = crops.permute(0, 3, 1, 2) / 255
    mean = torch.tensor([0.485, 0.456, 0.406], device=x.device)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], device=x.device)[:, None, None]
    return (x - mean) / std
