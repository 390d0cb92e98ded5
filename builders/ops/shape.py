"""The shape backend: what a wiring needs and costs, without running it.

It derives a network's checkpoint layout (every key with shape and kind), its MACs per
layer, and its output shapes. That layout is the one table of weight shapes: loading
is checked against it and stand-in weights are made from it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Literal

from builders.ops import (
    BatchNorm,
    InstanceBatchNorm,
    Norm,
    Padding,
    WiringError,
    pads,
)

if TYPE_CHECKING:
    from builders.spec import Image, Vector

Shape = tuple[int, ...]
"""Without the batch dimension: (C, H, W) or (K,)."""

Kind = Literal["parameter", "statistic", "counter"]
"""Trained, measured while training (running mean and variance), or bookkeeping that
inference does not read (num_batches_tracked, absent from old checkpoints)."""


@dataclass(frozen=True)
class Entry:
    """One key of a checkpoint."""

    shape: Shape
    kind: Kind


@dataclass(frozen=True)
class Survey:
    """What one pass of the shape backend over a network finds."""

    layout: Mapping[str, Entry]
    macs: Mapping[str, int]
    outputs: Mapping[str, Shape]

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(
            prod(entry.shape)
            for entry in self.layout.values()
            if entry.kind == "parameter"
        )

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of convolutions and linears for one crop."""
        return sum(self.macs.values())


def survey(wire: Callable[[ShapeOps], Mapping[str, Shape]]) -> Survey:
    """Walk a network with shapes. Raises WiringError where it does not fit together."""
    ops = ShapeOps()
    outputs = wire(ops)
    return Survey(ops.layout, ops.macs, dict(outputs))


@dataclass
class ShapeOps:
    """`Ops` over shapes; collects `layout` in wiring order and `macs` by layer."""

    layout: dict[str, Entry] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)

    def image(self, image: Image) -> Shape:
        return (3, image.height, image.width)

    def vector(self, vector: Vector) -> Shape:
        return (vector.size,)

    def convolution(
        self,
        x: Shape,
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
    ) -> Shape:
        inputs, height, width = _chw(x, name)
        if inputs % groups or channels % groups:
            raise WiringError(
                f"{name}: {inputs} input and {channels} output channels cannot be "
                f"split into {groups} groups; make both a multiple of groups"
            )
        weight = (channels, inputs // groups, kernel, kernel)
        self._enter(f"{name}.weight", weight)
        if bias:
            self._enter(f"{name}.bias", (channels,))
        if norm is not None:
            self._enter_norm(norm, channels)
        before, after = pads(padding)
        out = (
            channels,
            _extent(height + before + after, kernel, stride, name),
            _extent(width + before + after, kernel, stride, name),
        )
        self.macs[name] = self.macs.get(name, 0) + prod(weight) * out[1] * out[2]
        return out

    def batch_norm(self, x: Shape, norm: BatchNorm) -> Shape:
        self._enter_norm(norm, x[0])
        return x

    def relu(self, x: Shape) -> Shape:
        return x

    def elu(self, x: Shape) -> Shape:
        return x

    def sigmoid(self, x: Shape) -> Shape:
        return x

    def max_pool(
        self,
        x: Shape,
        *,
        kernel: int,
        stride: int,
        padding: Padding = 0,
        ceil: bool = False,
    ) -> Shape:
        channels, height, width = _chw(x, "max_pool")
        before, after = pads(padding)
        rows, columns = (
            _extent(size + before + after, kernel, stride, "max_pool", ceil=ceil)
            for size in (height, width)
        )
        return (channels, rows, columns)

    def average_pool(self, x: Shape, *, kernel: int, stride: int) -> Shape:
        return self.max_pool(x, kernel=kernel, stride=stride)

    def gem_pool(self, x: Shape, name: str) -> Shape:
        self._enter(f"{name}.p", (1,))
        return (_chw(x, name)[0], 1, 1)

    def global_average(self, x: Shape) -> Shape:
        return (_chw(x, "global_average")[0], 1, 1)

    def reflection_pad(self, x: Shape, padding: int) -> Shape:
        channels, height, width = _chw(x, "reflection_pad")
        return (channels, height + 2 * padding, width + 2 * padding)

    def add(self, a: Shape, b: Shape) -> Shape:
        if a != b:
            raise WiringError(
                f"add: shapes {a} and {b} differ; the shortcut needs the stride and "
                "channels of the main path"
            )
        return a

    def multiply(self, a: Shape, b: Shape) -> Shape:
        return self.add(a, b)

    def absolute_difference(self, a: Shape, b: Shape) -> Shape:
        return self.add(a, b)

    def concatenate(self, a: Shape, b: Shape) -> Shape:
        if len(a) != 1 or len(b) != 1:
            raise WiringError(f"concatenate takes [N, K] values, got {a} and {b}")
        return (a[0] + b[0],)

    def scale_channels(self, x: Shape, gate: Shape) -> Shape:
        if gate != (x[0],):
            raise WiringError(f"a gate {gate} does not fit {x[0]} channels")
        return x

    def attend(self, theta: Shape, phi: Shape, g: Shape) -> Shape:
        if not theta == phi == g or theta[0] != 1:
            raise WiringError(f"attend takes three [1, H, W], got {theta}, {phi}, {g}")
        # as published: the two products of the literal P x P form
        places = theta[1] * theta[2]
        self.macs["attend"] = self.macs.get("attend", 0) + 2 * places**2
        return theta

    def softmax(self, x: Shape) -> Shape:
        return x

    def select(self, x: Shape, index: int) -> Shape:
        if len(x) != 1 or not 0 <= index < x[0]:
            raise WiringError(f"select: no column {index} in {x}")
        return (1,)

    def flatten(self, x: Shape) -> Shape:
        return (prod(x),)

    def linear(self, x: Shape, name: str, features: int) -> Shape:
        if len(x) != 1:
            raise WiringError(f"{name}: linear takes [N, K], got {x}; flatten first")
        self._enter(f"{name}.weight", (features, x[0]))
        self._enter(f"{name}.bias", (features,))
        self.macs[name] = self.macs.get(name, 0) + features * x[0]
        return (features,)

    def l2_norm(self, x: Shape) -> Shape:
        return x

    def _enter(self, key: str, shape: Shape, kind: Kind = "parameter") -> None:
        entry = Entry(shape, kind)
        if self.layout.setdefault(key, entry) != entry:
            raise WiringError(
                f"{key} is used with shape {self.layout[key].shape} and with {shape}; "
                "two layers share a name"
            )

    def _enter_norm(self, norm: Norm, channels: int) -> None:
        if isinstance(norm, InstanceBatchNorm):
            half = channels // 2
            self._enter(f"{norm.name}.IN.weight", (half,))
            self._enter(f"{norm.name}.IN.bias", (half,))
            self._enter_norm(BatchNorm(f"{norm.name}.BN", norm.eps), channels - half)
            return
        self._enter(f"{norm.name}.weight", (channels,))
        self._enter(f"{norm.name}.bias", (channels,))
        self._enter(f"{norm.name}.running_mean", (channels,), "statistic")
        self._enter(f"{norm.name}.running_var", (channels,), "statistic")
        self._enter(f"{norm.name}.num_batches_tracked", (), "counter")


def _chw(x: Shape, name: str) -> tuple[int, int, int]:
    if len(x) != 3:
        raise WiringError(f"{name}: expected an image value (C, H, W), got {x}")
    return x[0], x[1], x[2]


def _extent(
    padded: int, kernel: int, stride: int, name: str, *, ceil: bool = False
) -> int:
    if padded < kernel:
        raise WiringError(
            f"{name}: a window of {kernel} does not fit into {padded} pixels"
        )
    steps = padded - kernel
    return (-(-steps // stride) if ceil else steps // stride) + 1
