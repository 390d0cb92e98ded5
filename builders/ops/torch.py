"""The torch backend: the reference numbers of a wiring.

Each operation is PyTorch's own, in the order that the checkpoint was trained with:
nothing is folded or fused here, so that this stays the plain reading of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from builders.ops import (
    GEM_EPS,
    BatchNorm,
    InstanceBatchNorm,
    Norm,
    Padding,
    pads,
)

if TYPE_CHECKING:
    from builders.spec import Image, Model, Vector

Array = npt.NDArray[np.generic]


class Reference:
    """`model` with `arrays` as weights: UINT8 crops in, FP32 outputs as NumPy."""

    def __init__(self, model: Model, arrays: Mapping[str, Array]) -> None:
        self._model = model
        self._weights = {
            key: torch.from_numpy(np.array(array))
            for key, array in arrays.items()
            if model.survey.layout[key].kind != "counter"
        }

    def __call__(self, **inputs: Array) -> dict[str, npt.NDArray[np.float32]]:
        """{output: FP32 [N, size]} of {input: UINT8 [N, H, W, 3] or FP32 [N, size]}."""
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        ops = TorchOps(self._weights, tensors)
        with torch.inference_mode():
            outputs = self._model.wire(ops)
        return {name: value.numpy() for name, value in outputs.items()}


class TorchOps:
    """`Ops` over torch tensors, run eagerly."""

    def __init__(
        self, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> None:
        self._weights = weights
        self._inputs = inputs
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def image(self, image: Image) -> Tensor:
        x = self._inputs[image.name].permute(0, 3, 1, 2).float()
        if image.order == "BGR":
            x = x.flip(1)
        mean, std = self._statistics(image, x.device)
        return (x - mean) / std

    def vector(self, vector: Vector) -> Tensor:
        return self._inputs[vector.name]

    def _statistics(self, image: Image, device: torch.device) -> tuple[Tensor, Tensor]:
        # kept, because a CUDA graph cannot record their way to the GPU
        if image.name not in self._kept:
            mean, std = (
                torch.tensor(values, device=device).view(1, 3, 1, 1)
                for values in (image.mean, image.std)
            )
            self._kept[image.name] = mean, std
        return self._kept[image.name]

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
        before, after = pads(padding)
        if before != after:
            x = functional.pad(x, (before, after, before, after))
            before = 0
        x = functional.conv2d(
            x,
            self._weights[f"{name}.weight"],
            self._weights[f"{name}.bias"] if bias else None,
            stride=stride,
            padding=before,
            groups=groups,
        )
        if isinstance(norm, InstanceBatchNorm):
            return self._instance_batch_norm(x, norm)
        return x if norm is None else self.batch_norm(x, norm)

    def _instance_batch_norm(self, x: Tensor, norm: InstanceBatchNorm) -> Tensor:
        half = x.shape[1] // 2
        instance = self._instance_norm(x[:, :half], norm)
        batch = self.batch_norm(x[:, half:], BatchNorm(f"{norm.name}.BN", norm.eps))
        return torch.cat((instance, batch), dim=1)

    def _instance_norm(self, x: Tensor, norm: InstanceBatchNorm) -> Tensor:
        return functional.instance_norm(
            x,
            weight=self._weights[f"{norm.name}.IN.weight"],
            bias=self._weights[f"{norm.name}.IN.bias"],
            eps=norm.eps,
        )

    def batch_norm(self, x: Tensor, norm: BatchNorm) -> Tensor:
        return functional.batch_norm(
            x,
            self._weights[f"{norm.name}.running_mean"],
            self._weights[f"{norm.name}.running_var"],
            self._weights[f"{norm.name}.weight"],
            self._weights[f"{norm.name}.bias"],
            eps=norm.eps,
        )

    def relu(self, x: Tensor) -> Tensor:
        return functional.relu(x)

    def elu(self, x: Tensor) -> Tensor:
        return functional.elu(x)

    def sigmoid(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def max_pool(
        self,
        x: Tensor,
        *,
        kernel: int,
        stride: int,
        padding: Padding = 0,
        ceil: bool = False,
    ) -> Tensor:
        before, after = pads(padding)
        if before != after:
            x = functional.pad(x, (before, after, before, after), value=float("-inf"))
            before = 0
        return functional.max_pool2d(x, kernel, stride, before, ceil_mode=ceil)

    def average_pool(self, x: Tensor, *, kernel: int, stride: int) -> Tensor:
        return functional.avg_pool2d(x, kernel, stride)

    def gem_pool(self, x: Tensor, name: str) -> Tensor:
        power = self._weights[f"{name}.p"]
        mean = x.clamp(min=GEM_EPS).pow(power).mean(dim=(2, 3), keepdim=True)
        return mean.pow(1.0 / power)

    def global_average(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True)

    def reflection_pad(self, x: Tensor, padding: int) -> Tensor:
        return functional.pad(x, (padding,) * 4, mode="reflect")

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def absolute_difference(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs()

    def concatenate(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat((a, b), dim=1)

    def scale_channels(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate[:, :, None, None]

    def attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        # literally, so that the short form of the other backends is held against it
        rows = [value.flatten(2) for value in (theta, phi, g)]
        pairs = rows[0].mT @ rows[1] / rows[0].shape[2]
        return (pairs @ rows[2].mT).mT.reshape(theta.shape)

    def softmax(self, x: Tensor) -> Tensor:
        return functional.softmax(x, dim=-1)

    def select(self, x: Tensor, index: int) -> Tensor:
        return x[:, index : index + 1]

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def linear(self, x: Tensor, name: str, features: int) -> Tensor:
        return functional.linear(
            x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        )

    def l2_norm(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1)
