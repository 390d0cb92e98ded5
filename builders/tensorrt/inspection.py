"""Element types of a plan's layers, and whether they are those of its precision.

The layers that count are convolutions. A network that has none, such as the pair head
of kinship_pair, is judged by its matrix multiplications instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from builders.tensorrt.library import Library, PlanError, Precision

Histogram = dict[str, int]
"""Number of layers by element type, for example {"FP16": 22}."""

LayerKind = Literal["convolutions", "matrix multiplications"]

TYPE_SPELLINGS = {
    "FP16": ("half", "fp16"),
    "BF16": ("bfloat16", "bf16"),
    "FP32": ("float", "fp32"),
    "INT8": ("int8",),
}
"""Element types as the engine inspectors of different versions spell them."""

LAYER_SPELLINGS: dict[LayerKind, tuple[str, ...]] = {
    "convolutions": ("conv",),
    # TensorRT may run a matrix multiplication as a convolution of one pixel
    "matrix multiplications": ("conv", "gemm", "matmul", "matrixmultiply", "fully"),
}
"""Parts of the inspectors' layer types, in lower case."""


def counted_kind(library: Library, network: Any) -> LayerKind:
    """Return the kind of layers by which a network is judged.

    Args:
        library: The library of the network.
        network: A complete INetworkDefinition.

    Returns:
        "convolutions" if the network has any.
    """
    if sum(types_from_network(library, network, "convolutions").values()):
        return "convolutions"
    return "matrix multiplications"


def types_from_network(library: Library, network: Any, kind: LayerKind) -> Histogram:
    """Count the layers of a network definition by element type.

    Args:
        library: The library of the network.
        network: A complete INetworkDefinition.
        kind: The layers to count.

    Returns:
        The number of layers by element type.
    """
    trt = library.trt
    layer_type = {
        "convolutions": trt.LayerType.CONVOLUTION,
        "matrix multiplications": trt.LayerType.MATRIX_MULTIPLY,
    }[kind]
    names = {trt.float32: "FP32", trt.float16: "FP16", trt.int8: "INT8"}
    if hasattr(trt, "bfloat16"):
        names[trt.bfloat16] = "BF16"
    types: Histogram = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type != layer_type:
            continue
        name = names.get(layer.get_output(0).dtype, "other")
        if kind == "convolutions" and layer.num_inputs > 1:
            name = "INT8"  # a kernel that is a tensor comes out of Q/DQ
        types[name] = types.get(name, 0) + 1
    return types


def types_from_inspector(text: str, kind: LayerKind = "convolutions") -> Histogram:
    """Count the layers of an engine by element type.

    The type of a layer is that of its weights or, without weights, of its first input.

    Args:
        text: JSON from the engine inspector.
        kind: The layers to count.

    Returns:
        The number of layers by element type; empty if the inspector names no such
        layer.
    """
    types: Histogram = {}
    for layer in json.loads(text)["Layers"]:
        if not isinstance(layer, Mapping):
            continue
        label = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
        if not any(spelling in label for spelling in LAYER_SPELLINGS[kind]):
            continue
        # with dynamic shapes 8.6 gives no tensor's type, but always that of weights
        typed = layer.get("Weights") or layer["Inputs"][0]
        words = " ".join(
            str(typed.get(key, "")) for key in ("Type", "Datatype", "Format/Datatype")
        )
        name = _type_name(words)
        types[name] = types.get(name, 0) + 1
    return types


def require_types(
    types: Histogram, kind: LayerKind, source: str, element_type: str, expected: int
) -> None:
    """Check that most layers of a plan have the element type of its precision.

    Args:
        types: The number of layers by element type; nothing is checked if it is empty.
        kind: The kind of layers that were counted.
        source: What counted them, for the message.
        element_type: The element type that they should have.
        expected: How many layers should have it.

    Raises:
        PlanError: If at most half of `expected` layers have it.
    """
    if types and types.get(element_type, 0) * 2 <= expected:
        raise PlanError(
            f"the plan is not {element_type}: {expected} {kind} should be, and the "
            f"{source} counts {types}; nothing was written"
        )


def element_type_of(precision: Precision) -> str:
    """Return the element type of convolutions, as histograms spell it.

    Args:
        precision: The precision of a plan.

    Returns:
        "FP32", "FP16", "BF16" or "INT8".
    """
    return "FP32" if precision == "tf32" else precision.upper()


def _type_name(words: str) -> str:
    lower = words.lower()
    for name, spellings in TYPE_SPELLINGS.items():
        if any(spelling in lower for spelling in spellings):
            return name
    return "other"
