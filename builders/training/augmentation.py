"""Augmentation of a batch of crops, on the device where the batch is.

torchvision's transforms (v2) draw one set of values for a whole batch, and one call for
each crop is slower than the network on a GPU; these three operations draw a value for
each crop of a batch in one call. Every value comes from a generator that the caller
seeds for the step, so that a run can be resumed exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from builders.training.recipes import Augmentation

ERASE_AREA = (0.02, 0.4)
ERASE_ASPECT = (0.3, 1 / 0.3)
"""Share of the area and ratio of height to width of an erased rectangle (Zhong et al.,
"Random Erasing Data Augmentation", arXiv:1708.04896)."""


def augment(
    crops: Tensor, how: Augmentation, mean: Tensor, generator: torch.Generator
) -> Tensor:
    """Return varied copies of crops.

    Args:
        crops: UINT8 [N, H, W, 3].
        how: Which variations, how often.
        mean: Colour of erased pixels, UINT8 [3].
        generator: Source of random values, on the CPU: the values are the same on every
            device.

    Returns:
        UINT8 [N, H, W, 3].
    """
    count = crops.shape[0]
    if how.pad_px:
        offsets = torch.randint(
            0, 2 * how.pad_px + 1, (2, count), generator=generator
        ).to(crops.device)
        crops = _shift(crops, offsets - how.pad_px)
    if how.flip:
        is_flipped = (torch.rand(count, generator=generator) < how.flip).to(
            crops.device
        )
        crops = torch.where(is_flipped[:, None, None, None], crops.flip(2), crops)
    if how.erase:
        crops = _erase(crops, how.erase, mean, generator)
    return crops


def _shift(crops: Tensor, offsets: Tensor) -> Tensor:
    """Move each crop by whole pixels [2, N] (rows, columns); new pixels are black."""
    count, height, width, _ = crops.shape
    device = crops.device
    rows = torch.arange(height, device=device)[None] + offsets[0][:, None]
    columns = torch.arange(width, device=device)[None] + offsets[1][:, None]
    is_inside = ((rows >= 0) & (rows < height))[:, :, None] & (
        (columns >= 0) & (columns < width)
    )[:, None, :]
    number = torch.arange(count, device=device)[:, None, None]
    moved = crops[
        number,
        rows.clamp(0, height - 1)[:, :, None],
        columns.clamp(0, width - 1)[:, None, :],
    ]
    return moved * is_inside[..., None]


def _erase(
    crops: Tensor, probability: float, mean: Tensor, generator: torch.Generator
) -> Tensor:
    count, height, width, _ = crops.shape
    draws = torch.rand((5, count), generator=generator)
    area = height * width * (ERASE_AREA[0] + draws[0] * (ERASE_AREA[1] - ERASE_AREA[0]))
    low, high = (math.log(value) for value in ERASE_ASPECT)
    aspect = (low + draws[1] * (high - low)).exp()
    # a rectangle that does not fit is cut off, where the paper draws again
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top = (draws[2] * (height - tall + 1)).floor()
    left = (draws[3] * (width - wide + 1)).floor()
    tall = torch.where(draws[4] < probability, tall, torch.zeros_like(tall))
    box = torch.stack((top, top + tall, left, left + wide)).to(crops.device)
    rows = torch.arange(height, device=crops.device)[None]
    columns = torch.arange(width, device=crops.device)[None]
    in_rows = (rows >= box[0][:, None]) & (rows < box[1][:, None])
    in_columns = (columns >= box[2][:, None]) & (columns < box[3][:, None])
    is_erased = in_rows[:, :, None] & in_columns[:, None, :]
    return torch.where(is_erased[..., None], mean.to(crops.device), crops)
