"""Time of each layer of a plan, by TensorRT's own profiler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from builders.tensorrt.engine import create_logger
from builders.tensorrt.library import Library, PlanError

WARM_UP_RUNS = 10


@dataclass(frozen=True)
class LayerTime:
    """One layer of a plan.

    Attributes:
        name: Its name; TensorRT joins the names of fused layers.
        kind: TensorRT's type of the layer, for example "CaskConvolution".
        formats: Element types and layouts of its inputs and outputs, as text.
        ms: Median time of a batch.
    """

    name: str
    kind: str
    formats: str
    ms: float


def measure_layers(
    library: Library, plan: bytes, batch: int, repeats: int
) -> list[LayerTime]:
    """Time every layer of a plan, one after another as they run.

    The profiler puts events between the layers, so that the sum is more than the time
    of the plan by itself.

    Args:
        library: The library that built the plan.
        plan: Content of the plan file.
        batch: Batch size.
        repeats: Number of timed runs.

    Returns:
        The layers in the order of execution.

    Raises:
        PlanError: The plan cannot be loaded or run.
    """
    from cuda.bindings import runtime as cuda

    trt = library.trt
    times: dict[str, list[float]] = {}

    class Collector(trt.IProfiler):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    errors: list[str] = []
    logger = create_logger(trt, errors)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise PlanError(f"{library} does not load the plan: {'; '.join(errors[-3:])}")
    context = engine.create_execution_context()
    memory = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = (batch, *tuple(engine.get_tensor_shape(name))[1:])
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            context.set_input_shape(name, shape)
        item = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).itemsize
        _, address = cuda.cudaMalloc(int(np.prod(shape)) * item)
        memory.append(address)
        context.set_tensor_address(name, address)
    _, stream = cuda.cudaStreamCreate()
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    for _ in range(WARM_UP_RUNS):
        context.execute_async_v3(int(stream))
    cuda.cudaStreamSynchronize(stream)
    collector = Collector()
    context.profiler = collector
    for _ in range(repeats):
        if not context.execute_async_v3(int(stream)):
            raise PlanError(f"the plan does not run: {'; '.join(errors[-3:])}")
        cuda.cudaStreamSynchronize(stream)
    for address in memory:
        cuda.cudaFree(address)
    cuda.cudaStreamDestroy(stream)
    facts = layer_facts(text)
    return [
        LayerTime(name, *facts.get(name, ("", "")), float(np.median(values)))
        for name, values in times.items()
    ]


def layer_facts(text: str) -> dict[str, tuple[str, str]]:
    """Return type and formats of each layer, by its name.

    Args:
        text: JSON from the engine inspector.
    """
    facts = {}
    for layer in json.loads(text)["Layers"]:
        if isinstance(layer, Mapping):
            kind = str(layer.get("LayerType", ""))
            formats = " -> ".join(
                ", ".join(_format_of(tensor) for tensor in layer.get(side, ()))
                for side in ("Inputs", "Outputs")
            )
            facts[str(layer.get("Name", ""))] = (kind, formats)
    return facts


def _format_of(tensor: Any) -> str:
    shape = "x".join(str(size) for size in tensor.get("Dimensions", ()))
    return f"{tensor.get('Format/Datatype', '?')} [{shape}]"
