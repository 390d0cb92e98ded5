"""The torch backend: the reference values of a network.

Every operation is PyTorch's own, in the order in which the checkpoint was trained.
Nothing is folded or fused, so that the other backends can be compared with it.
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
    Conv,
    InstanceBatchNorm,
    InstanceNorm,
    Padding,
    expand_padding,
)
from builders.ops.shape import WiredNetwork

if TYPE_CHECKING:
    from builders.tensors import Image, Vector


Array = npt.NDArray[np.generic]


class Reference:
    """A network run in torch, on the CPU in FP32.

    Args:
        model: The network.
        arrays: Its weights by checkpoint name.
    """

    def __init__(self, model: WiredNetwork, arrays: Mapping[str, Array]) -> None:
        self._model = model
        self._weights = {
            key: torch.from_numpy(np.array(array))
            for key, array in arrays.items()
            if model.summary.layout[key].kind != "counter"
        }

    def __call__(self, **inputs: Array) -> dict[str, npt.NDArray[np.float32]]:
        """Return the outputs, FP32 [N, size], by name.

        Args:
            inputs: UINT8 [N, H, W, 3] or FP32 [N, size], by input name.
        """
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        ops = TorchOps(self._weights, tensors)
        with torch.inference_mode():
            outputs = self._model.wire(ops)
        return {name: value.numpy() for name, value in outputs.items()}


class TorchOps:
    """`Ops` over torch tensors, run eagerly.

    Args:
        weights: Tensors by checkpoint name.
        inputs: UINT8 [N, H, W, 3] or FP32 [N, size] by input name.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> None:
        self._weights = weights
        self._inputs = inputs
        self._normalisation: dict[str, tuple[Tensor, Tensor]] = {}

    def image(self, image: Image) -> Tensor:
        x = self._inputs[image.name].permute(0, 3, 1, 2).float()
        if image.order == "BGR":
            x = x.flip(1)
        mean, std = self._mean_and_std(image, x.device)
        return (x - mean) / std

    def vector(self, vector: Vector) -> Tensor:
        return self._inputs[vector.name]

    def _mean_and_std(
        self, image: Image, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        # cached, because a CUDA graph cannot record the copy to the GPU
        if image.name not in self._normalisation:
            mean, std = (
                torch.tensor(values, device=device).view(1, 3, 1, 1)
                for values in (image.mean, image.std)
            )
            self._normalisation[image.name] = mean, std
        return self._normalisation[image.name]

    def convolution(self, x: Tensor, conv: Conv) -> Tensor:
        before, after = expand_padding(conv.padding)
        if before != after:
            x = functional.pad(x, (before, after, before, after))
            before = 0
        x = functional.conv2d(
            x,
            self._weights[f"{conv.name}.weight"],
            self._weights[f"{conv.name}.bias"] if conv.bias else None,
            stride=conv.stride,
            padding=before,
            groups=conv.groups,
        )
        if isinstance(conv.norm, InstanceNorm):
            return self._instance_norm(x, conv.norm)
        if isinstance(conv.norm, InstanceBatchNorm):
            return self._instance_batch_norm(x, conv.norm)
        return x if conv.norm is None else self.batch_norm(x, conv.norm)

    def _instance_batch_norm(self, x: Tensor, norm: InstanceBatchNorm) -> Tensor:
        half = x.shape[1] // 2
        instance = self._instance_norm(
            x[:, :half], InstanceNorm(f"{norm.name}.IN", norm.eps)
        )
        batch = self.batch_norm(x[:, half:], BatchNorm(f"{norm.name}.BN", norm.eps))
        return torch.cat((instance, batch), dim=1)

    def _instance_norm(self, x: Tensor, norm: InstanceNorm) -> Tensor:
        return functional.instance_norm(
            x,
            weight=self._weights[f"{norm.name}.weight"],
            bias=self._weights[f"{norm.name}.bias"],
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
        before, after = expand_padding(padding)
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
        # the literal form, to verify the short form of the other backends
        rows = [value.flatten(2) for value in (theta, phi, g)]
        pairs = rows[0].mT @ rows[1] / rows[0].shape[2]
        return (pairs @ rows[2].mT).mT.reshape(theta.shape)

    def softmax(self, x: Tensor) -> Tensor:
        return functional.softmax(x, dim=-1)

    def select(self, x: Tensor, index: int) -> Tensor:
        return x[:, index : index + 1]

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def linear(
        self, x: Tensor, name: str, features: int, norm: BatchNorm | None = None
    ) -> Tensor:
        x = functional.linear(
            x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        )
        return x if norm is None else self.batch_norm(x, norm)

    def l2_norm(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1)
