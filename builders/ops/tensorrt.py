"""The tensorrt backend: a wiring through the network-definition API, no parser.

Layers are named after the checkpoint. Convolutions, pooling, ReLU and additions run in
the precision asked for; what would suffer stays FP32 in every precision: the
pixels' normalisation, instance norm's statistics, GeM's powers, linear layers, the
batch-norm neck, and everything behind them up to the outputs.

Strongly typed versions get these types from casts in the network; for 8.6 the same
layers carry the same types as constraints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders.ops import GEM_EPS, L2_EPS, BatchNorm, Norm, Padding, pads
from builders.ops.folding import (
    InstanceNorm,
    fold,
    int8_kernel,
    scale_and_shift,
)
from builders.ops.placement import Int8, Pair, Pairs
from builders.tensorrt.library import Library, PlanError, Precision

if TYPE_CHECKING:
    from builders.spec import Image, Model, Vector

Array = npt.NDArray[np.generic]
Tensor = Any
"""An ITensor of whichever library is loaded."""

HW = (1 << 2) | (1 << 3)
"""Reduction axes of [N, C, H, W]."""


def define_network(
    library: Library,
    network: Any,
    model: Model,
    arrays: Mapping[str, Array],
    precision: Precision,
    int8: Int8 | None = None,
) -> TensorrtOps:
    """Fill `network` with `model`. The returned ops hold the weights, which the
    builder reads later: keep them until the plan is built.
    """
    ops = TensorrtOps(library, network, arrays, precision, int8)
    values = model.wire(ops)
    for name, value in values.items():
        ops.output(value, name)
    return ops


class TensorrtOps:
    """`Ops` over ITensors of `network`."""

    def __init__(
        self,
        library: Library,
        network: Any,
        weights: Mapping[str, Array],
        precision: Precision,
        int8: Int8 | None = None,
    ) -> None:
        self._library = library
        self._trt = library.trt
        self._network = network
        self._weights = weights
        self._compute = library.compute_type(precision)
        self._steps = int8.scales if int8 else {}
        self._pairs = Pairs(int8.placement if int8 else None, self._pair)
        self._kept: list[Any] = []
        self._counts: dict[str, int] = {}
        self._types: dict[str, Any] = {}

    def image(self, image: Image) -> Tensor:
        shape = (-1, image.height, image.width, 3)
        x = self._network.add_input(image.name, self._trt.uint8, shape)
        self._types[image.name] = self._trt.uint8
        x = self._cast(x, self._trt.float32, f"{image.name}.cast")
        permute = self._network.add_shuffle(x)
        permute.first_transpose = self._trt.Permutation([0, 3, 1, 2])
        x = self._done(permute, f"{image.name}.to_nchw", self._trt.float32)
        if image.order == "BGR":
            order = self._constant(np.array([2, 1, 0], np.int32), f"{image.name}.order")
            swap = self._network.add_gather(x, order, 1)
            x = self._done(swap, f"{image.name}.swap", self._trt.float32)
        scale = 1.0 / np.array(image.std)
        shift = -np.array(image.mean) * scale
        x = self._scaled(x, scale, shift, f"{image.name}.normalise")
        return self._cast(x, self._compute, f"{image.name}.to_compute")

    def vector(self, vector: Vector) -> Tensor:
        x = self._network.add_input(vector.name, self._trt.float32, (-1, vector.size))
        self._types[vector.name] = self._trt.float32
        return x

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
        folded = fold(self._weights, name, bias=bias, norm=norm)
        shift = folded.bias
        if shift is None:
            shift = np.zeros(channels, np.float32)

        kind = self._trt.float32 if precise else self._compute
        place = self._pairs.convolution()
        int8 = place is not None and place.input is not None
        if place is not None:
            x = self._pairs.through(x, place.input)

        def convolve(part: slice, label: str) -> Tensor:
            return self._convolution(
                self._cast(x, kind, f"{label}.to_compute"),
                folded.weight[part],
                shift[part],
                label,
                stride,
                padding,
                groups,
                int8=int8,
            )

        if folded.instance_norm is None:
            return convolve(slice(None), name)
        # one convolution a half: slicing a dynamic batch would need shape tensors
        half = folded.instance_norm.channels
        first = self._instance_norm(
            convolve(slice(half), f"{name}.IN"), folded.instance_norm
        )
        second = convolve(slice(half, None), f"{name}.BN")
        join = self._network.add_concatenation([first, second])
        join.axis = 1
        return self._done(join, f"{norm.name if norm else name}.join", self._compute)

    def batch_norm(self, x: Tensor, norm: BatchNorm) -> Tensor:
        x = self._cast(x, self._trt.float32, f"{norm.name}.to_float")
        return self._scaled(x, *scale_and_shift(self._weights, norm), norm.name)

    def elu(self, x: Tensor) -> Tensor:
        layer = self._network.add_activation(x, self._trt.ActivationType.ELU)
        layer.alpha = 1.0
        return self._done(layer, self._number("elu"), self._type(x))

    def relu(self, x: Tensor) -> Tensor:
        layer = self._network.add_activation(x, self._trt.ActivationType.RELU)
        return self._done(layer, self._number("relu"), self._type(x))

    def sigmoid(self, x: Tensor) -> Tensor:
        x = self._cast(x, self._trt.float32, self._number("sigmoid.to_float"))
        layer = self._network.add_activation(x, self._trt.ActivationType.SIGMOID)
        return self._done(layer, self._number("sigmoid"), self._trt.float32)

    def max_pool(
        self,
        x: Tensor,
        *,
        kernel: int,
        stride: int,
        padding: Padding = 0,
        ceil: bool = False,
    ) -> Tensor:
        x = self._pairs.pool(x)
        layer = self._network.add_pooling_nd(
            x, self._trt.PoolingType.MAX, (kernel, kernel)
        )
        layer.stride_nd = (stride, stride)
        before, after = pads(padding)
        layer.pre_padding, layer.post_padding = (before, before), (after, after)
        if ceil:
            layer.padding_mode = self._trt.PaddingMode.EXPLICIT_ROUND_UP
        return self._done(layer, self._number("max_pool"), self._type(x))

    def average_pool(self, x: Tensor, *, kernel: int, stride: int) -> Tensor:
        layer = self._network.add_pooling_nd(
            x, self._trt.PoolingType.AVERAGE, (kernel, kernel)
        )
        layer.stride_nd = (stride, stride)
        return self._done(layer, self._number("average_pool"), self._type(x))

    def gem_pool(self, x: Tensor, name: str) -> Tensor:
        # in FP16 a cube overflows above 40 and the floor's vanishes
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        power = self._weights[f"{name}.p"].astype(np.float32)
        x = self._with_scalar(x, np.float32(GEM_EPS), "MAX", f"{name}.clamp")
        x = self._with_scalar(x, power[0], "POW", f"{name}.pow")
        x = self._reduced(x, "AVG", HW, f"{name}.mean")
        return self._with_scalar(x, np.float32(1) / power[0], "POW", f"{name}.root")

    def global_average(self, x: Tensor) -> Tensor:
        name = self._number("global_average")
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        return self._reduced(x, "AVG", HW, name)

    def reflection_pad(self, x: Tensor, padding: int) -> Tensor:
        """A slice that starts outside; the batch's size comes from a shape tensor."""
        name = self._number("reflection_pad")
        channels, height, width = tuple(x.shape)[1:]
        grown = self._grown_shape(x, padding, name)
        layer = self._network.add_slice(
            x,
            (0, 0, -padding, -padding),
            (1, channels, height + 2 * padding, width + 2 * padding),
            (1, 1, 1, 1),
        )
        layer.mode = self._trt.SampleMode.REFLECT
        layer.set_input(2, grown)
        return self._done(layer, name, self._type(x))

    def _grown_shape(self, x: Tensor, padding: int, name: str) -> Tensor:
        layer = self._network.add_shape(x)
        layer.name = f"{name}.shape"
        shape = layer.get_output(0)
        # 8.6 counts in INT32, later versions in INT64
        wide = hasattr(self._trt, "int64") and shape.dtype == self._trt.int64
        growth = np.array([0, 0, 2 * padding, 2 * padding], "i8" if wide else "i4")
        constant = self._network.add_constant((4,), self._keep(growth, growth.dtype))
        constant.name = f"{name}.growth"
        total = self._network.add_elementwise(
            shape, constant.get_output(0), self._trt.ElementWiseOperation.SUM
        )
        total.name = f"{name}.grown"
        return total.get_output(0)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._number("add")
        a, b = self._pairs.addition(a, b)
        return self._elementwise(a, self._like(b, a, name), "SUM", name)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._number("multiply")
        return self._elementwise(a, self._like(b, a, name), "PROD", name)

    def absolute_difference(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._number("absolute_difference")
        gap = self._elementwise(a, self._like(b, a, name), "SUB", f"{name}.subtract")
        layer = self._network.add_unary(gap, self._trt.UnaryOperation.ABS)
        return self._done(layer, name, self._type(a))

    def concatenate(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._number("concatenate")
        layer = self._network.add_concatenation([a, self._like(b, a, name)])
        layer.axis = 1
        return self._done(layer, name, self._type(a))

    def scale_channels(self, x: Tensor, gate: Tensor) -> Tensor:
        name = self._number("scale_channels")
        layer = self._network.add_shuffle(gate)
        layer.reshape_dims = (0, gate.shape[1], 1, 1)
        gate = self._done(layer, f"{name}.gate", self._type(gate))
        return self._elementwise(x, self._like(gate, x, name), "PROD", name)

    def attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        return self._elementwise(
            theta,
            self.global_average(self.multiply(phi, g)),
            "PROD",
            self._number("attend"),
        )

    def softmax(self, x: Tensor) -> Tensor:
        x = self._cast(x, self._trt.float32, self._number("softmax.to_float"))
        layer = self._network.add_softmax(x)
        layer.axes = 1 << (len(x.shape) - 1)
        return self._done(layer, self._number("softmax"), self._trt.float32)

    def select(self, x: Tensor, index: int) -> Tensor:
        name = self._number("select")
        column = self._constant(np.array([index], np.int32), f"{name}.column")
        layer = self._network.add_gather(x, column, 1)
        return self._done(layer, name, self._type(x))

    def _like(self, x: Tensor, other: Tensor, name: str) -> Tensor:
        return self._cast(x, self._type(other), f"{name}.cast")

    def flatten(self, x: Tensor) -> Tensor:
        layer = self._network.add_shuffle(x)
        layer.reshape_dims = (0, int(np.prod(tuple(x.shape)[1:])))
        return self._done(layer, self._number("flatten"), self._type(x))

    def linear(self, x: Tensor, name: str, features: int) -> Tensor:
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        weight = self._constant(
            self._weights[f"{name}.weight"].astype(np.float32), f"{name}.weight"
        )
        none, transposed = (
            self._trt.MatrixOperation.NONE,
            self._trt.MatrixOperation.TRANSPOSE,
        )
        layer = self._network.add_matrix_multiply(x, none, weight, transposed)
        x = self._done(layer, name, self._trt.float32)
        bias = self._weights[f"{name}.bias"].astype(np.float32)[None]
        return self._elementwise(
            x, self._constant(bias, f"{name}.bias"), "SUM", f"{name}.add"
        )

    def l2_norm(self, x: Tensor) -> Tensor:
        name = self._number("l2_norm")
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        square = self._elementwise(x, x, "PROD", f"{name}.square")
        total = self._reduced(square, "SUM", 1 << (len(x.shape) - 1), f"{name}.sum")
        root = self._network.add_unary(total, self._trt.UnaryOperation.SQRT)
        length = self._done(root, f"{name}.root", self._trt.float32)
        length = self._with_scalar(length, np.float32(L2_EPS), "MAX", f"{name}.floor")
        return self._elementwise(x, length, "DIV", name)

    def output(self, x: Tensor, name: str) -> None:
        """Make `x` the network's FP32 output `name`."""
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        layer = self._network.add_identity(x)
        x = self._done(layer, f"{name}.output", self._trt.float32)
        x.name = name
        self._network.mark_output(x)

    def _convolution(
        self,
        x: Tensor,
        weight: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        name: str,
        stride: int,
        padding: Padding,
        groups: int,
        *,
        int8: bool,
    ) -> Tensor:
        kind = self._type(x)
        kernel = self._int8_kernel(weight, name, kind) if int8 else None
        layer = self._network.add_convolution_nd(
            x,
            weight.shape[0],
            weight.shape[2:],
            self._trt.Weights() if int8 else self._kernel_weights(weight, kind),
            self._kernel_weights(bias, kind),
        )
        if kernel is not None:
            layer.set_input(1, kernel)
        layer.stride_nd = (stride, stride)
        before, after = pads(padding)
        layer.pre_padding, layer.post_padding = (before, before), (after, after)
        layer.num_groups = groups
        return self._done(layer, name, kind, choose=int8)

    def _pair(self, x: Tensor, pair: Pair) -> Tensor:
        """`x` through Q/DQ, signed and symmetric."""
        name = f"{pair.key}@{pair.number}"
        step = np.array(self._steps[pair.key], np.float32)
        kind = self._type(x)
        return self._through_int8(x, self._constant(step, f"{name}.step"), name, kind)

    def _int8_kernel(
        self, weight: npt.NDArray[np.float32], name: str, kind: Any
    ) -> Tensor:
        """`weight` in steps of its own for each output channel, through Q/DQ."""
        _, steps = int8_kernel(weight)
        return self._through_int8(
            self._constant(weight, f"{name}.weight"),
            self._constant(steps, f"{name}.weight.step"),
            f"{name}.weight",
            kind,
            axis=0,
        )

    def _through_int8(
        self, x: Tensor, step: Tensor, name: str, kind: Any, axis: int | None = None
    ) -> Tensor:
        quantize = self._library.quantize(self._network, x, step)
        x = self._done(quantize, f"{name}.q", self._trt.int8, choose=True)
        dequantize = self._library.dequantize(self._network, x, step, kind)
        if axis is not None:
            quantize.axis = dequantize.axis = axis
        return self._done(dequantize, f"{name}.dq", kind, choose=True)

    def _instance_norm(self, x: Tensor, norm: InstanceNorm) -> Tensor:
        outside = self._type(x)
        if not (self._library.normalization and self._library.normalizes_in_float):
            x = self._cast(x, self._trt.float32, f"{norm.name}.to_float")
        if self._library.normalization is None:
            x = self._decomposed_norm(x, norm)
        else:
            x = self._native_norm(x, norm, self._library.normalization)
        return self._cast(x, outside, f"{norm.name}.to_compute")

    def _native_norm(self, x: Tensor, norm: InstanceNorm, method: str) -> Tensor:
        data_type = self._type(x)
        # strongly typed, scale and shift must have the input's type
        scale, shift = (
            self._cast(
                self._constant(array.reshape(1, -1, 1, 1), f"{norm.name}.{part}"),
                data_type if self._library.strongly_typed else self._trt.float32,
                f"{norm.name}.{part}.to_compute",
            )
            for array, part in ((norm.scale, "weight"), (norm.shift, "bias"))
        )
        layer = getattr(self._network, method)(x, scale, shift, HW)
        layer.epsilon = norm.eps
        if self._library.normalizes_in_float:
            layer.compute_precision = self._trt.float32
        return self._done(layer, norm.name, data_type)

    def _decomposed_norm(self, x: Tensor, norm: InstanceNorm) -> Tensor:
        name = norm.name
        mean = self._reduced(x, "AVG", HW, f"{name}.mean")
        centred = self._elementwise(x, mean, "SUB", f"{name}.centre")
        square = self._elementwise(centred, centred, "PROD", f"{name}.square")
        variance = self._reduced(square, "AVG", HW, f"{name}.variance")
        floor = self._with_scalar(variance, np.float32(norm.eps), "SUM", f"{name}.eps")
        root = self._network.add_unary(floor, self._trt.UnaryOperation.SQRT)
        deviation = self._done(root, f"{name}.deviation", self._trt.float32)
        x = self._elementwise(centred, deviation, "DIV", f"{name}.normalise")
        return self._scaled(x, norm.scale, norm.shift, name)

    def _scaled(
        self,
        x: Tensor,
        scale: npt.NDArray[np.floating[Any]],
        shift: npt.NDArray[np.floating[Any]],
        name: str,
    ) -> Tensor:
        scale, shift = self._keep(scale), self._keep(shift)
        layer = self._network.add_scale_nd(
            x,
            self._trt.ScaleMode.CHANNEL,
            shift,
            scale,
            self._keep(np.ones_like(scale)),
            1,
        )
        return self._done(layer, name, self._trt.float32)

    def _with_scalar(
        self, x: Tensor, value: np.float32, operation: str, name: str
    ) -> Tensor:
        array = np.full((1,) * len(x.shape), value, np.float32)
        constant = self._constant(array, f"{name}.value")
        return self._elementwise(x, constant, operation, name)

    def _elementwise(self, a: Tensor, b: Tensor, operation: str, name: str) -> Tensor:
        kind = getattr(self._trt.ElementWiseOperation, operation)
        layer = self._network.add_elementwise(a, b, kind)
        return self._done(layer, name, self._type(a))

    def _reduced(self, x: Tensor, operation: str, axes: int, name: str) -> Tensor:
        kind = getattr(self._trt.ReduceOperation, operation)
        layer = self._network.add_reduce(x, kind, axes, True)  # noqa: FBT003
        return self._done(layer, name, self._type(x))

    def _cast(self, x: Tensor, data_type: Any, name: str) -> Tensor:
        if self._type(x) == data_type:
            return x
        return self._done(self._network.add_cast(x, data_type), name, data_type)

    def _constant(self, array: Array, name: str) -> Tensor:
        array = self._keep(array, array.dtype)
        layer = self._network.add_constant(array.shape, array)
        return self._done(layer, name, layer.get_output(0).dtype)

    def _kernel_weights(self, array: npt.NDArray[np.float32], kind: Any) -> Any:
        """`array` in the type that the weights of a convolution in `kind` must have."""
        if not self._library.strongly_typed or kind == self._trt.float32:
            return self._keep(array)
        if kind == self._trt.float16:
            return self._keep(array, np.float16)
        bits = self._keep(_bfloat16_bits(array), np.uint16)
        return self._trt.Weights(self._trt.bfloat16, bits.ctypes.data, bits.size)

    def _keep(self, array: Any, data_type: npt.DTypeLike = np.float32) -> Any:
        kept = np.asarray(array, data_type, order="C")
        self._kept.append(kept)
        return kept

    def _done(
        self, layer: Any, name: str, data_type: Any, *, choose: bool = False
    ) -> Tensor:
        """The output of `layer`, which is called `name` and of `data_type`. Before
        strong typing a layer is held to it, unless the builder is to `choose` INT8.
        """
        if layer is None:
            raise PlanError(f"{self._library} refused layer {name}; its log says why")
        self._counts[name] = time = self._counts.get(name, 0) + 1
        if time > 1:
            name = f"{name}#{time}"  # a layer that two inputs share
        layer.name = name
        x = layer.get_output(0)
        if not self._library.strongly_typed and not choose:
            kinds = self._trt.LayerType
            if layer.type not in {kinds.CAST, kinds.CONSTANT}:
                layer.precision = data_type
            layer.set_output_type(0, data_type)
        x.name = f"{name}:out"
        self._types[x.name] = data_type
        return x

    def _type(self, x: Tensor) -> Any:
        # not x.dtype, which before strong typing is not what was asked for
        return self._types[x.name]

    def _number(self, kind: str) -> str:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{kind}_{self._counts[kind]}"


def _bfloat16_bits(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """`array` rounded to bfloat16 (nearest, ties to even), as its 16 bits."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)
