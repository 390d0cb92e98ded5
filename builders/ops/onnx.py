"""The onnx backend: a wiring as an ONNX graph.

Node names are the checkpoint's layer names; values are tensor names. Batch norms are
folded into the convolutions before them. The graph keeps to opset 17, which ONNX
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

from builders.ops import GEM_EPS, L2_EPS, BatchNorm, Norm, Padding, pads
from builders.ops.folding import (
    INT8_MAX,
    InstanceNorm,
    Kernel,
    fold,
    int8_kernel,
    scale_and_shift,
)
from builders.ops.placement import Int8, Pair, Pairs

if TYPE_CHECKING:
    from builders.spec import Image, Model, Vector

OPSET = 17
IR_VERSION = 8
LARGE_BYTES = 64 << 20

UINT8_MAX = 255

ELEMENT_TYPES = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}

Array = npt.NDArray[np.generic]


def onnx_from_model(
    model: Model, arrays: Mapping[str, Array], int8: Int8 | None = None
) -> onnx.ModelProto:
    """`model` with `arrays` as weights; inputs as declared, outputs FP32. With `int8`
    its convolutions run in INT8, in the form that ONNX Runtime has kernels for.

    Raises onnx.checker.ValidationError where the graph is not valid ONNX. The large
    network has 1.28 GB of weights: they enter after the check, which copies what it
    gets several times, and are copied once.
    """
    return assembled(model, OnnxOps(arrays, int8))


def assembled(model: Model, ops: OnnxOps) -> onnx.ModelProto:
    """The checked graph of `model`, wired by `ops`."""
    values = model.wire(ops)
    for name, value in values.items():
        ops.node("Identity", [value], name, output=name)
    large = {k: a for k, a in ops.initializers.items() if a.nbytes >= LARGE_BYTES}
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
    graph = helper.make_graph(
        ops.nodes,
        model.name,
        inputs,
        [
            helper.make_tensor_value_info(
                tensor.name, TensorProto.FLOAT, ["N", *tensor.shape]
            )
            for tensor in model.output_tensors
        ],
        [
            numpy_helper.from_array(array, name)
            for name, array in ops.initializers.items()
            if name not in large
        ],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="personserve",
        producer_version=version("personserve"),
    )
    onnx.checker.check_model(proto, full_check=True)
    del proto.graph.input[len(model.inputs) :]
    for name, array in large.items():
        tensor = proto.graph.initializer.add()
        tensor.name, tensor.data_type = name, TensorProto.FLOAT
        tensor.dims.extend(array.shape)
        tensor.raw_data = array.tobytes()
    return proto


class OnnxOps:
    """`Ops` over tensor names; collects `nodes` and `initializers`."""

    def __init__(self, weights: Mapping[str, Array], int8: Int8 | None = None) -> None:
        self._weights = weights
        self._scales = int8.scales if int8 else {}
        self._pairs = Pairs(int8.placement if int8 else None, self.pair)
        self._counts: dict[str, int] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}

    def node(
        self,
        kind: str,
        inputs: list[str],
        name: str | None = None,
        *,
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node and return its output's name. Unnamed ones are numbered."""
        if name is None:
            name = f"{kind.lower()}_{self._count(kind)}"
        elif (time := self._count(name)) > 1:
            name = f"{name}#{time}"  # a layer that two inputs share
        output = output or f"{name}:out"
        self.nodes.append(
            helper.make_node(kind, inputs, [output], name=name, **attributes)
        )
        return output

    def constant(self, name: str, array: Array | np.generic) -> str:
        """An initializer; the same name is stored once."""
        if name not in self.initializers:
            self.initializers[name] = np.asarray(array, order="C")
        return name

    def pair(self, x: str, pair: Pair) -> str:
        """`x` through Q/DQ. What a ReLU made gets unsigned integers of half the step,
        because then ONNX Runtime lets the convolution's saturation do the ReLU.
        """
        scale, zero = self._step(pair)
        name = f"{pair.key}@{pair.number}"
        inputs = [
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero", zero),
        ]
        x = self.node("QuantizeLinear", [x, *inputs], f"{name}.q")
        return self.node("DequantizeLinear", [x, *inputs], f"{name}.dq")

    def _step(self, pair: Pair) -> tuple[np.float32, np.generic]:
        scale = self._scales[pair.key]
        if pair.nonnegative:
            return np.float32(scale * INT8_MAX / UINT8_MAX), np.uint8(0)
        return np.float32(scale), np.int8(0)

    def float_kernel(self, name: str, kernel: Kernel) -> list[str]:
        """Weight and bias as they are."""
        inputs = [self.constant(f"{name}.weight", kernel.weight)]
        if kernel.bias is not None:
            inputs.append(self.constant(f"{name}.bias", kernel.bias))
        return inputs

    def _int8_kernel(self, name: str, kernel: Kernel, pair: Pair) -> list[str]:
        """Weight and bias as integers behind a DQ, as the integer kernels take them."""
        weight, steps = int8_kernel(kernel.weight)
        inputs = [
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.weight.scale", steps),
            self.constant(f"{name}.weight.zero", np.zeros(len(steps), np.int8)),
        ]
        result = [self.node("DequantizeLinear", inputs, f"{name}.weight.dq", axis=0)]
        if kernel.bias is not None:
            step = self._step(pair)[0] * steps
            limit = np.iinfo(np.int32).max
            bias = np.clip(np.rint(kernel.bias / step.astype("f8")), -limit, limit)
            inputs = [
                self.constant(f"{name}.bias", bias.astype(np.int32)),
                self.constant(f"{name}.bias.scale", step),
            ]
            result.append(
                self.node("DequantizeLinear", inputs, f"{name}.bias.dq", axis=0)
            )
        return result

    def _count(self, kind: str) -> int:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind]

    def vector(self, vector: Vector) -> str:
        return vector.name

    def image(self, image: Image) -> str:
        # the cast comes first, because TensorRT's parser takes UINT8 nowhere else;
        # normalising planes instead of pixels is several times cheaper on a CPU
        name = image.name
        x = self.node("Cast", [name], f"{name}.cast", to=TensorProto.FLOAT)
        x = self.node("Transpose", [x], f"{name}.to_nchw", perm=[0, 3, 1, 2])
        if image.order == "BGR":
            order = self.constant(f"{name}.order", np.array([2, 1, 0]))
            x = self.node("Gather", [x, order], f"{name}.swap", axis=1)
        mean = self.constant(f"{name}.mean", _per_channel(image.mean))
        std = self.constant(f"{name}.std", _per_channel(image.std))
        x = self.node("Sub", [x, mean], f"{name}.minus_mean")
        return self.node("Div", [x, std], f"{name}.over_std")

    def convolution(
        self,
        x: str,
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
    ) -> str:
        folded = fold(self._weights, name, bias=bias, norm=norm)
        place = self._pairs.convolution()
        if place is not None and place.input is not None:
            x = self._pairs.through(x, place.input)
            inputs = [x, *self._int8_kernel(name, folded, place.input)]
        else:
            inputs = [x, *self.float_kernel(name, folded)]
        before, after = pads(padding)
        x = self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=groups,
        )
        if place is not None:
            x = self._pairs.through(x, place.output)
        if folded.instance_norm is None:
            return x
        return self._split_instance_norm(x, folded.instance_norm, channels)

    def _split_instance_norm(self, x: str, norm: InstanceNorm, channels: int) -> str:
        sizes = self.constant(
            f"{norm.name}.split", np.array([norm.channels, channels - norm.channels])
        )
        instance, batch = f"{norm.name}:in", f"{norm.name}:rest"
        self.nodes.append(
            helper.make_node(
                "Split", [x, sizes], [instance, batch], f"{norm.name}.split", axis=1
            )
        )
        scale = self.constant(f"{norm.name}.weight", norm.scale)
        shift = self.constant(f"{norm.name}.bias", norm.shift)
        instance = self.node(
            "InstanceNormalization",
            [instance, scale, shift],
            norm.name,
            epsilon=norm.eps,
        )
        return self.node("Concat", [instance, batch], f"{norm.name}.join", axis=1)

    def batch_norm(self, x: str, norm: BatchNorm) -> str:
        scale, shift = (
            array.astype(np.float32)[:, None, None]
            for array in scale_and_shift(self._weights, norm)
        )
        x = self.node(
            "Mul", [x, self.constant(f"{norm.name}.scale", scale)], f"{norm.name}.mul"
        )
        return self.node(
            "Add", [x, self.constant(f"{norm.name}.shift", shift)], norm.name
        )

    def relu(self, x: str) -> str:
        return self._pairs.relu(self.node("Relu", [x]))

    def elu(self, x: str) -> str:
        return self.node("Elu", [x])

    def sigmoid(self, x: str) -> str:
        return self.node("Sigmoid", [x])

    def max_pool(
        self,
        x: str,
        *,
        kernel: int,
        stride: int,
        padding: Padding = 0,
        ceil: bool = False,
    ) -> str:
        before, after = pads(padding)
        return self.node(
            "MaxPool",
            [self._pairs.pool(x)],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            ceil_mode=int(ceil),
        )

    def average_pool(self, x: str, *, kernel: int, stride: int) -> str:
        return self.node(
            "AveragePool",
            [x],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
        )

    def gem_pool(self, x: str, name: str) -> str:
        power = self._weights[f"{name}.p"].astype(np.float32)
        exponent = self.constant(f"{name}.p", power)
        inverse = self.constant(f"{name}.inverse_p", np.float32(1.0) / power)
        floor = self.constant(f"{name}.eps", np.float32(GEM_EPS))
        x = self.node("Max", [x, floor], f"{name}.clamp")
        x = self.node("Pow", [x, exponent], f"{name}.pow")
        x = self.node("ReduceMean", [x], f"{name}.mean", axes=[2, 3], keepdims=1)
        return self.node("Pow", [x, inverse], f"{name}.root")

    def global_average(self, x: str) -> str:
        return self.node("GlobalAveragePool", [x])

    def reflection_pad(self, x: str, padding: int) -> str:
        edges = [0, 0, padding, padding] * 2
        pads_ = self.constant(f"pad_{padding}", np.array(edges, np.int64))
        return self.node("Pad", [x, pads_], mode="reflect")

    def add(self, a: str, b: str) -> str:
        return self.node("Add", list(self._pairs.addition(a, b)))

    def multiply(self, a: str, b: str) -> str:
        return self.node("Mul", [a, b])

    def absolute_difference(self, a: str, b: str) -> str:
        return self.node("Abs", [self.node("Sub", [a, b])])

    def concatenate(self, a: str, b: str) -> str:
        return self.node("Concat", [a, b], axis=1)

    def scale_channels(self, x: str, gate: str) -> str:
        axes = self.constant("height_width", np.array([2, 3], np.int64))
        return self.node("Mul", [x, self.node("Unsqueeze", [gate, axes])])

    def attend(self, theta: str, phi: str, g: str) -> str:
        mean = self.global_average(self.multiply(phi, g))
        return self.multiply(theta, mean)

    def softmax(self, x: str) -> str:
        return self.node("Softmax", [x], axis=-1)

    def select(self, x: str, index: int) -> str:
        column = self.constant(f"column_{index}", np.array([index], np.int64))
        return self.node("Gather", [x, column], axis=1)

    def flatten(self, x: str) -> str:
        return self.node("Flatten", [x], axis=1)

    def linear(self, x: str, name: str, features: int) -> str:
        weight = self.constant(
            f"{name}.weight",
            self._weights[f"{name}.weight"].astype(np.float32, copy=False),
        )
        bias = self.constant(
            f"{name}.bias", self._weights[f"{name}.bias"].astype(np.float32)
        )
        return self.node("Gemm", [x, weight, bias], name, transB=1)

    def l2_norm(self, x: str) -> str:
        length = self.node("ReduceL2", [x], axes=[-1], keepdims=1)
        floor = self.constant("l2_norm.eps", np.float32(L2_EPS))
        return self.node("Div", [x, self.node("Max", [length, floor])])


def _per_channel(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)
