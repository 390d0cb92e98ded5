"""The operations that networks are wired from, as one protocol.

A network is a function over `Ops`: it names every weight by its checkpoint name and
says the geometry once. What comes out depends on the backend that runs the wiring:

* `shape`: the checkpoint's layout, MACs and output shapes (standard library only)
* `torch`: the numbers, and the reference that the other backends are held against
* `onnx`: an ONNX graph

`V` is whatever a backend passes along: a shape, a torch tensor, a tensor's name.
Image values are [N, C, H, W] in FP32 unless an operation says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from builders.spec import Image, Vector

V = TypeVar("V")

Padding = int | tuple[int, int]
"""Pixels before and after, the same for rows and columns; one number means both."""

BATCH_NORM_EPS = 1e-5
"""PyTorch's default, and the value of every batch norm in the seeds."""

GEM_EPS = 1e-6
"""FastReID's lower clamp in generalised-mean pooling."""


L2_EPS = 1e-12
"""torch.nn.functional.normalize's floor under the norm."""


class WiringError(ValueError):
    """A network's operations do not fit together, or do not fit its weights."""


@dataclass(frozen=True)
class BatchNorm:
    """Batch norm with running statistics, under the checkpoint prefix `name`."""

    name: str
    eps: float = BATCH_NORM_EPS


@dataclass(frozen=True)
class InstanceBatchNorm:
    """IBN-Net's split norm: instance norm on the first half of the channels, batch
    norm on the rest (`<name>.IN`, `<name>.BN`; contiguous halves, not interleaved).
    """

    name: str
    eps: float = BATCH_NORM_EPS


Norm = BatchNorm | InstanceBatchNorm


def pads(padding: Padding) -> tuple[int, int]:
    """(before, after) of a padding given either way."""
    return (padding, padding) if isinstance(padding, int) else padding


class Ops(Protocol[V]):
    """What a wiring may call. Channel counts are the outputs' unless said otherwise."""

    def image(self, image: Image) -> V:
        """The network's input: UINT8 [N, H, W, 3] RGB pixels, cast, put in the
        network's channel order, permuted to NCHW and normalised.
        """
        ...

    def vector(self, vector: Vector) -> V:
        """The network's input: FP32 [N, size] as it comes."""
        ...

    def convolution(
        self,
        x: V,
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
    ) -> V:
        """Convolution `<name>.weight` (and `.bias`), then `norm`, which belongs to
        the same call so that a backend can fold it into the kernel. `precise` ones
        stay FP32 in reduced precision.
        """
        ...

    def batch_norm(self, x: V, norm: BatchNorm) -> V:
        """A batch norm that follows something other than a convolution."""
        ...

    def relu(self, x: V) -> V:
        """max(x, 0)."""
        ...

    def elu(self, x: V) -> V:
        """x where positive, exp(x) - 1 elsewhere."""
        ...

    def sigmoid(self, x: V) -> V:
        """1 / (1 + exp(-x)), in FP32."""
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
        """Max pooling; `ceil` rounds the output size up (windows may overhang)."""
        ...

    def average_pool(self, x: V, *, kernel: int, stride: int) -> V:
        """Average pooling without padding."""
        ...

    def gem_pool(self, x: V, name: str) -> V:
        """Generalised mean over H and W with the learned power `<name>.p`:
        mean(max(x, GEM_EPS) ** p) ** (1 / p), [N, C, H, W] -> [N, C, 1, 1].
        """
        ...

    def global_average(self, x: V) -> V:
        """Mean over H and W, [N, C, H, W] -> [N, C, 1, 1]."""
        ...

    def reflection_pad(self, x: V, padding: int) -> V:
        """Rows and columns mirrored about the edge pixel's centre."""
        ...

    def add(self, a: V, b: V) -> V:
        """Element-wise sum of two values of the same shape."""
        ...

    def multiply(self, a: V, b: V) -> V:
        """Element-wise product of two values of the same shape."""
        ...

    def absolute_difference(self, a: V, b: V) -> V:
        """|a - b| of two values of the same shape."""
        ...

    def concatenate(self, a: V, b: V) -> V:
        """[N, K] and [N, L] -> [N, K + L], `a` first."""
        ...

    def scale_channels(self, x: V, gate: V) -> V:
        """[N, C, H, W] times a gate [N, C]."""
        ...

    def attend(self, theta: V, phi: V, g: V) -> V:
        """FastReID's non-local product of three maps [N, 1, H, W], with P = H * W:
        theta (P x 1) times phi (1 x P), divided by P, times g (P x 1); no softmax.
        With one channel that is theta * mean(phi * g), in FP32.
        """
        ...

    def softmax(self, x: V) -> V:
        """Softmax over the last axis, in FP32."""
        ...

    def select(self, x: V, index: int) -> V:
        """Column `index` of [N, K], as [N, 1]."""
        ...

    def flatten(self, x: V) -> V:
        """[N, C, H, W] -> [N, C * H * W]."""
        ...

    def linear(self, x: V, name: str, features: int) -> V:
        """x @ `<name>.weight`.T + `<name>.bias`, [N, K] -> [N, features]."""
        ...

    def l2_norm(self, x: V) -> V:
        """x / |x| over the last axis, in FP32."""
        ...
