"""Stand-in weights: seeded untrained values in a model's layout.

They are used where there is no checkpoint, and every result names them as untrained.

Batch-norm statistics are measured on seeded noise images, as in training, so that
activations keep their scale and different crops give different outputs. With random
statistics a network outputs 1.0 for every crop, and nothing is tested.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from zlib import crc32

import cv2
import numpy as np
import numpy.typing as npt

from builders.ops import BatchNorm
from builders.ops.shape import LayoutEntry
from builders.spec.model import Model
from builders.tensors import Image
from builders.weights.checkpoint import StandIn, Weights
from builders.weights.intake import Array, CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

LAST_NORM = re.compile(
    r"\.(layer\d\.\d+\.bn[23]|conv3\.bn)\.weight$|^conv\d\.\d\.IN\.weight$"
)
"""Weight of the norm before a residual addition (and of the second of three)."""

MAX_VALUES_PER_DRAW = 1 << 22

NOISE_IMAGES = 16
"""Number of noise images that the batch-norm statistics are measured on."""

GRID_HW = (8, 4)
"""Random colours in a noise image, smoothly enlarged.

This gives large shapes, similar to clothes and backgrounds.
"""


def stand_in_weights(model: Model, seed: int = 0) -> Weights:
    """Generate untrained weights for a model.

    Args:
        model: The model.
        seed: Seed of the random values; the same seed gives the same weights.

    Raises:
        CheckpointError: If torch is not installed.
    """
    arrays = {
        key: _draw_entry(key, entry, np.random.default_rng([seed, crc32(key.encode())]))
        for key, entry in model.summary.layout.items()
        if entry.kind != "counter"
    }
    _set_statistics(model, arrays, noise_inputs(model, NOISE_IMAGES, seed))
    return Weights(arrays, StandIn(seed, model.variant))


def noise_inputs(model: Model, count: int, seed: int) -> dict[str, Array]:
    """Generate seeded inputs for a model: smooth noise images, or normal vectors.

    Args:
        model: The model.
        count: Number of rows.
        seed: Seed of the random values.

    Returns:
        UINT8 [count, H, W, 3] or FP32 [count, size] by input name.
    """
    inputs: dict[str, Array] = {
        image.name: noise_crops(image, count, seed) for image in model.images
    }
    for number, vector in enumerate(model.vectors):
        values = np.random.default_rng([seed, number]).normal(size=(count, vector.size))
        inputs[vector.name] = values.astype(np.float32)
    return inputs


def noise_crops(image: Image, count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Generate seeded smooth noise images, UINT8 [count, H, W, 3].

    Args:
        image: The input that they are for.
        count: Number of images.
        seed: Seed of the random values.
    """
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 256, (count, *GRID_HW, 3), dtype=np.uint8)
    size_wh = (image.width, image.height)
    crops = np.empty((count, image.height, image.width, 3), np.uint8)
    for grid, crop in zip(grids, crops, strict=True):
        cv2.resize(grid, size_wh, dst=crop, interpolation=cv2.INTER_CUBIC)
    return crops


def _draw_entry(key: str, entry: LayoutEntry, rng: np.random.Generator) -> Array:
    shape, part = entry.shape, key.rpartition(".")[2]
    if len(shape) > 1:
        # He et al., 2015 (arXiv:1502.01852): keeps the variance through a ReLU
        fan_in = int(np.prod(shape[1:]))
        return _draw_normal(rng, np.sqrt(2.0 / fan_in), shape)
    if key.endswith(".W.1.weight"):
        # FastReID initialises non-local blocks to zero. They are cubic in their input
        # and widen the range of later layers until INT8 outputs are noise (cosine -0.63
        # at ten times these values)
        values = rng.uniform(0.0005, 0.002, shape)
    elif LAST_NORM.search(key):
        # training initialises these to zero; at one, a deep network of random weights
        # amplifies rounding errors (FP16 cosine of R50-IBN 0.989 instead of 0.9997)
        values = rng.uniform(0.2, 0.6, shape)
    elif part == "p":
        values = rng.uniform(2.5, 3.5, shape)
    elif part in {"weight", "running_var"}:
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(0.0, 0.1, shape)
    return values.astype(np.float32)


def _draw_normal(rng: np.random.Generator, std: float, shape: tuple[int, ...]) -> Array:
    """Draw normal values in pieces; in one piece a layer needs three times its size."""
    values = np.empty(shape, np.float32)
    flat = values.reshape(-1)
    for start in range(0, flat.size, MAX_VALUES_PER_DRAW):
        part = flat[start : start + MAX_VALUES_PER_DRAW]
        part[:] = rng.normal(0.0, std, part.size)
    return values


def _set_statistics(
    model: Model,
    arrays: Mapping[str, Array],
    inputs: Mapping[str, Array],
) -> None:
    """Overwrite the running means and variances in `arrays` by those of `inputs`."""
    try:
        import torch
    except ImportError as exc:
        raise CheckpointError(
            "stand-in weights need torch, which is not installed; build from a file: "
            "--weights FILE (python -m builders reference MODEL --export FILE writes "
            "one on a machine with torch)"
        ) from exc

    from builders.ops.torch import TorchOps

    class MeasuringOps(TorchOps):
        def batch_norm(self, x: Tensor, norm: BatchNorm) -> Tensor:
            axes = [axis for axis in range(x.ndim) if axis != 1]
            variance, mean = torch.var_mean(x, dim=axes)
            self._weights[f"{norm.name}.running_mean"].copy_(mean)
            self._weights[f"{norm.name}.running_var"].copy_(variance)
            return super().batch_norm(x, norm)

        def linear(
            self, x: Tensor, name: str, features: int, norm: BatchNorm | None = None
        ) -> Tensor:
            # centred, so that probabilities are on both sides of the threshold
            mean = super().linear(x, name, features).mean(dim=0)
            self._weights[f"{name}.bias"].sub_(mean)
            return super().linear(x, name, features, norm)

    # from_numpy shares memory, so the measured values are written to `arrays`
    weights = {key: torch.from_numpy(array) for key, array in arrays.items()}
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.inference_mode():
        model.wire(MeasuringOps(weights, tensors))
