"""Batches that a server accepts in one request."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from personserve._answers import read_max_batch
from personserve._wire.requests import ModelDescription
from personserve.images.crops import CropShape, Pixels, resize_image, swap_channels


def split_evenly(items: Any, maximum: int) -> list[Any]:
    """Split items in order into as few batches as possible, of similar sizes.

    Args:
        items: A sequence or an array.
        maximum: Largest number of items in a batch.

    Returns:
        Slices of the items; none for no items.
    """
    count = -(-len(items) // maximum)
    if count == 1:
        return [items]  # linspace alone takes as long as all checks of an answer
    bounds = np.linspace(0, len(items), count + 1).round().astype(int)
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def read_max_people(model: ModelDescription) -> int:
    """Return the largest number of people of one request.

    Args:
        model: Description of an ensemble, or of a network.

    Returns:
        The number, at least 1.

    Raises:
        IncompatibleServerError: If the model does not state it, or not as a number.
    """
    if model.max_batch_size and "max_people" not in model.parameters:
        return read_max_batch(model)
    return model.integer_parameter("max_people")


def resize_crops(crops: Sequence[Pixels], shape: CropShape) -> Pixels:
    """Resize crops of any sizes to one size, and their channels to RGB order.

    Args:
        crops: UINT8 [H, W, 3] each, in BGR order.
        shape: Size and interpolation.

    Returns:
        UINT8 [N, height, width, 3] in RGB order.
    """
    resized = np.stack([resize_image(crop, shape) for crop in crops])
    swap_channels(resized)
    return resized
