"""Ops backend for TensorRT: a model's wiring as a network definition, without a parser.

Layers are named after the checkpoint. Convolutions, pooling, ReLU and additions run in
the plan's precision. Operations that reduced precision would harm stay FP32 in every
plan: the normalisation of pixels, the statistics of instance norm, the powers of GeM,
linear layers, the batch-norm neck, and everything behind them up to the outputs.

One class, because it has one method per operation; its helpers are in `layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders.ops import GEM_EPS, L2_EPS, BatchNorm, Conv, Padding, expand_padding
from builders.ops.folding import (
    affine_from_norm,
    fold_linear,
    fold_norm,
    quantise_kernel,
)
from builders.ops.placement import WIDE, Int8, Pair, PlacementCursor
from builders.tensorrt.layers import HW, Array, LayerWriter, Tensor
from builders.tensorrt.library import Library, Precision

if TYPE_CHECKING:
    from builders.spec.model import Model
    from builders.tensors import Image, Vector


def define_network(
    library: Library,
    network: Any,
    model: Model,
    arrays: Mapping[str, Array],
    precision: Precision,
    int8: Int8 | None = None,
    *,
    light: bool = False,
) -> TensorrtOps:
    """Add all layers of a model to an empty network definition.

    Args:
        library: The library of the network.
        network: An empty INetworkDefinition.
        model: The declaration.
        arrays: Weights by checkpoint name.
        precision: Precision of the convolutions.
        int8: Placement and scales, for INT8.
        light: See PlanOptions.

    Returns:
        The ops that wired the network. They own the weights, which the builder reads
        later: keep them until the plan is built.

    Raises:
        PlanError: If the library lacks the precision or refuses a layer.
    """
    ops = TensorrtOps(library, network, arrays, precision, int8, light=light)
    values = model.wire(ops)
    for name, value in values.items():
        ops.output(value, name)
    return ops


class TensorrtOps(LayerWriter):
    """`Ops` over the ITensors of a network definition."""

    def __init__(
        self,
        library: Library,
        network: Any,
        weights: Mapping[str, Array],
        precision: Precision,
        int8: Int8 | None = None,
        *,
        light: bool = False,
    ) -> None:
        super().__init__(library, network)
        self._light = light
        self._weights = weights
        self._compute = library.compute_type(precision)
        self._scales = int8.scales if int8 else {}
        self._cursor = PlacementCursor(
            int8.placement if int8 else None, self._insert_pair
        )

    def image(self, image: Image) -> Tensor:
        shape = (-1, image.height, image.width, 3)
        x = self._network.add_input(image.name, self._trt.uint8, shape)
        self._types[image.name] = self._trt.uint8
        x = self._cast(x, self._trt.float32, f"{image.name}.cast")
        permute = self._network.add_shuffle(x)
        permute.first_transpose = self._trt.Permutation([0, 3, 1, 2])
        x = self._finish(permute, f"{image.name}.to_nchw", self._trt.float32)
        if image.order == "BGR":
            order = self._constant(np.array([2, 1, 0], np.int32), f"{image.name}.order")
            swap = self._network.add_gather(x, order, 1)
            x = self._finish(swap, f"{image.name}.swap", self._trt.float32)
        scale = 1.0 / np.array(image.std)
        shift = -np.array(image.mean) * scale
        x = self._scale(x, scale, shift, f"{image.name}.normalise")
        return self._cast(x, self._compute, f"{image.name}.to_compute")

    def vector(self, vector: Vector) -> Tensor:
        x = self._network.add_input(vector.name, self._trt.float32, (-1, vector.size))
        self._types[vector.name] = self._trt.float32
        return x

    def convolution(self, x: Tensor, conv: Conv) -> Tensor:
        name = conv.name
        folded = fold_norm(self._weights, conv)
        shift = folded.bias
        if shift is None:
            shift = np.zeros(conv.channels, np.float32)

        kind = self._trt.float32 if conv.precise else self._compute
        placement = self._cursor.next_convolution()
        int8 = placement is not None and placement.input is not None
        if placement is not None:
            x = self._cursor.apply(x, placement.input)

        if self._light and conv.precise and conv.kernel == 1:
            weight = folded.weight
            if weight.shape[1] == 1 and conv.groups == 1:
                return self._broadcast(x, weight, shift, name)
            if conv.channels < WIDE:
                # what it reads is large, and what it writes is small
                x = self._add_convolution(x, weight, shift, name, conv, int8=False)
                return self._cast(x, self._trt.float32, f"{name}.to_float")

        def convolve(part: slice, label: str) -> Tensor:
            return self._add_convolution(
                self._cast(x, kind, f"{label}.to_compute"),
                folded.weight[part],
                shift[part],
                label,
                conv,
                int8=int8,
            )

        if folded.instance_norm is None:
            return convolve(slice(None), name)
        if folded.instance_norm.channels == conv.channels:
            return self._instance_norm(
                convolve(slice(None), name), folded.instance_norm
            )
        # one convolution per half: slicing a dynamic batch would need shape tensors
        half = folded.instance_norm.channels
        first = self._instance_norm(
            convolve(slice(half), f"{name}.IN"), folded.instance_norm
        )
        second = convolve(slice(half, None), f"{name}.BN")
        join = self._network.add_concatenation([first, second])
        join.axis = 1
        return self._finish(
            join, f"{conv.norm.name if conv.norm else name}.join", self._compute
        )

    def batch_norm(self, x: Tensor, norm: BatchNorm) -> Tensor:
        x = self._cast(x, self._trt.float32, f"{norm.name}.to_float")
        return self._scale(x, *affine_from_norm(self._weights, norm), norm.name)

    def elu(self, x: Tensor) -> Tensor:
        layer = self._network.add_activation(x, self._trt.ActivationType.ELU)
        layer.alpha = 1.0
        return self._finish(layer, self._unique_name("elu"), self._type(x))

    def relu(self, x: Tensor) -> Tensor:
        layer = self._network.add_activation(x, self._trt.ActivationType.RELU)
        return self._finish(layer, self._unique_name("relu"), self._type(x))

    def sigmoid(self, x: Tensor) -> Tensor:
        x = self._cast(x, self._trt.float32, self._unique_name("sigmoid.to_float"))
        layer = self._network.add_activation(x, self._trt.ActivationType.SIGMOID)
        return self._finish(layer, self._unique_name("sigmoid"), self._trt.float32)

    def max_pool(
        self,
        x: Tensor,
        *,
        kernel: int,
        stride: int,
        padding: Padding = 0,
        ceil: bool = False,
    ) -> Tensor:
        x = self._cursor.pool_input(x)
        layer = self._network.add_pooling_nd(
            x, self._trt.PoolingType.MAX, (kernel, kernel)
        )
        layer.stride_nd = (stride, stride)
        before, after = expand_padding(padding)
        layer.pre_padding, layer.post_padding = (before, before), (after, after)
        if ceil:
            layer.padding_mode = self._trt.PaddingMode.EXPLICIT_ROUND_UP
        return self._finish(layer, self._unique_name("max_pool"), self._type(x))

    def average_pool(self, x: Tensor, *, kernel: int, stride: int) -> Tensor:
        layer = self._network.add_pooling_nd(
            x, self._trt.PoolingType.AVERAGE, (kernel, kernel)
        )
        layer.stride_nd = (stride, stride)
        return self._finish(layer, self._unique_name("average_pool"), self._type(x))

    def gem_pool(self, x: Tensor, name: str) -> Tensor:
        # in FP16 cubes overflow above 40, and the cube of GEM_EPS underflows
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        power = self._weights[f"{name}.p"].astype(np.float32)
        x = self._with_scalar(x, np.float32(GEM_EPS), "MAX", f"{name}.clamp")
        x = self._with_scalar(x, power[0], "POW", f"{name}.pow")
        x = self._reduce(x, "AVG", HW, f"{name}.mean")
        return self._with_scalar(x, np.float32(1) / power[0], "POW", f"{name}.root")

    def global_average(self, x: Tensor) -> Tensor:
        name = self._unique_name("global_average")
        if self._light and self._type(x) != self._trt.float32:
            # pooling reads the map as it is and sums in FP32; a reduction would need
            # the whole map in FP32 first
            layer = self._network.add_pooling_nd(
                x, self._trt.PoolingType.AVERAGE, tuple(x.shape)[2:]
            )
            x = self._finish(layer, name, self._type(x))
            return self._cast(x, self._trt.float32, f"{name}.to_float")
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        return self._reduce(x, "AVG", HW, name)

    def reflection_pad(self, x: Tensor, padding: int) -> Tensor:
        """Slice from outside the image; a shape tensor gives the size of the batch."""
        name = self._unique_name("reflection_pad")
        channels, height, width = tuple(x.shape)[1:]
        padded = self._padded_shape(x, padding, name)
        layer = self._network.add_slice(
            x,
            (0, 0, -padding, -padding),
            (1, channels, height + 2 * padding, width + 2 * padding),
            (1, 1, 1, 1),
        )
        layer.mode = self._trt.SampleMode.REFLECT
        layer.set_input(2, padded)
        return self._finish(layer, name, self._type(x))

    def _padded_shape(self, x: Tensor, padding: int, name: str) -> Tensor:
        layer = self._network.add_shape(x)
        layer.name = f"{name}.shape"
        shape = layer.get_output(0)
        # 8.6 counts in INT32, later versions in INT64
        wide = hasattr(self._trt, "int64") and shape.dtype == self._trt.int64
        growth = np.array([0, 0, 2 * padding, 2 * padding], "i8" if wide else "i4")
        constant = self._network.add_constant((4,), self._own(growth, growth.dtype))
        constant.name = f"{name}.growth"
        total = self._network.add_elementwise(
            shape, constant.get_output(0), self._trt.ElementWiseOperation.SUM
        )
        total.name = f"{name}.padded"
        return total.get_output(0)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._unique_name("add")
        a, b = self._cursor.addition_operands(a, b)
        return self._elementwise(a, self._cast_like(b, a, name), "SUM", name)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._unique_name("multiply")
        return self._elementwise(a, self._cast_like(b, a, name), "PROD", name)

    def absolute_difference(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._unique_name("absolute_difference")
        gap = self._elementwise(
            a, self._cast_like(b, a, name), "SUB", f"{name}.subtract"
        )
        layer = self._network.add_unary(gap, self._trt.UnaryOperation.ABS)
        return self._finish(layer, name, self._type(a))

    def concatenate(self, a: Tensor, b: Tensor) -> Tensor:
        name = self._unique_name("concatenate")
        layer = self._network.add_concatenation([a, self._cast_like(b, a, name)])
        layer.axis = 1
        return self._finish(layer, name, self._type(a))

    def scale_channels(self, x: Tensor, gate: Tensor) -> Tensor:
        name = self._unique_name("scale_channels")
        layer = self._network.add_shuffle(gate)
        layer.reshape_dims = (0, gate.shape[1], 1, 1)
        gate = self._finish(layer, f"{name}.gate", self._type(gate))
        return self._elementwise(x, self._cast_like(gate, x, name), "PROD", name)

    def attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        return self._elementwise(
            theta,
            self.global_average(self.multiply(phi, g)),
            "PROD",
            self._unique_name("attend"),
        )

    def softmax(self, x: Tensor) -> Tensor:
        x = self._cast(x, self._trt.float32, self._unique_name("softmax.to_float"))
        layer = self._network.add_softmax(x)
        layer.axes = 1 << (len(x.shape) - 1)
        return self._finish(layer, self._unique_name("softmax"), self._trt.float32)

    def select(self, x: Tensor, index: int) -> Tensor:
        name = self._unique_name("select")
        column = self._constant(np.array([index], np.int32), f"{name}.column")
        layer = self._network.add_gather(x, column, 1)
        return self._finish(layer, name, self._type(x))

    def flatten(self, x: Tensor) -> Tensor:
        layer = self._network.add_shuffle(x)
        layer.reshape_dims = (0, int(np.prod(tuple(x.shape)[1:])))
        return self._finish(layer, self._unique_name("flatten"), self._type(x))

    def linear(
        self, x: Tensor, name: str, features: int, norm: BatchNorm | None = None
    ) -> Tensor:
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        folded_weight, folded_bias = fold_linear(self._weights, name, norm)
        weight = self._constant(folded_weight, f"{name}.weight")
        none, transposed = (
            self._trt.MatrixOperation.NONE,
            self._trt.MatrixOperation.TRANSPOSE,
        )
        layer = self._network.add_matrix_multiply(x, none, weight, transposed)
        x = self._finish(layer, name, self._trt.float32)
        bias = self._constant(folded_bias[None], f"{name}.bias")
        return self._elementwise(x, bias, "SUM", f"{name}.add")

    def l2_norm(self, x: Tensor) -> Tensor:
        name = self._unique_name("l2_norm")
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        square = self._elementwise(x, x, "PROD", f"{name}.square")
        total = self._reduce(square, "SUM", 1 << (len(x.shape) - 1), f"{name}.sum")
        root = self._network.add_unary(total, self._trt.UnaryOperation.SQRT)
        length = self._finish(root, f"{name}.root", self._trt.float32)
        length = self._with_scalar(length, np.float32(L2_EPS), "MAX", f"{name}.floor")
        return self._elementwise(x, length, "DIV", name)

    def output(self, x: Tensor, name: str) -> None:
        """Mark a tensor as an FP32 output of the network.

        Args:
            x: An ITensor of the network.
            name: Name of the output.
        """
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        layer = self._network.add_identity(x)
        x = self._finish(layer, f"{name}.output", self._trt.float32)
        x.name = name
        self._network.mark_output(x)

    def _broadcast(
        self,
        x: Tensor,
        weight: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        name: str,
    ) -> Tensor:
        """Add a convolution of one channel and one pixel as a product and a sum.

        TensorRT joins these with the addition that follows, so that the FP32 map is
        never written.
        """
        x = self._cast(x, self._trt.float32, f"{name}.to_float")
        factor = self._constant(weight.reshape(1, -1, 1, 1), f"{name}.weight")
        shift = self._constant(bias.reshape(1, -1, 1, 1), f"{name}.bias")
        x = self._elementwise(x, factor, "PROD", f"{name}.product")
        return self._elementwise(x, shift, "SUM", name)

    def _add_convolution(
        self,
        x: Tensor,
        weight: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        name: str,
        conv: Conv,
        *,
        int8: bool,
    ) -> Tensor:
        kind = self._type(x)
        kernel = self._quantised_kernel(weight, name, kind) if int8 else None
        layer = self._network.add_convolution_nd(
            x,
            weight.shape[0],
            weight.shape[2:],
            self._trt.Weights() if int8 else self._typed_weights(weight, kind),
            self._typed_weights(bias, kind),
        )
        if kernel is not None:
            layer.set_input(1, kernel)
        layer.stride_nd = (conv.stride, conv.stride)
        before, after = expand_padding(conv.padding)
        layer.pre_padding, layer.post_padding = (before, before), (after, after)
        layer.num_groups = conv.groups
        return self._finish(layer, name, kind, choose=int8)

    def _insert_pair(self, x: Tensor, pair: Pair) -> Tensor:
        """Put a Q/DQ pair, signed and symmetric, behind `x`."""
        name = f"{pair.key}@{pair.number}"
        scale = self._constant(
            np.array(self._scales[pair.key], np.float32), f"{name}.scale"
        )
        return self._quantise_dequantise(x, scale, name, self._type(x))

    def _quantised_kernel(
        self, weight: npt.NDArray[np.float32], name: str, kind: Any
    ) -> Tensor:
        """Put a Q/DQ pair, one scale per output channel, behind the kernel."""
        _, scales = quantise_kernel(weight)
        return self._quantise_dequantise(
            self._constant(weight, f"{name}.weight"),
            self._constant(scales, f"{name}.weight.scale"),
            f"{name}.weight",
            kind,
            axis=0,
        )
