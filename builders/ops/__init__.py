"""The operations that networks are wired from, as one protocol.

A network is a function over `Ops`. It names every weight by its checkpoint name and
states the geometry once. The result depends on the backend that runs the wiring:

* `shape`: checkpoint layout, MACs and output shapes (standard library only)
* `torch`: output values; the reference for all other backends
* `onnx`: an ONNX graph
* `tensorrt` (`builders/tensorrt/network.py`): a TensorRT network definition

`V` is the type of a backend's values: a shape, a torch tensor, a tensor name.
Image values have shape [N, C, H, W] and are FP32 unless an operation says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from builders.errors import BuildersError
from builders.tensors import Image, Vector

V = TypeVar("V")

Padding = int | tuple[int, int]
"""Pixels (before, after), the same for rows and columns; one number means both."""

BATCH_NORM_EPS = 1e-5
"""PyTorch's default, which all reimplemented networks use."""

GEM_EPS = 1e-6
"""Lower clamp of generalised-mean pooling (FastReID, fastreid/layers/pooling.py)."""

L2_EPS = 1e-12
"""Lower clamp of the norm in torch.nn.functional.normalize."""


class WiringError(BuildersError, ValueError):
    """Operations that do not fit together, or do not fit the network's weights."""


@dataclass(frozen=True)
class BatchNorm:
    """Batch norm with running statistics.

    Attributes:
        name: Prefix of its checkpoint keys.
        eps: Value added to the variance.
    """

    name: str
    eps: float = BATCH_NORM_EPS


@dataclass(frozen=True)
class InstanceNorm:
    """Instance norm with learned scale and shift (Ulyanov et al., arXiv:1607.08022).

    Attributes:
        name: Prefix of its checkpoint keys.
        eps: Value added to the variance.
    """

    name: str
    eps: float = BATCH_NORM_EPS


@dataclass(frozen=True)
class InstanceBatchNorm:
    """Split norm of IBN-Net (Pan et al., 2018, arXiv:1807.09441).

    Instance norm on the first half of the channels, batch norm on the second. The
    halves are contiguous, not interleaved.

    Attributes:
        name: Prefix of its checkpoint keys, `<name>.IN.*` and `<name>.BN.*`.
        eps: Value added to both variances.
    """

    name: str
    eps: float = BATCH_NORM_EPS


Norm = BatchNorm | InstanceNorm | InstanceBatchNorm


@dataclass(frozen=True)
class Conv:
    """A convolution and the norm that follows it.

    The norm belongs to the same operation so that a backend can fold it into the
    kernel.

    Attributes:
        name: Checkpoint name; the weights are `<name>.weight` and `<name>.bias`.
        channels: Number of output channels.
        kernel: Height and width of the kernel.
        stride: Step of the kernel along rows and columns.
        padding: Zero pixels around the input, see `Padding`.
        groups: Number of groups that the channels are split into.
        bias: Whether the convolution has a bias.
        norm: Norm applied to the output, or None.
        precise: Whether the convolution stays FP32 in reduced precision.
    """

    name: str
    channels: int
    kernel: int
    stride: int = 1
    padding: Padding = 0
    groups: int = 1
    bias: bool = False
    norm: Norm | None = None
    precise: bool = False

    def __post_init__(self) -> None:
        for field in ("channels", "kernel", "stride", "groups"):
            if getattr(self, field) < 1:
                raise WiringError(
                    f"{self.name}: {field} {getattr(self, field)} is less than 1"
                )
        if min(expand_padding(self.padding)) < 0:
            raise WiringError(f"{self.name}: padding {self.padding} is negative")
        if self.channels % self.groups:
            raise WiringError(
                f"{self.name}: {self.channels} output channels cannot be split into "
                f"{self.groups} groups; make channels a multiple of groups"
            )


def expand_padding(padding: Padding) -> tuple[int, int]:
    """Return `padding` as (before, after).

    Args:
        padding: Number of pixels on both sides, or (before, after).
    """
    return (padding, padding) if isinstance(padding, int) else padding


class Ops(Protocol[V]):
    """The operations that a network may call.

    Channel counts are those of the output unless stated otherwise.
    """

    def image(self, image: Image) -> V:
        """Return the image input, normalised: UINT8 [N, H, W, 3] RGB to [N, 3, H, W].

        The pixels are cast to FP32, put in the network's channel order, permuted to
        NCHW and normalised with the image's mean and standard deviation.
        """
        ...

    def vector(self, vector: Vector) -> V:
        """Return the vector input unchanged: FP32 [N, size]."""
        ...

    def convolution(self, x: V, conv: Conv) -> V:
        """Apply a convolution and its norm: [N, C, H, W] to [N, conv.channels, H', W'].

        H' and W' are (size + padding - kernel) // stride + 1.
        """
        ...

    def batch_norm(self, x: V, norm: BatchNorm) -> V:
        """Apply a batch norm that does not follow a convolution: [N, C, H, W]."""
        ...

    def relu(self, x: V) -> V:
        """Return max(x, 0), of any shape."""
        ...

    def elu(self, x: V) -> V:
        """Return x where it is positive and exp(x) - 1 elsewhere, of any shape."""
        ...

    def sigmoid(self, x: V) -> V:
        """Return 1 / (1 + exp(-x)) in FP32, of any shape."""
        ...

    def max_pool(
        self,
        x: V,
        *,
        kernel: int,
        stride: int,
        padding: Padding = 0,
        ceil: bool = False,
    ) -> V:
        """Take the maximum of each window: [N, C, H, W] to [N, C, H', W'].

        With `ceil` the output size is rounded up, so that the last window may exceed
        the input.
        """
        ...

    def average_pool(self, x: V, *, kernel: int, stride: int) -> V:
        """Take the mean of each window, unpadded: [N, C, H, W] to [N, C, H', W']."""
        ...

    def gem_pool(self, x: V, name: str) -> V:
        """Take the generalised mean over H and W: [N, C, H, W] to [N, C, 1, 1].

        mean(max(x, GEM_EPS) ** p) ** (1 / p) with the learned power `<name>.p`, in
        FP32 (GeM, Radenovic et al., 2018, arXiv:1711.02512).
        """
        ...

    def global_average(self, x: V) -> V:
        """Take the mean over H and W: [N, C, H, W] to [N, C, 1, 1]."""
        ...

    def reflection_pad(self, x: V, padding: int) -> V:
        """Mirror `padding` rows and columns about the centre of the edge pixels.

        [N, C, H, W] to [N, C, H + 2 * padding, W + 2 * padding].
        """
        ...

    def add(self, a: V, b: V) -> V:
        """Return the element-wise sum of two values of the same shape."""
        ...

    def multiply(self, a: V, b: V) -> V:
        """Return the element-wise product of two values of the same shape."""
        ...

    def absolute_difference(self, a: V, b: V) -> V:
        """Return |a - b| of two values of the same shape."""
        ...

    def concatenate(self, a: V, b: V) -> V:
        """Join columns, `a` first: [N, K] and [N, L] to [N, K + L]."""
        ...

    def scale_channels(self, x: V, gate: V) -> V:
        """Multiply every channel by its gate: [N, C, H, W] times [N, C]."""
        ...

    def attend(self, theta: V, phi: V, g: V) -> V:
        """Return FastReID's non-local product of three maps [N, 1, H, W], in FP32.

        With P = H * W: theta (P x 1) times phi (1 x P), divided by P, times g (P x 1),
        without a softmax (fastreid/layers/non_local.py). With one channel that equals
        theta * mean(phi * g).
        """
        ...

    def softmax(self, x: V) -> V:
        """Apply softmax over the last axis in FP32: [N, K]."""
        ...

    def select(self, x: V, index: int) -> V:
        """Take column `index`: [N, K] to [N, 1]."""
        ...

    def flatten(self, x: V) -> V:
        """Join all axes after the batch: [N, C, H, W] to [N, C * H * W]."""
        ...

    def linear(
        self, x: V, name: str, features: int, norm: BatchNorm | None = None
    ) -> V:
        """Return x @ `<name>.weight`.T + `<name>.bias`: [N, K] to [N, features].

        A batch norm that follows belongs to the operation, as it does in `Conv`.
        """
        ...

    def l2_norm(self, x: V) -> V:
        """Divide by the Euclidean norm over the last axis, in FP32: [N, K]."""
        ...
