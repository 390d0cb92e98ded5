# Rendered by `python -m builders render` from client/personserve/images/antialias.py; edit that file.
"""Resizing with Pillow's antialiased filters, without Pillow.

Training code that reads images with Pillow resizes with filters that become wider where
an image shrinks; OpenCV's INTER_LINEAR and INTER_CUBIC skip pixels there, and its cubic
has another shape. This module has Pillow's arithmetic (src/libImaging/Resample.c):
weights of 22 bits, and a horizontal pass, then a vertical one, each rounded to 8 bits.
It gives the pixels of Pillow 11, bit for bit, in 1 to 2 times its time. Pillow 13
starts with the vertical pass where that saves work, which changes some pixels. The
server's Python has no Pillow, and the client does not depend on it.

Each pass is a few small matrix products: outputs are computed in blocks, because
neighbours need nearly the same pixels. All sums are integers below 2**53, so they are
exact as FP64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

PRECISION_BITS = 22
"""Bits of a weight behind the point (Pillow's PRECISION_BITS: 32 - 8 - 2)."""

BLOCK = 16
"""Outputs of one matrix product; 8 is slower, 32 and 64 are not faster."""

CACHED_PASSES = 4096
"""Passes whose weights are remembered, by sizes: about 16 KB each."""


def linear_filter(x: FloatArray) -> FloatArray:
    """Return Pillow's BILINEAR filter at distances in pixels: a triangle.

    Args:
        x: Distances.
    """
    return np.maximum(1.0 - np.abs(x), 0.0)


def cubic_filter(x: FloatArray) -> FloatArray:
    """Return Pillow's BICUBIC filter at distances in pixels (Keys, a = -0.5).

    Args:
        x: Distances.
    """
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


FILTERS: dict[str, tuple[Callable[[FloatArray], FloatArray], float]] = {
    "linear_antialias": (linear_filter, 1.0),
    "cubic_antialias": (cubic_filter, 2.0),
}
"""Filter by the name of the interpolation, and half its width in pixels."""


def resize_antialiased(image: Pixels, size_wh: tuple[int, int], name: str) -> Pixels:
    """Resize an image as Pillow does.

    Args:
        image: UINT8 [H, W, C].
        size_wh: Width and height of the result in pixels.
        name: Name of the interpolation, one of FILTERS.

    Returns:
        UINT8 [height, width, C].
    """
    width, height = size_wh
    columns = image.transpose(1, 0, 2)
    image = _resize_first_axis(columns, width, name).transpose(1, 0, 2)
    return np.ascontiguousarray(_resize_first_axis(image, height, name))


def _resize_first_axis(image: Pixels, size: int, name: str) -> Pixels:
    if len(image) == size:
        return image
    rows = image.reshape(len(image), -1)
    indices, weights = _block_weights(len(image), size, name)
    # [blocks, outputs of a block, inputs of a block] @ [blocks, inputs of a block, row]
    sums = weights @ rows[indices].astype(np.float64)
    half = float(1 << (PRECISION_BITS - 1))
    values = np.floor((sums + half) * 2.0**-PRECISION_BITS)
    result = np.clip(values, 0, 255).astype(np.uint8)
    resized: Pixels = result.reshape(-1, rows.shape[1])[:size]
    return resized.reshape(size, *image.shape[1:])


@lru_cache(CACHED_PASSES)
def _block_weights(
    length: int, size: int, name: str
) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return the input rows of each block of outputs, and the weights of a block.

    Returns:
        Indices [blocks, inputs], and integers [blocks, BLOCK, inputs] as FP64.
    """
    starts, weights = _pixel_weights(length, size, name)
    blocks = ceil(size / BLOCK)
    firsts = starts[::BLOCK]
    lasts = starts[np.minimum(np.arange(1, blocks + 1) * BLOCK, size) - 1]
    inputs = int((lasts - firsts).max()) + weights.shape[1]
    result = np.zeros((blocks, BLOCK, inputs))
    for output, (start, row) in enumerate(zip(starts, weights, strict=True)):
        block, index = divmod(output, BLOCK)
        offset = start - firsts[block]
        result[block, index, offset : offset + len(row)] = row
    indices = firsts[:, None] + np.arange(inputs)
    # weights behind the last pixel are 0
    return np.minimum(indices, length - 1), result


def _pixel_weights(
    length: int, size: int, name: str
) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return the first input of each output, and the weights of the inputs from there.

    Follows Pillow's precompute_coeffs and normalize_coeffs_8bpc.
    """
    function, radius = FILTERS[name]
    scale = length / size
    stretch = max(scale, 1.0)
    support = radius * stretch
    centres = (np.arange(size) + 0.5) * scale
    starts = np.maximum((centres - support + 0.5).astype(np.intp), 0)
    stops = np.minimum((centres + support + 0.5).astype(np.intp), length)
    offsets = np.arange(int((stops - starts).max()))
    positions = starts[:, None] + offsets
    weights = function((positions - centres[:, None] + 0.5) * (1.0 / stretch))
    weights[positions >= stops[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    scaled = weights * (1 << PRECISION_BITS)
    return starts, np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5))
