"""The wiring with INT8 simulated in torch, differentiably.

Rounding passes gradients straight through (Bengio et al., 2013), and steps are learnt
with the weights (LSQ, Esser et al., 2020). Kernels are quantised with their batch norm
folded in, by its running statistics, as the backends do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from builders.ops import BatchNorm, InstanceBatchNorm, Norm, Padding, pads
from builders.ops.folding import INT8_MAX
from builders.ops.placement import Pair, Pairs, Placement
from builders.ops.torch import TorchOps

INT8_MIN = -128


def fake_quantised(x: Tensor, step: Tensor) -> Tensor:
    """`x` as INT8 in steps of `step` gives it back: half to even, saturating."""
    scaled = (x / step).clamp(INT8_MIN, INT8_MAX)
    return (scaled + (scaled.round() - scaled).detach()) * step


def fake_quantised_kernel(weight: Tensor) -> Tensor:
    """`weight` [K, C, R, S] likewise, with a step for every output channel."""
    largest = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
    steps = torch.where(largest > 0, largest / INT8_MAX, 1.0)
    return fake_quantised(weight, steps)


class Int8TorchOps(TorchOps):
    """TorchOps with a placement. Without `requantised` the pairs that only ONNX
    Runtime's kernels need are left out, as in TensorRT.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        placement: Placement,
        steps: Mapping[str, Tensor],
        *,
        requantised: bool,
    ) -> None:
        super().__init__(weights, inputs)
        self._steps = steps
        self._requantised = requantised
        self._pairs: Pairs[Tensor] = Pairs(placement, self._pair)

    def _pair(self, x: Tensor, pair: Pair) -> Tensor:
        return fake_quantised(x, self._steps[pair.key])

    def convolution(
        self,
        x: Tensor,
        name: str,
        channels: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: Padding = 0,
        groups: int = 1,
        bias: bool = False,
        norm: Norm | None = None,
        precise: bool = False,
    ) -> Tensor:
        place = self._pairs.convolution()
        if place is None or place.input is None:
            return super().convolution(
                x,
                name,
                channels,
                kernel=kernel,
                stride=stride,
                padding=padding,
                groups=groups,
                bias=bias,
                norm=norm,
                precise=precise,
            )
        weight, shift = self._folded(name, bias=bias, norm=norm)
        before, after = pads(padding)
        x = functional.pad(
            self._pairs.through(x, place.input), (before, after, before, after)
        )
        x = functional.conv2d(x, fake_quantised_kernel(weight), shift, stride)
        if self._requantised:
            x = self._pairs.through(x, place.output)
        if not isinstance(norm, InstanceBatchNorm):
            return x
        half = channels // 2
        # the other half's batch norm is in the kernel
        return torch.cat((self._instance_norm(x[:, :half], norm), x[:, half:]), dim=1)

    def _folded(
        self, name: str, *, bias: bool, norm: Norm | None
    ) -> tuple[Tensor, Tensor | None]:
        weight = self._weights[f"{name}.weight"]
        shift = self._weights[f"{name}.bias"] if bias else None
        if norm is None:
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
        return self._pairs.relu(x) if self._requantised else x

    def max_pool(self, x: Tensor, **how: Any) -> Tensor:
        return super().max_pool(self._pairs.pool(x), **how)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return super().add(*self._pairs.addition(a, b))
