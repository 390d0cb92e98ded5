"""Layers of a network definition, with their names and element types.

Strongly typed versions get the element types from casts in the network; for 8.6 the
same layers carry the same types as constraints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from builders.ops.folding import UnfoldedNorm
from builders.tensorrt.library import Library, PlanError

Array = npt.NDArray[np.generic]
Tensor = Any
"""An ITensor of the loaded library."""

HW = (1 << 2) | (1 << 3)
"""Bit mask of the reduction axes H and W of [N, C, H, W]."""


class LayerWriter:
    """Adds layers to a network; the base class of TensorrtOps.

    It owns the arrays of the weights, which the builder reads later: keep the object
    until the plan is built.
    """

    def __init__(self, library: Library, network: Any) -> None:
        self._library = library
        self._trt = library.trt
        self._network = network
        self._arrays: list[Any] = []
        self._counts: dict[str, int] = {}
        self._types: dict[str, Any] = {}

    def _cast_like(self, x: Tensor, other: Tensor, name: str) -> Tensor:
        return self._cast(x, self._type(other), f"{name}.cast")

    def _quantise_dequantise(
        self, x: Tensor, scale: Tensor, name: str, kind: Any, axis: int | None = None
    ) -> Tensor:
        quantize = self._library.quantize(self._network, x, scale)
        x = self._finish(quantize, f"{name}.q", self._trt.int8, choose=True)
        dequantize = self._library.dequantize(self._network, x, scale, kind)
        if axis is not None:
            quantize.axis = dequantize.axis = axis
        return self._finish(dequantize, f"{name}.dq", kind, choose=True)

    def _instance_norm(self, x: Tensor, norm: UnfoldedNorm) -> Tensor:
        outside = self._type(x)
        if not (self._library.normalization and self._library.normalizes_in_float):
            x = self._cast(x, self._trt.float32, f"{norm.name}.to_float")
        if self._library.normalization is None:
            x = self._norm_from_single_ops(x, norm)
        else:
            x = self._native_norm(x, norm, self._library.normalization)
        return self._cast(x, outside, f"{norm.name}.to_compute")

    def _native_norm(self, x: Tensor, norm: UnfoldedNorm, method: str) -> Tensor:
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
        return self._finish(layer, norm.name, data_type)

    def _norm_from_single_ops(self, x: Tensor, norm: UnfoldedNorm) -> Tensor:
        name = norm.name
        mean = self._reduce(x, "AVG", HW, f"{name}.mean")
        centred = self._elementwise(x, mean, "SUB", f"{name}.centre")
        square = self._elementwise(centred, centred, "PROD", f"{name}.square")
        variance = self._reduce(square, "AVG", HW, f"{name}.variance")
        floor = self._with_scalar(variance, np.float32(norm.eps), "SUM", f"{name}.eps")
        root = self._network.add_unary(floor, self._trt.UnaryOperation.SQRT)
        deviation = self._finish(root, f"{name}.deviation", self._trt.float32)
        x = self._elementwise(centred, deviation, "DIV", f"{name}.normalise")
        return self._scale(x, norm.scale, norm.shift, name)

    def _scale(
        self,
        x: Tensor,
        scale: npt.NDArray[np.floating[Any]],
        shift: npt.NDArray[np.floating[Any]],
        name: str,
    ) -> Tensor:
        scale, shift = self._own(scale), self._own(shift)
        layer = self._network.add_scale_nd(
            x,
            self._trt.ScaleMode.CHANNEL,
            shift,
            scale,
            self._own(np.ones_like(scale)),
            1,
        )
        return self._finish(layer, name, self._trt.float32)

    def _with_scalar(
        self, x: Tensor, value: np.float32, operation: str, name: str
    ) -> Tensor:
        array = np.full((1,) * len(x.shape), value, np.float32)
        constant = self._constant(array, f"{name}.value")
        return self._elementwise(x, constant, operation, name)

    def _elementwise(self, a: Tensor, b: Tensor, operation: str, name: str) -> Tensor:
        kind = getattr(self._trt.ElementWiseOperation, operation)
        layer = self._network.add_elementwise(a, b, kind)
        return self._finish(layer, name, self._type(a))

    def _reduce(self, x: Tensor, operation: str, axes: int, name: str) -> Tensor:
        kind = getattr(self._trt.ReduceOperation, operation)
        layer = self._network.add_reduce(x, kind, axes, True)  # noqa: FBT003
        return self._finish(layer, name, self._type(x))

    def _cast(self, x: Tensor, data_type: Any, name: str) -> Tensor:
        if self._type(x) == data_type:
            return x
        return self._finish(self._network.add_cast(x, data_type), name, data_type)

    def _constant(self, array: Array, name: str) -> Tensor:
        array = self._own(array, array.dtype)
        layer = self._network.add_constant(array.shape, array)
        return self._finish(layer, name, layer.get_output(0).dtype)

    def _typed_weights(self, array: npt.NDArray[np.float32], kind: Any) -> Any:
        """Convert a convolution's weights to the element type that it must have."""
        if not self._library.strongly_typed or kind == self._trt.float32:
            return self._own(array)
        if kind == self._trt.float16:
            return self._own(array, np.float16)
        bits = self._own(_bfloat16_bits(array), np.uint16)
        return self._trt.Weights(self._trt.bfloat16, bits.ctypes.data, bits.size)

    def _own(self, array: Any, data_type: npt.DTypeLike = np.float32) -> Any:
        """Return a contiguous copy that lives as long as this object."""
        owned = np.asarray(array, data_type, order="C")
        self._arrays.append(owned)
        return owned

    def _finish(
        self, layer: Any, name: str, data_type: Any, *, choose: bool = False
    ) -> Tensor:
        """Name a layer and set its element type; return its output.

        Without strong typing the type becomes a constraint, unless the builder may
        choose it (`choose`, around Q/DQ layers).
        """
        if layer is None:
            raise PlanError(f"{self._library} refused layer {name}; its log says why")
        self._counts[name] = call = self._counts.get(name, 0) + 1
        if call > 1:
            name = f"{name}#{call}"  # the model calls this layer more than once
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
        # not x.dtype, which without strong typing ignores the constraints
        return self._types[x.name]

    def _unique_name(self, kind: str) -> str:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{kind}_{self._counts[kind]}"


def _bfloat16_bits(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to bfloat16 (nearest, ties to even) and return the 16 bits of each."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)
