"""Executes an INetworkDefinition layer by layer in float64 torch, without a GPU.

Reads every kernel, stride, scale and permutation back through the library's own API,
so that what is checked is the network that the builder gets, not what we meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

Tensor = torch.Tensor


class Interpreter:
    """Runs networks of the library `trt`."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        kinds = trt.LayerType
        self._layers: dict[Any, tuple[str, Callable[..., Tensor]]] = {
            kinds.ACTIVATION: ("IActivationLayer", self._activation),
            kinds.CAST: ("ICastLayer", self._cast),
            kinds.CONCATENATION: ("IConcatenationLayer", self._concatenation),
            kinds.CONSTANT: ("IConstantLayer", self._constant),
            kinds.CONVOLUTION: ("IConvolutionLayer", self._convolution),
            kinds.DEQUANTIZE: ("IDequantizeLayer", self._dequantize),
            kinds.ELEMENTWISE: ("IElementWiseLayer", self._elementwise),
            kinds.GATHER: ("IGatherLayer", self._gather),
            kinds.IDENTITY: ("IIdentityLayer", lambda _layer, x: x),
            kinds.MATRIX_MULTIPLY: ("IMatrixMultiplyLayer", self._matrix_multiply),
            kinds.NORMALIZATION: ("INormalizationLayer", self._normalization),
            kinds.POOLING: ("IPoolingLayer", self._pooling),
            kinds.QUANTIZE: ("IQuantizeLayer", self._quantize),
            kinds.REDUCE: ("IReduceLayer", self._reduce),
            kinds.SCALE: ("IScaleLayer", self._scale),
            kinds.SHAPE: ("IShapeLayer", lambda _layer, x: torch.tensor(x.shape)),
            kinds.SHUFFLE: ("IShuffleLayer", self._shuffle),
            kinds.SLICE: ("ISliceLayer", self._slice),
            kinds.SOFTMAX: ("ISoftMaxLayer", self._softmax),
            kinds.UNARY: ("IUnaryLayer", self._unary),
        }

    def run(self, network: Any, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """{output: array} of `network` for {input: array}."""
        values = {
            name: torch.from_numpy(
                array if array.dtype == np.uint8 else array.astype("f8")
            )
            for name, array in inputs.items()
        }
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            class_name, run = self._layers[self.trt.ILayer.type.__get__(layer)]
            layer.__class__ = getattr(self.trt, class_name)
            inputs_ = [layer.get_input(i) for i in range(layer.num_inputs)]
            taken = [None if x is None else values[x.name] for x in inputs_]
            assert layer.num_outputs == 1
            values[layer.get_output(0).name] = run(layer, *taken)
        names = [network.get_output(i).name for i in range(network.num_outputs)]
        return {name: values[name].numpy() for name in names}

    def _activation(self, layer: Any, x: Tensor) -> Tensor:
        kinds = self.trt.ActivationType
        if layer.type == kinds.ELU:
            return functional.elu(x, layer.alpha)
        return {kinds.RELU: torch.relu, kinds.SIGMOID: torch.sigmoid}[layer.type](x)

    def _cast(self, _layer: Any, x: Tensor) -> Tensor:
        # only integer to float changes anything in float64
        return x.double()

    def _concatenation(self, layer: Any, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=layer.axis)

    def _constant(self, layer: Any) -> Tensor:
        array = np.array(layer.weights).reshape(tuple(layer.shape))
        return torch.from_numpy(array).to(
            torch.int64 if array.dtype.kind == "i" else torch.float64
        )

    def _quantize(self, layer: Any, x: Tensor, scale: Tensor) -> Tensor:
        # IEEE 754's and TensorRT's rounding, half to even; saturating
        return (x / self._scales(layer, x, scale)).round().clamp(-128, 127)

    def _dequantize(self, layer: Any, x: Tensor, scale: Tensor) -> Tensor:
        assert bool((x == x.round()).all())
        return x * self._scales(layer, x, scale)

    def _scales(self, layer: Any, x: Tensor, scale: Tensor) -> Tensor:
        """Return a scale for the tensor, or one per index of the layer's axis."""
        if scale.ndim == 0:
            return scale
        assert scale.shape == (x.shape[layer.axis],)
        return scale.reshape(
            [-1 if axis == layer.axis else 1 for axis in range(x.ndim)]
        )

    def _convolution(
        self, layer: Any, x: Tensor, kernel: Tensor | None = None
    ) -> Tensor:
        rows, columns = tuple(layer.kernel_size_nd)
        channels = layer.num_output_maps
        if kernel is None:
            kernel = torch.from_numpy(np.array(layer.kernel, np.float64))
        kernel = kernel.reshape(channels, x.shape[1] // layer.num_groups, rows, columns)
        bias = np.array(layer.bias, np.float64)
        return functional.conv2d(
            self._padded(layer, x, 0.0),
            kernel,
            torch.from_numpy(bias) if bias.size else None,
            stride=tuple(layer.stride_nd),
            dilation=tuple(layer.dilation_nd),
            groups=layer.num_groups,
        )

    def _padded(self, layer: Any, x: Tensor, value: float) -> Tensor:
        (top, left), (bottom, right) = layer.pre_padding, layer.post_padding
        return functional.pad(x, (left, right, top, bottom), value=value)

    def _elementwise(self, layer: Any, a: Tensor, b: Tensor) -> Tensor:
        kinds = self.trt.ElementWiseOperation
        return {
            kinds.SUM: torch.add,
            kinds.SUB: torch.sub,
            kinds.PROD: torch.mul,
            kinds.DIV: torch.div,
            kinds.MAX: torch.maximum,
            kinds.POW: torch.pow,
        }[layer.op](a, b)

    def _gather(self, layer: Any, x: Tensor, indices: Tensor) -> Tensor:
        return x.index_select(layer.axis, indices)

    def _matrix_multiply(self, layer: Any, a: Tensor, b: Tensor) -> Tensor:
        transpose = self.trt.MatrixOperation.TRANSPOSE
        a = a.mT if layer.op0 == transpose else a
        b = b.mT if layer.op1 == transpose else b
        return a @ b

    def _normalization(
        self, layer: Any, x: Tensor, scale: Tensor, shift: Tensor
    ) -> Tensor:
        axes = self._axes(layer.axes, x)
        variance, mean = torch.var_mean(x, dim=axes, keepdim=True, correction=0)
        assert layer.num_groups == 1
        return (x - mean) / torch.sqrt(variance + layer.epsilon) * scale + shift

    def _pooling(self, layer: Any, x: Tensor) -> Tensor:
        window, stride = tuple(layer.window_size_nd), tuple(layer.stride_nd)
        ceil = layer.padding_mode == self.trt.PaddingMode.EXPLICIT_ROUND_UP
        if layer.type == self.trt.PoolingType.MAX:
            x = self._padded(layer, x, float("-inf"))
            return functional.max_pool2d(x, window, stride, ceil_mode=ceil)
        assert tuple(layer.pre_padding) == tuple(layer.post_padding) == (0, 0)
        return functional.avg_pool2d(x, window, stride, ceil_mode=ceil)

    def _reduce(self, layer: Any, x: Tensor) -> Tensor:
        kinds = self.trt.ReduceOperation
        reduce = {kinds.AVG: torch.mean, kinds.SUM: torch.sum}[layer.op]
        return reduce(x, dim=self._axes(layer.axes, x), keepdim=layer.keep_dims)

    def _axes(self, mask: int, x: Tensor) -> list[int]:
        return [axis for axis in range(x.ndim) if mask >> axis & 1]

    def _scale(self, layer: Any, x: Tensor) -> Tensor:
        assert layer.mode == self.trt.ScaleMode.CHANNEL
        assert layer.channel_axis == 1
        shape = (1, -1, *(1,) * (x.ndim - 2))
        scale, shift, power = (
            torch.from_numpy(np.array(array, np.float64)).reshape(shape)
            for array in (layer.scale, layer.shift, layer.power)
        )
        y = x * scale + shift
        return y if bool((power == 1).all()) else y**power

    def _shuffle(self, layer: Any, x: Tensor) -> Tensor:
        if tuple(layer.first_transpose)[: x.ndim] != tuple(range(x.ndim)):
            x = x.permute(tuple(layer.first_transpose)[: x.ndim])
        if layer.reshape_dims is not None:
            dims = tuple(layer.reshape_dims)
            x = x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(dims)])
        return x

    def _slice(
        self, layer: Any, x: Tensor, _start: Tensor | None, shape: Tensor
    ) -> Tensor:
        assert layer.mode == self.trt.SampleMode.REFLECT
        assert tuple(layer.stride) == (1,) * x.ndim
        for axis, (start, size) in enumerate(
            zip(tuple(layer.start), shape.tolist(), strict=True)
        ):
            last = x.shape[axis] - 1
            places = (torch.arange(start, start + size)).abs()
            places = last - (last - places).abs()
            x = x.index_select(axis, places)
        return x

    def _softmax(self, layer: Any, x: Tensor) -> Tensor:
        (axis,) = self._axes(layer.axes, x)
        return x.softmax(axis)

    def _unary(self, layer: Any, x: Tensor) -> Tensor:
        kinds = self.trt.UnaryOperation
        return {kinds.SQRT: torch.sqrt, kinds.ABS: torch.abs}[layer.op](x)
