"""Simulation of INT8 in torch: a wiring whose rounding lets gradients through.

Rounding passes gradients unchanged (straight-through estimator, Bengio et al., 2013,
arXiv:1308.3432), and scales are learnt together with the weights (LSQ, Esser et al.,
2020, arXiv:1902.08153). Kernels are quantised with their batch norm folded in, by its
running statistics, as in the other backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from builders.ops import (
    BatchNorm,
    Conv,
    InstanceBatchNorm,
    InstanceNorm,
    expand_padding,
)
from builders.ops.folding import INT8_MAX
from builders.ops.placement import Pair, Placement, PlacementCursor
from builders.ops.torch import TorchOps

INT8_MIN = -128


def fake_quantise(x: Tensor, scale: Tensor) -> Tensor:
    """Quantise a tensor to INT8 and back: rounded half to even, saturating.

    Args:
        x: Float tensor of any shape.
        scale: Scale, a scalar or of a shape that broadcasts to that of `x`.

    Returns:
        Float tensor of the shape of `x`, differentiable in `x` and `scale`.
    """
    scaled = (x / scale).clamp(INT8_MIN, INT8_MAX)
    return (scaled + (scaled.round() - scaled).detach()) * scale


def fake_quantise_kernel(weight: Tensor) -> Tensor:
    """Quantise a kernel to INT8 and back, with one scale per output channel.

    Args:
        weight: Kernel [K, C, R, S].

    Returns:
        Kernel [K, C, R, S], differentiable in `weight`.
    """
    largest = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
    scales = torch.where(largest > 0, largest / INT8_MAX, 1.0)
    return fake_quantise(weight, scales)


class Int8TorchOps(TorchOps):
    """TorchOps that simulates INT8 where a placement says so.

    Args:
        weights: Weights by checkpoint name.
        inputs: Inputs by name.
        placement: The tensors to quantise.
        scales: Scale by tensor.
        requantised: Include the pairs that only ONNX Runtime's kernels need; without
            them the network is that of TensorRT.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        placement: Placement,
        scales: Mapping[str, Tensor],
        *,
        requantised: bool,
    ) -> None:
        super().__init__(weights, inputs)
        self._scales = scales
        self._requantised = requantised
        self._cursor: PlacementCursor[Tensor] = PlacementCursor(placement, self._pair)

    def _pair(self, x: Tensor, pair: Pair) -> Tensor:
        return fake_quantise(x, self._scales[pair.key])

    def convolution(self, x: Tensor, conv: Conv) -> Tensor:
        placement = self._cursor.next_convolution()
        if placement is None or placement.input is None:
            return super().convolution(x, conv)
        weight, shift = self._fold_norm(conv)
        before, after = expand_padding(conv.padding)
        x = functional.pad(
            self._cursor.apply(x, placement.input), (before, after, before, after)
        )
        x = functional.conv2d(x, fake_quantise_kernel(weight), shift, conv.stride)
        if self._requantised:
            x = self._cursor.apply(x, placement.output)
        if isinstance(conv.norm, InstanceNorm):
            return self._instance_norm(x, conv.norm)
        if not isinstance(conv.norm, InstanceBatchNorm):
            return x
        half = conv.channels // 2
        instance = self._instance_norm(
            x[:, :half], InstanceNorm(f"{conv.norm.name}.IN", conv.norm.eps)
        )
        # the batch norm of the second half is folded into the kernel
        return torch.cat((instance, x[:, half:]), dim=1)

    def _fold_norm(self, conv: Conv) -> tuple[Tensor, Tensor | None]:
        weight = self._weights[f"{conv.name}.weight"]
        shift = self._weights[f"{conv.name}.bias"] if conv.bias else None
        norm = conv.norm
        if norm is None or isinstance(norm, InstanceNorm):
            return weight, shift
        channels = len(weight)
        half, batch_norm = 0, norm
        if isinstance(norm, InstanceBatchNorm):
            half, batch_norm = channels // 2, BatchNorm(f"{norm.name}.BN", norm.eps)
        part = {
            each: self._weights[f"{batch_norm.name}.{each}"]
            for each in ("weight", "bias", "running_mean", "running_var")
        }
        scale = part["weight"] / torch.sqrt(part["running_var"] + norm.eps)
        offset = part["bias"] - part["running_mean"] * scale
        if half:
            scale = torch.cat((torch.ones_like(scale[:1]).expand(half), scale))
            offset = torch.cat((torch.zeros_like(offset[:1]).expand(half), offset))
        if shift is not None:
            offset = offset + shift * scale
        return weight * scale[:, None, None, None], offset

    def relu(self, x: Tensor) -> Tensor:
        x = super().relu(x)
        return self._cursor.relu_output(x) if self._requantised else x

    def max_pool(self, x: Tensor, **how: Any) -> Tensor:
        return super().max_pool(self._cursor.pool_input(x), **how)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return super().add(*self._cursor.addition_operands(a, b))
