"""Stand-in weights: seeded random values in a model's layout, for when there is no
checkpoint. They know nothing about people, and everything that uses them says so.

Batch-norm statistics are measured on seeded noise pictures, as training would, so that
activations keep their scale and different crops get different answers; statistics
drawn at random give a network that answers 1.0 to everything and tests nothing.
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
from builders.ops.shape import Entry
from builders.spec import Image, Model
from builders.weights.checkpoint import StandIn, Weights
from builders.weights.files import Array, CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

LAST_NORM = re.compile(r"\.(layer\d\.\d+\.bn[23]|conv3\.bn)\.weight$")
"""The batch norm before a residual addition (and the second of three)."""

DRAWN_AT_ONCE = 1 << 22

PICTURES = 16
GRID_HW = (8, 4)
"""Noise pictures are this many random colours, smoothly enlarged: large shapes, as
clothes and backgrounds make them."""


def stand_in_weights(model: Model, seed: int = 0) -> Weights:
    """Weights of `model` made from `seed`."""
    arrays = {
        key: _values(key, entry, np.random.default_rng([seed, crc32(key.encode())]))
        for key, entry in model.survey.layout.items()
        if entry.kind != "counter"
    }
    _settle(model, arrays, noise_inputs(model, PICTURES, seed))
    return Weights(arrays, StandIn(seed))


def noise_inputs(model: Model, count: int, seed: int) -> dict[str, Array]:
    """Seeded inputs for `model`: smooth noise pictures, or normal vectors."""
    inputs: dict[str, Array] = {
        image.name: noise_crops(image, count, seed) for image in model.images
    }
    for number, vector in enumerate(model.vectors):
        values = np.random.default_rng([seed, number]).normal(size=(count, vector.size))
        inputs[vector.name] = values.astype(np.float32)
    return inputs


def noise_crops(image: Image, count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Seeded smooth noise pictures for `image`, UINT8 [count, H, W, 3]."""
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 256, (count, *GRID_HW, 3), dtype=np.uint8)
    size_wh = (image.width, image.height)
    crops = np.empty((count, image.height, image.width, 3), np.uint8)
    for grid, crop in zip(grids, crops, strict=True):
        cv2.resize(grid, size_wh, dst=crop, interpolation=cv2.INTER_CUBIC)
    return crops


def _values(key: str, entry: Entry, rng: np.random.Generator) -> Array:
    shape, part = entry.shape, key.rpartition(".")[2]
    if len(shape) > 1:
        # He: keeps the variance through a ReLU
        fan_in = int(np.prod(shape[1:]))
        return _normal(rng, np.sqrt(2.0 / fan_in), shape)
    if key.endswith(".W.1.weight"):
        # FastReID starts non-local blocks at zero; these cubics stretch the range of
        # what follows until INT8 answers noise (cosine -0.63 at ten times as much)
        values = rng.uniform(0.0005, 0.002, shape)
    elif LAST_NORM.search(key):
        # training starts these at zero; at one, a deep network of random weights
        # amplifies every rounding (FP16 cosine of R50-IBN: 0.989 then, 0.9997 now)
        values = rng.uniform(0.2, 0.6, shape)
    elif part == "p":
        values = rng.uniform(2.5, 3.5, shape)
    elif part in {"weight", "running_var"}:
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(0.0, 0.1, shape)
    return values.astype(np.float32)


def _normal(rng: np.random.Generator, std: float, shape: tuple[int, ...]) -> Array:
    """Drawn in pieces: one large layer would need three times its size at once."""
    values = np.empty(shape, np.float32)
    flat = values.reshape(-1)
    for start in range(0, flat.size, DRAWN_AT_ONCE):
        part = flat[start : start + DRAWN_AT_ONCE]
        part[:] = rng.normal(0.0, std, part.size)
    return values


def _settle(
    model: Model,
    arrays: Mapping[str, Array],
    inputs: Mapping[str, Array],
) -> None:
    """Overwrite the running means and variances in `arrays` with those of `inputs`."""
    try:
        import torch
    except ImportError as exc:
        raise CheckpointError(
            "stand-in weights are made with torch, which is not here; build from a "
            "file: --weights FILE (python -m builders reference MODEL --export FILE "
            "writes one where torch is)"
        ) from exc

    from builders.ops.torch import TorchOps

    class Settling(TorchOps):
        def batch_norm(self, x: Tensor, norm: BatchNorm) -> Tensor:
            axes = [axis for axis in range(x.ndim) if axis != 1]
            variance, mean = torch.var_mean(x, dim=axes)
            self._weights[f"{norm.name}.running_mean"].copy_(mean)
            self._weights[f"{norm.name}.running_var"].copy_(variance)
            return super().batch_norm(x, norm)

        def linear(self, x: Tensor, name: str, features: int) -> Tensor:
            # centred, so that a probability falls on both sides of its threshold
            mean = super().linear(x, name, features).mean(dim=0)
            self._weights[f"{name}.bias"].sub_(mean)
            return super().linear(x, name, features)

    # from_numpy shares memory, so what is measured lands in `arrays`
    weights = {key: torch.from_numpy(array) for key, array in arrays.items()}
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.inference_mode():
        model.wire(Settling(weights, tensors))
