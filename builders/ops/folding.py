"""A convolution's kernel and bias with its batch norm folded in.

Shared by the backends that emit graphs (onnx, tensorrt), so that both run, and later
quantise, the same kernels. Computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builders.ops import BatchNorm, InstanceBatchNorm, Norm

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class InstanceNorm:
    """Instance norm left over for the first `channels` channels after folding."""

    name: str
    channels: int
    scale: Float32
    shift: Float32
    eps: float


@dataclass(frozen=True)
class Kernel:
    """A convolution as it is emitted: kernel [K, C, R, S], bias [K] or none, and the
    instance norm that cannot be folded.
    """

    weight: Float32
    bias: Float32 | None
    instance_norm: InstanceNorm | None = None


INT8_MAX = 127


def int8_kernel(weight: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """`weight` [K, C, R, S] in steps of its own for every output channel: integers, and
    the steps [K]. Symmetric, half to even.
    """
    largest = np.abs(weight).max(axis=(1, 2, 3))
    # a channel of zeros may have any step
    steps = np.where(largest > 0, largest / INT8_MAX, 1.0).astype(np.float32)
    quantised = np.rint(weight / steps[:, None, None, None])
    return np.clip(quantised, -INT8_MAX, INT8_MAX).astype(np.int8), steps


def scale_and_shift(
    weights: Mapping[str, Array], norm: BatchNorm
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A batch norm as x * scale + shift, each [C]."""
    gamma, beta, mean, variance = (
        weights[f"{norm.name}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + norm.eps)
    return scale, beta - mean * scale


def fold(
    weights: Mapping[str, Array], name: str, *, bias: bool, norm: Norm | None
) -> Kernel:
    """Convolution `name` with what of `norm` can be folded into it."""
    weight = weights[f"{name}.weight"]
    shift: npt.NDArray[np.float64] | None = (
        weights[f"{name}.bias"].astype(np.float64) if bias else None
    )
    if norm is None:
        return Kernel(
            weight.astype(np.float32),
            None if shift is None else shift.astype(np.float32),
        )
    channels = weight.shape[0]
    if isinstance(norm, InstanceBatchNorm):
        half, batch_norm = channels // 2, BatchNorm(f"{norm.name}.BN", norm.eps)
    else:
        half, batch_norm = 0, norm
    scale, offset = np.ones(channels), np.zeros(channels)
    scale[half:], offset[half:] = scale_and_shift(weights, batch_norm)
    folded = weight.astype(np.float64) * scale[:, None, None, None]
    if shift is not None:
        offset = offset + shift * scale
    instance_norm = None
    if half:
        instance_norm = InstanceNorm(
            f"{norm.name}.IN",
            half,
            weights[f"{norm.name}.IN.weight"].astype(np.float32),
            weights[f"{norm.name}.IN.bias"].astype(np.float32),
            norm.eps,
        )
    return Kernel(folded.astype(np.float32), offset.astype(np.float32), instance_norm)
