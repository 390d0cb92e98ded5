"""The shape backend: checkpoint layout, MACs and output shapes of a network.

The layout (every checkpoint key with its shape and kind) is the only table of weight
shapes: checkpoints are loaded strictly against it, and stand-in weights are made from
it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, Protocol

from builders.ops import (
    BatchNorm,
    Conv,
    InstanceBatchNorm,
    InstanceNorm,
    Norm,
    Padding,
    WiringError,
    expand_padding,
)
from builders.tensors import Image, Tensor, Vector

Shape = tuple[int, ...]
"""Shape without the batch dimension: (C, H, W) or (K,)."""

Kind = Literal["parameter", "statistic", "counter"]
"""Kind of a checkpoint entry.

`parameter` is trained; `statistic` is a running mean or variance; `counter` is
num_batches_tracked, which inference does not read and old checkpoints lack.
"""


@dataclass(frozen=True)
class LayoutEntry:
    """Shape and kind of one checkpoint key.

    Attributes:
        shape: Shape of the array, () for a counter.
        kind: See `Kind`.
    """

    shape: Shape
    kind: Kind


@dataclass(frozen=True)
class NetworkSummary:
    """Layout, cost and output shapes of a network.

    Attributes:
        layout: Checkpoint entries by key, in wiring order.
        macs: Multiply-accumulates for one crop, by layer name.
        outputs: Output shapes by output name.
    """

    layout: Mapping[str, LayoutEntry]
    macs: Mapping[str, int]
    outputs: Mapping[str, Shape]

    @property
    def parameter_count(self) -> int:
        """Number of trained values."""
        return sum(
            prod(entry.shape)
            for entry in self.layout.values()
            if entry.kind == "parameter"
        )

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of all layers for one crop."""
        return sum(self.macs.values())


class WiredNetwork(Protocol):
    """A network that the backends can run, such as builders.spec.model.Model."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def summary(self) -> NetworkSummary:
        """Checkpoint layout, MACs and output shapes."""
        ...

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Input tensors, without the batch dimension."""
        ...

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        """Output tensors, without the batch dimension."""
        ...

    def wire(self, ops: Any) -> Mapping[str, Any]:
        """Run the network and return its values by output name.

        Args:
            ops: The backend to run it with.
        """
        ...


def summarise_network(
    wire: Callable[[ShapeOps], Mapping[str, Shape]],
) -> NetworkSummary:
    """Run a network on shapes and return its layout, MACs and output shapes.

    Args:
        wire: Runs the network with the given ops; returns its values by output name.

    Raises:
        WiringError: If two operations do not fit together.
    """
    ops = ShapeOps()
    outputs = wire(ops)
    return NetworkSummary(ops.layout, ops.macs, dict(outputs))


@dataclass
class ShapeOps:
    """`Ops` over shapes.

    Attributes:
        layout: Checkpoint entries by key, in wiring order.
        macs: Multiply-accumulates for one crop, by layer name.
    """

    layout: dict[str, LayoutEntry] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)

    def image(self, image: Image) -> Shape:
        return (3, image.height, image.width)

    def vector(self, vector: Vector) -> Shape:
        return (vector.size,)

    def convolution(self, x: Shape, conv: Conv) -> Shape:
        name, kernel, stride = conv.name, conv.kernel, conv.stride
        inputs, height, width = _chw(x, name)
        if inputs % conv.groups:
            raise WiringError(
                f"{name}: {inputs} input channels cannot be split into {conv.groups} "
                "groups; make both channel counts a multiple of groups"
            )
        weight = (conv.channels, inputs // conv.groups, kernel, kernel)
        self._enter(f"{name}.weight", weight)
        if conv.bias:
            self._enter(f"{name}.bias", (conv.channels,))
        if conv.norm is not None:
            self._enter_norm(conv.norm, conv.channels)
        before, after = expand_padding(conv.padding)
        rows, columns = (
            _window_count(size + before + after, kernel, stride, name)
            for size in (height, width)
        )
        self.macs[name] = self.macs.get(name, 0) + prod(weight) * rows * columns
        return (conv.channels, rows, columns)

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
        before, after = expand_padding(padding)
        rows, columns = (
            _window_count(size + before + after, kernel, stride, "max_pool", ceil=ceil)
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
        # counted as published: the two products of the literal P x P form
        positions = theta[1] * theta[2]
        self.macs["attend"] = self.macs.get("attend", 0) + 2 * positions**2
        return theta

    def softmax(self, x: Shape) -> Shape:
        return x

    def select(self, x: Shape, index: int) -> Shape:
        if len(x) != 1 or not 0 <= index < x[0]:
            raise WiringError(f"select: no column {index} in {x}")
        return (1,)

    def flatten(self, x: Shape) -> Shape:
        return (prod(x),)

    def linear(
        self, x: Shape, name: str, features: int, norm: BatchNorm | None = None
    ) -> Shape:
        if len(x) != 1:
            raise WiringError(f"{name}: linear takes [N, K], got {x}; flatten first")
        self._enter(f"{name}.weight", (features, x[0]))
        self._enter(f"{name}.bias", (features,))
        if norm is not None:
            self._enter_norm(norm, features)
        self.macs[name] = self.macs.get(name, 0) + features * x[0]
        return (features,)

    def l2_norm(self, x: Shape) -> Shape:
        return x

    def _enter(self, key: str, shape: Shape, kind: Kind = "parameter") -> None:
        entry = LayoutEntry(shape, kind)
        if self.layout.setdefault(key, entry) != entry:
            raise WiringError(
                f"{key} is used with shape {self.layout[key].shape} and with {shape}; "
                "two layers share a name"
            )

    def _enter_norm(self, norm: Norm, channels: int) -> None:
        if isinstance(norm, InstanceBatchNorm):
            half = channels // 2
            self._enter_norm(InstanceNorm(f"{norm.name}.IN", norm.eps), half)
            self._enter_norm(BatchNorm(f"{norm.name}.BN", norm.eps), channels - half)
            return
        self._enter(f"{norm.name}.weight", (channels,))
        self._enter(f"{norm.name}.bias", (channels,))
        if isinstance(norm, InstanceNorm):
            return
        self._enter(f"{norm.name}.running_mean", (channels,), "statistic")
        self._enter(f"{norm.name}.running_var", (channels,), "statistic")
        self._enter(f"{norm.name}.num_batches_tracked", (), "counter")


def _chw(x: Shape, name: str) -> tuple[int, int, int]:
    if len(x) != 3:
        raise WiringError(f"{name}: expected an image value (C, H, W), got {x}")
    return x[0], x[1], x[2]


def _window_count(
    padded: int, kernel: int, stride: int, name: str, *, ceil: bool = False
) -> int:
    """Return the number of windows along an axis of `padded` pixels."""
    if padded < kernel:
        raise WiringError(
            f"{name}: a window of {kernel} does not fit into {padded} pixels"
        )
    steps = padded - kernel
    return (-(-steps // stride) if ceil else steps // stride) + 1
