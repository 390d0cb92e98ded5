"""Kernels of convolutions and linear layers with their batch norm folded in.

Shared by the backends that emit graphs (onnx, tensorrt), so that both run, and later
quantise, the same kernels. Computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builders.ops import BatchNorm, Conv, InstanceBatchNorm, InstanceNorm, Norm

Array = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

INT8_MAX = 127


@dataclass(frozen=True)
class UnfoldedNorm:
    """Instance norm that remains after folding, on the first channels of a convolution.

    Attributes:
        name: Prefix of its checkpoint keys.
        channels: Number of channels that it normalises.
        scale: FP32 [channels].
        shift: FP32 [channels].
        eps: Value added to the variance.
    """

    name: str
    channels: int
    scale: Float32
    shift: Float32
    eps: float


@dataclass(frozen=True)
class Kernel:
    """Kernel and bias of a convolution in an emitted graph.

    Attributes:
        weight: FP32 [K, C, R, S].
        bias: FP32 [K], or None.
        instance_norm: The part of the norm that cannot be folded, or None.
    """

    weight: Float32
    bias: Float32 | None
    instance_norm: UnfoldedNorm | None = None


def quantise_kernel(weight: Float32) -> tuple[npt.NDArray[np.int8], Float32]:
    """Quantise a kernel with one scale for each output channel.

    Symmetric, rounding half to even.

    Args:
        weight: FP32 [K, C, R, S].

    Returns:
        The INT8 kernel [K, C, R, S] and the FP32 scales [K].
    """
    largest = np.abs(weight).max(axis=(1, 2, 3))
    # a channel of zeros may have any scale
    scales = np.where(largest > 0, largest / INT8_MAX, 1.0).astype(np.float32)
    quantised = np.rint(weight / scales[:, None, None, None])
    return np.clip(quantised, -INT8_MAX, INT8_MAX).astype(np.int8), scales


def affine_from_norm(
    weights: Mapping[str, Array], norm: BatchNorm
) -> tuple[Float64, Float64]:
    """Express a batch norm as x * scale + shift.

    Args:
        weights: Arrays by checkpoint name.
        norm: The batch norm, with its running statistics.

    Returns:
        scale and shift, each float64 [C].
    """
    gamma, beta, mean, variance = (
        weights[f"{norm.name}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + norm.eps)
    return scale, beta - mean * scale


def fold_norm(weights: Mapping[str, Array], conv: Conv) -> Kernel:
    """Fold the batch norm of a convolution into its kernel and bias.

    Args:
        weights: Arrays by checkpoint name.
        conv: The convolution. Of a split norm only the batch-norm half is folded, and
            of an instance norm nothing.
    """
    weight = weights[f"{conv.name}.weight"]
    bias: Float64 | None = (
        weights[f"{conv.name}.bias"].astype(np.float64) if conv.bias else None
    )
    norm = conv.norm
    if norm is None:
        return Kernel(
            weight.astype(np.float32),
            None if bias is None else bias.astype(np.float32),
        )
    channels = weight.shape[0]
    instance, batch, unfolded = _split_norm(norm, channels)
    scale, shift = np.ones(channels), np.zeros(channels)
    if batch is not None:
        scale[unfolded:], shift[unfolded:] = affine_from_norm(weights, batch)
    if bias is not None:
        shift = shift + bias * scale
    instance_norm = None
    if instance is not None:
        instance_norm = UnfoldedNorm(
            instance.name,
            unfolded,
            weights[f"{instance.name}.weight"].astype(np.float32),
            weights[f"{instance.name}.bias"].astype(np.float32),
            instance.eps,
        )
    kernel = weight.astype(np.float64) * scale[:, None, None, None]
    return Kernel(kernel.astype(np.float32), shift.astype(np.float32), instance_norm)


def _split_norm(
    norm: Norm, channels: int
) -> tuple[InstanceNorm | None, BatchNorm | None, int]:
    """Return the two parts of a norm, and the number of channels of the first."""
    if isinstance(norm, InstanceBatchNorm):
        return (
            InstanceNorm(f"{norm.name}.IN", norm.eps),
            BatchNorm(f"{norm.name}.BN", norm.eps),
            channels // 2,
        )
    if isinstance(norm, InstanceNorm):
        return norm, None, channels
    return None, norm, 0


def fold_linear(
    weights: Mapping[str, Array], name: str, norm: BatchNorm | None
) -> tuple[Float32, Float32]:
    """Fold the batch norm of a linear layer into its weight and bias.

    Args:
        weights: Arrays by checkpoint name.
        name: Checkpoint name of the layer.
        norm: The batch norm that follows it, or None.

    Returns:
        FP32 weight [K, C] and bias [K].
    """
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if norm is not None:
        scale, shift = affine_from_norm(weights, norm)
        weight = weight.astype(np.float64) * scale[:, None]
        bias = bias.astype(np.float64) * scale + shift
    # without a copy: the largest layer has 1.28 GB
    return weight.astype(np.float32, copy=False), bias.astype(np.float32, copy=False)
