"""The onnx backend: a network as an ONNX graph.

Node names are the checkpoint's layer names; values are tensor names. Batch norms are
folded into the convolutions before them. The graph is limited to opset 17, which ONNX
Runtime, Triton's ONNX Runtime backend and TensorRT's parser (8.6 and later) all read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from builders.ops import GEM_EPS, L2_EPS, BatchNorm, Conv, Padding, expand_padding
from builders.ops.folding import (
    INT8_MAX,
    Kernel,
    UnfoldedNorm,
    affine_from_norm,
    fold_linear,
    fold_norm,
    quantise_kernel,
)
from builders.ops.placement import Int8, Pair, PlacementCursor
from builders.ops.shape import WiredNetwork

if TYPE_CHECKING:
    from builders.tensors import Image, Vector

OPSET = 17
IR_VERSION = 8
LARGE_BYTES = 64 << 20
"""Size from which a weight is added to the graph after the ONNX checker has run."""

UINT8_MAX = 255

ELEMENT_TYPES = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}

Array = npt.NDArray[np.generic]


def onnx_from_model(
    model: WiredNetwork, arrays: Mapping[str, Array], int8: Int8 | None = None
) -> onnx.ModelProto:
    """Build the ONNX graph of a network: inputs as declared, outputs FP32.

    Args:
        model: The network.
        arrays: Its weights by checkpoint name.
        int8: Placement and scales for INT8, in the form that ONNX Runtime has integer
            kernels for; None for FP32.

    Raises:
        onnx.checker.ValidationError: If the graph is not valid ONNX.
    """
    return onnx_from_ops(model, OnnxOps(arrays, int8))


def onnx_from_ops(model: WiredNetwork, ops: OnnxOps) -> onnx.ModelProto:
    """Wire a network with the given ops and return the checked graph.

    Large weights are added after the check: the checker copies its input several
    times, and the largest network has 1.28 GB of weights.

    Args:
        model: The network.
        ops: Fresh ops with the weights; its nodes and initializers become the graph.

    Raises:
        onnx.checker.ValidationError: If the graph is not valid ONNX.
    """
    for name, value in model.wire(ops).items():
        ops.add_node("Identity", [value], name, output=name)
    large = {k: a for k, a in ops.initializers.items() if a.nbytes >= LARGE_BYTES}
    proto = _model_proto(model, ops, large)
    onnx.checker.check_model(proto, full_check=True)
    del proto.graph.input[len(model.inputs) :]
    for name, array in large.items():
        tensor = proto.graph.initializer.add()
        tensor.name, tensor.data_type = name, TensorProto.FLOAT
        tensor.dims.extend(array.shape)
        tensor.raw_data = array.tobytes()
    return proto


def _model_proto(
    model: WiredNetwork, ops: OnnxOps, large: Mapping[str, Array]
) -> onnx.ModelProto:
    """Return the graph with the `large` weights as inputs instead of constants."""
    inputs = [
        helper.make_tensor_value_info(
            tensor.name, ELEMENT_TYPES[tensor.data_type], ["N", *tensor.shape]
        )
        for tensor in model.inputs
    ]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in large.items()
    ]
    outputs = [
        helper.make_tensor_value_info(
            tensor.name, TensorProto.FLOAT, ["N", *tensor.shape]
        )
        for tensor in model.output_tensors
    ]
    constants = [
        numpy_helper.from_array(array, name)
        for name, array in ops.initializers.items()
        if name not in large
    ]
    return helper.make_model(
        helper.make_graph(ops.nodes, model.name, inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="personserve",
        producer_version=version("personserve"),
    )


class OnnxOps:
    """`Ops` over tensor names.

    Args:
        weights: Arrays by checkpoint name.
        int8: Placement and scales for INT8; None for FP32.

    Attributes:
        nodes: The graph's nodes, in wiring order.
        initializers: The graph's constants by name.
    """

    def __init__(self, weights: Mapping[str, Array], int8: Int8 | None = None) -> None:
        self._weights = weights
        self._scales = int8.scales if int8 else {}
        self._cursor = PlacementCursor(
            int8.placement if int8 else None, self.insert_pair
        )
        self._counts: dict[str, int] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}

    def add_node(
        self,
        operator: str,
        inputs: list[str],
        name: str | None = None,
        *,
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node and return the name of its output.

        Args:
            operator: ONNX operator, such as "Conv".
            inputs: Names of the input tensors.
            name: Name of the node; by default the operator with a number.
            output: Name of the output tensor; by default `<name>:out`.
            attributes: Attributes of the operator.
        """
        if name is None:
            name = f"{operator.lower()}_{self._count(operator)}"
        elif (use := self._count(name)) > 1:
            name = f"{name}#{use}"  # a layer that is applied to two inputs
        output = output or f"{name}:out"
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=name, **attributes)
        )
        return output

    def add_constant(self, name: str, array: Array | np.generic) -> str:
        """Add an initializer and return its name; an existing name is reused.

        Args:
            name: Name of the initializer.
            array: Its value.
        """
        if name not in self.initializers:
            self.initializers[name] = np.asarray(array, order="C")
        return name

    def insert_pair(self, x: str, pair: Pair) -> str:
        """Quantise and dequantise a tensor and return the name of the result.

        The output of a ReLU becomes UINT8 with half the scale, because ONNX Runtime
        then merges the ReLU into the saturation of the convolution.

        Args:
            x: Name of the tensor.
            pair: The Q/DQ pair.
        """
        scale, zero_point = self._scale_and_zero_point(pair)
        name = f"{pair.key}@{pair.number}"
        inputs = [
            self.add_constant(f"{name}.scale", scale),
            self.add_constant(f"{name}.zero", zero_point),
        ]
        x = self.add_node("QuantizeLinear", [x, *inputs], f"{name}.q")
        return self.add_node("DequantizeLinear", [x, *inputs], f"{name}.dq")

    def _scale_and_zero_point(self, pair: Pair) -> tuple[np.float32, np.generic]:
        scale = self._scales[pair.key]
        if pair.nonnegative:
            return np.float32(scale * INT8_MAX / UINT8_MAX), np.uint8(0)
        return np.float32(scale), np.int8(0)

    def add_float_kernel(self, name: str, kernel: Kernel) -> list[str]:
        """Add a kernel and its bias as FP32 constants and return their names.

        Args:
            name: Name of the convolution.
            kernel: Its kernel and bias.
        """
        inputs = [self.add_constant(f"{name}.weight", kernel.weight)]
        if kernel.bias is not None:
            inputs.append(self.add_constant(f"{name}.bias", kernel.bias))
        return inputs

    def add_int8_kernel(self, name: str, kernel: Kernel, pair: Pair) -> list[str]:
        """Add an INT8 kernel and an INT32 bias, each with a DQ node.

        This is the form that ONNX Runtime's integer kernels accept.

        Args:
            name: Name of the convolution.
            kernel: Its kernel and bias in FP32.
            pair: The Q/DQ pair on the convolution's input.

        Returns:
            Names of the dequantised tensors.
        """
        weight, scales = quantise_kernel(kernel.weight)
        inputs = [
            self.add_constant(f"{name}.weight", weight),
            self.add_constant(f"{name}.weight.scale", scales),
            self.add_constant(f"{name}.weight.zero", np.zeros(len(scales), np.int8)),
        ]
        dequantised = [
            self.add_node("DequantizeLinear", inputs, f"{name}.weight.dq", axis=0)
        ]
        if kernel.bias is not None:
            bias_scale = self._scale_and_zero_point(pair)[0] * scales
            limit = np.iinfo(np.int32).max
            bias = np.rint(kernel.bias / bias_scale.astype("f8"))
            bias = np.clip(bias, -limit, limit).astype(np.int32)
            inputs = [
                self.add_constant(f"{name}.bias", bias),
                self.add_constant(f"{name}.bias.scale", bias_scale),
            ]
            dequantised.append(
                self.add_node("DequantizeLinear", inputs, f"{name}.bias.dq", axis=0)
            )
        return dequantised

    def _count(self, name: str) -> int:
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name]

    def vector(self, vector: Vector) -> str:
        return vector.name

    def image(self, image: Image) -> str:
        # the cast comes first, because TensorRT's parser accepts UINT8 nowhere else;
        # normalising after the transpose is several times faster on a CPU
        name = image.name
        x = self.add_node("Cast", [name], f"{name}.cast", to=TensorProto.FLOAT)
        x = self.add_node("Transpose", [x], f"{name}.to_nchw", perm=[0, 3, 1, 2])
        if image.order == "BGR":
            order = self.add_constant(f"{name}.order", np.array([2, 1, 0]))
            x = self.add_node("Gather", [x, order], f"{name}.swap", axis=1)
        mean = self.add_constant(f"{name}.mean", _per_channel(image.mean))
        std = self.add_constant(f"{name}.std", _per_channel(image.std))
        x = self.add_node("Sub", [x, mean], f"{name}.minus_mean")
        return self.add_node("Div", [x, std], f"{name}.over_std")

    def convolution(self, x: str, conv: Conv) -> str:
        name = conv.name
        kernel = fold_norm(self._weights, conv)
        placement = self._cursor.next_convolution()
        if placement is not None and placement.input is not None:
            x = self._cursor.apply(x, placement.input)
            inputs = [x, *self.add_int8_kernel(name, kernel, placement.input)]
        else:
            inputs = [x, *self.add_float_kernel(name, kernel)]
        before, after = expand_padding(conv.padding)
        x = self.add_node(
            "Conv",
            inputs,
            name,
            kernel_shape=[conv.kernel, conv.kernel],
            strides=[conv.stride, conv.stride],
            pads=[before, before, after, after],
            group=conv.groups,
        )
        if placement is not None:
            x = self._cursor.apply(x, placement.output)
        if kernel.instance_norm is None:
            return x
        if kernel.instance_norm.channels == conv.channels:
            return self._instance_norm(x, kernel.instance_norm)
        return self._split_instance_norm(x, kernel.instance_norm, conv.channels)

    def _split_instance_norm(self, x: str, norm: UnfoldedNorm, channels: int) -> str:
        sizes = self.add_constant(
            f"{norm.name}.split", np.array([norm.channels, channels - norm.channels])
        )
        instance, batch = f"{norm.name}:in", f"{norm.name}:rest"
        self.nodes.append(
            helper.make_node(
                "Split", [x, sizes], [instance, batch], f"{norm.name}.split", axis=1
            )
        )
        instance = self._instance_norm(instance, norm)
        return self.add_node("Concat", [instance, batch], f"{norm.name}.join", axis=1)

    def _instance_norm(self, x: str, norm: UnfoldedNorm) -> str:
        scale = self.add_constant(f"{norm.name}.weight", norm.scale)
        shift = self.add_constant(f"{norm.name}.bias", norm.shift)
        return self.add_node(
            "InstanceNormalization", [x, scale, shift], norm.name, epsilon=norm.eps
        )

    def batch_norm(self, x: str, norm: BatchNorm) -> str:
        scale, shift = (
            array.astype(np.float32)[:, None, None]
            for array in affine_from_norm(self._weights, norm)
        )
        x = self.add_node(
            "Mul",
            [x, self.add_constant(f"{norm.name}.scale", scale)],
            f"{norm.name}.mul",
        )
        return self.add_node(
            "Add", [x, self.add_constant(f"{norm.name}.shift", shift)], norm.name
        )

    def relu(self, x: str) -> str:
        return self._cursor.relu_output(self.add_node("Relu", [x]))

    def elu(self, x: str) -> str:
        return self.add_node("Elu", [x])

    def sigmoid(self, x: str) -> str:
        return self.add_node("Sigmoid", [x])

    def max_pool(
        self,
        x: str,
        *,
        kernel: int,
        stride: int,
        padding: Padding = 0,
        ceil: bool = False,
    ) -> str:
        before, after = expand_padding(padding)
        return self.add_node(
            "MaxPool",
            [self._cursor.pool_input(x)],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            ceil_mode=int(ceil),
        )

    def average_pool(self, x: str, *, kernel: int, stride: int) -> str:
        return self.add_node(
            "AveragePool",
            [x],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
        )

    def gem_pool(self, x: str, name: str) -> str:
        power = self._weights[f"{name}.p"].astype(np.float32)
        exponent = self.add_constant(f"{name}.p", power)
        inverse = self.add_constant(f"{name}.inverse_p", np.float32(1.0) / power)
        floor = self.add_constant(f"{name}.eps", np.float32(GEM_EPS))
        x = self.add_node("Max", [x, floor], f"{name}.clamp")
        x = self.add_node("Pow", [x, exponent], f"{name}.pow")
        x = self.add_node("ReduceMean", [x], f"{name}.mean", axes=[2, 3], keepdims=1)
        return self.add_node("Pow", [x, inverse], f"{name}.root")

    def global_average(self, x: str) -> str:
        return self.add_node("GlobalAveragePool", [x])

    def reflection_pad(self, x: str, padding: int) -> str:
        edges = [0, 0, padding, padding] * 2
        widths = self.add_constant(f"pad_{padding}", np.array(edges, np.int64))
        return self.add_node("Pad", [x, widths], mode="reflect")

    def add(self, a: str, b: str) -> str:
        return self.add_node("Add", list(self._cursor.addition_operands(a, b)))

    def multiply(self, a: str, b: str) -> str:
        return self.add_node("Mul", [a, b])

    def absolute_difference(self, a: str, b: str) -> str:
        return self.add_node("Abs", [self.add_node("Sub", [a, b])])

    def concatenate(self, a: str, b: str) -> str:
        return self.add_node("Concat", [a, b], axis=1)

    def scale_channels(self, x: str, gate: str) -> str:
        axes = self.add_constant("height_width", np.array([2, 3], np.int64))
        return self.add_node("Mul", [x, self.add_node("Unsqueeze", [gate, axes])])

    def attend(self, theta: str, phi: str, g: str) -> str:
        mean = self.global_average(self.multiply(phi, g))
        return self.multiply(theta, mean)

    def softmax(self, x: str) -> str:
        return self.add_node("Softmax", [x], axis=-1)

    def select(self, x: str, index: int) -> str:
        column = self.add_constant(f"column_{index}", np.array([index], np.int64))
        return self.add_node("Gather", [x, column], axis=1)

    def flatten(self, x: str) -> str:
        return self.add_node("Flatten", [x], axis=1)

    def linear(
        self, x: str, name: str, features: int, norm: BatchNorm | None = None
    ) -> str:
        weight, bias = fold_linear(self._weights, name, norm)
        inputs = [
            x,
            self.add_constant(f"{name}.weight", weight),
            self.add_constant(f"{name}.bias", bias),
        ]
        return self.add_node("Gemm", inputs, name, transB=1)

    def l2_norm(self, x: str) -> str:
        length = self.add_node("ReduceL2", [x], axes=[-1], keepdims=1)
        floor = self.add_constant("l2_norm.eps", np.float32(L2_EPS))
        return self.add_node("Div", [x, self.add_node("Max", [length, floor])])


def _per_channel(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)
