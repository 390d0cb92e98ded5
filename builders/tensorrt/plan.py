"""Plans: from a network definition to the bytes of a plan file.

The network comes from a model's wiring (the usual way), or from an ONNX file through
NVIDIA's parser. The timing cache is kept between builds. An interrupted build ends
early, where the version supports that, and writes nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.ops.placement import Int8
from builders.progress import Progress
from builders.spec.model import Batching, Model
from builders.tensorrt import inspection
from builders.tensorrt.engine import create_logger
from builders.tensorrt.inspection import Histogram, LayerKind
from builders.tensorrt.library import Library, PlanError, Precision
from builders.tensorrt.monitor import create_monitor
from builders.tensorrt.network import define_network
from builders.tensors import Tensor
from personserve.internal.files import atomic_write

DEFAULT_WORKSPACE_BYTES = 4 << 30


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan's build.

    Attributes:
        precision: Precision of the convolutions.
        gpus: GPU types ("sm_86"), for libraries that build for named ones.
        workspace_bytes: Limit of the memory that a kernel may use for scratch data.
        timing_cache: File that keeps kernel timings between builds, or None.
        light: Whether large maps stay in the precision of the plan where only what is
            computed from them has to be FP32: means over a whole map, and convolutions
            from or to a few channels (non-local blocks).
    """

    precision: Precision = "fp32"
    gpus: tuple[str, ...] = ()
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    timing_cache: Path | None = None
    light: bool = False


@dataclass(frozen=True)
class Plan:
    """A serialised plan and the element types of its layers.

    Attributes:
        data: Content of the plan file.
        types: Number of layers by element type.
        types_from: What counted them: the engine inspector, or the network definition
            where the plan cannot be loaded.
        layer_kind: The layers that were counted: "convolutions", or "matrix
            multiplications" of a network that has no convolution.
    """

    data: bytes
    types: Histogram
    types_from: str
    layer_kind: LayerKind = "convolutions"


@contextmanager
def _pause_collection() -> Iterator[None]:
    """Run no garbage collection while TensorRT may call back into Python.

    TensorRT calls its logger and its progress monitor while it holds a lock. A
    collection that starts there may destroy an older TensorRT object, which waits for
    the same lock for ever (seen with TensorRT-RTX 1.7.1).
    """
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_pause_collection()
def plan_from_model(
    library: Library,
    model: Model,
    arrays: Mapping[str, npt.NDArray[np.generic]],
    options: PlanOptions,
    progress: Progress,
    int8: Int8 | None = None,
) -> Plan:
    """Build the plan of a model from its wiring.

    Args:
        library: The TensorRT library that builds.
        model: The declaration.
        arrays: Weights by checkpoint name.
        options: Precision, GPU types, workspace and timing cache.
        progress: Called with the current phase of the build.
        int8: Placement and scales, for INT8.

    Returns:
        The plan.

    Raises:
        PlanError: If there is no GPU where one is needed, a GPU type is unknown, the
            library refuses the network, or the plan is not of the precision.
    """
    builder = _Builder(library, options, progress)
    network = library.create_network(builder.builder)
    progress("defining the network")
    try:
        # the builder reads the weights later, from memory that these ops own
        ops = define_network(
            library,
            network,
            model,
            arrays,
            options.precision,
            int8,
            light=options.light,
        )
    except RuntimeError as exc:  # the bindings raise it for a layer without an output
        reasons = "; ".join(builder.errors[-3:]) or str(exc)
        raise PlanError(f"{library} refused layer by layer: {reasons}") from exc
    plan = builder.build(network, model.inputs, model.batching)
    del ops
    element_type = inspection.element_type_of(options.precision)
    if plan.layer_kind == "matrix multiplications":
        element_type = "FP32"  # linear layers stay FP32 in every precision
    # TensorRT may merge the convolutions of the placement, but splits none
    expected = len(int8.placement.layers) if int8 else sum(plan.types.values())
    _require_types(plan, element_type, expected)
    return plan


@_pause_collection()
def plan_from_onnx(
    library: Library,
    data: bytes,
    inputs: tuple[Tensor, ...],
    batching: Batching,
    options: PlanOptions,
    progress: Progress,
) -> Plan:
    """Build the plan of an ONNX file through NVIDIA's parser.

    Strongly typed versions take the file's own types, so a reduced precision has to be
    in the file already.

    Args:
        library: The TensorRT library that builds.
        data: Content of the ONNX file.
        inputs: The network's inputs, without the batch.
        batching: Largest batch, and the one to tune for.
        options: Precision, GPU types, workspace and timing cache.
        progress: Called with the current phase of the build.

    Returns:
        The plan.

    Raises:
        PlanError: If the library has no parser, cannot parse the file or cannot build
            it in this precision.
    """
    if not library.has_onnx_parser:
        raise PlanError(f"{library} comes without an ONNX parser")
    if options.precision == "int8":
        raise PlanError("INT8 is placed in the wiring: build int8 without --from onnx")
    if library.strongly_typed and options.precision in {"fp16", "bf16"}:
        raise PlanError(
            f"{library} takes types from the ONNX file: convert the file to "
            f"{options.precision} and build fp32, or build without --from onnx"
        )
    builder = _Builder(library, options, progress)
    network = library.create_network(builder.builder)
    parser = library.trt.OnnxParser(network, builder.logger)
    progress("parsing the ONNX file")
    if not parser.parse(data):
        reasons = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise PlanError(f"{library} cannot parse the file: {'; '.join(reasons[:3])}")
    plan = builder.build(network, inputs, batching)
    # strongly typed versions keep the file's types; for the others only the inspector
    # knows, and it gives the types of convolutions only
    if not library.strongly_typed and plan.layer_kind == "convolutions":
        element_type = inspection.element_type_of(options.precision)
        _require_types(plan, element_type, sum(plan.types.values()))
    return plan


def _require_types(plan: Plan, element_type: str, expected: int) -> None:
    inspection.require_types(
        plan.types, plan.layer_kind, plan.types_from, element_type, expected
    )


class _Builder:
    """One build: the library's builder, its logger and its options."""

    def __init__(
        self, library: Library, options: PlanOptions, progress: Progress
    ) -> None:
        self._library = library
        self._options = options
        self._progress = progress
        self._trt = library.trt
        self.errors: list[str] = []
        self.logger = create_logger(library.trt, self.errors)
        self.builder = library.create_builder(self.logger)

    def build(
        self, network: Any, inputs: tuple[Tensor, ...], batching: Batching
    ) -> Plan:
        """Build the plan of a network; raise PlanError with the library's reasons."""
        config = self._create_config(inputs, batching)
        self._load_timing_cache(config)
        is_cancelled = self._report_progress(config)
        self._progress("building")
        serialized = self.builder.build_serialized_network(network, config)
        if is_cancelled():
            raise KeyboardInterrupt
        if serialized is None:
            raise PlanError(
                f"{self._library} could not build it: "
                f"{'; '.join(self.errors[-3:]) or 'it gave no reason'}"
            )
        self._save_timing_cache(config)
        data = bytes(serialized)
        kind = inspection.counted_kind(self._library, network)
        return Plan(data, *self._count_types(data, network, kind), kind)

    def _create_config(self, inputs: tuple[Tensor, ...], batching: Batching) -> Any:
        config = self.builder.create_builder_config()
        config.set_memory_pool_limit(
            self._trt.MemoryPoolType.WORKSPACE, self._options.workspace_bytes
        )
        self._library.configure(config, self._options.precision)
        profile = self.builder.create_optimization_profile()
        for tensor in inputs:
            sizes = (1, batching.opt_batch_size, batching.max_batch_size)
            shapes = [(size, *tensor.shape) for size in sizes]
            profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)
        self._choose_gpus(config)
        return config

    def _choose_gpus(self, config: Any) -> None:
        names, available = self._options.gpus, self._library.gpu_types
        if not available:
            if names:
                raise PlanError(
                    f"{self._library} builds for the GPU of this machine; drop --gpu"
                )
            return
        unknown = [name for name in names if name not in available]
        if unknown:
            raise PlanError(
                f"{self._library} has no GPU type {', '.join(unknown)}; it builds "
                f"for {', '.join(available)}"
            )
        if not names:
            raise PlanError(
                f"{self._library} needs to know the GPU: --gpu with one or more of "
                f"{', '.join(available)}"
            )
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            config.set_compute_capability(available[name], index)

    def _load_timing_cache(self, config: Any) -> None:
        path = self._options.timing_cache
        if path is None or not self._library.times_kernels:
            return
        data = b""
        with suppress(OSError):
            data = path.read_bytes()
        cache = config.create_timing_cache(data)
        # an old or damaged cache is no reason to fail: start a new one
        if not cache or not config.set_timing_cache(cache, False):  # noqa: FBT003
            config.set_timing_cache(config.create_timing_cache(b""), False)  # noqa: FBT003

    def _save_timing_cache(self, config: Any) -> None:
        path = self._options.timing_cache
        if path is None or not self._library.times_kernels:
            return
        with atomic_write(path) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))

    def _report_progress(self, config: Any) -> Callable[[], bool]:
        """Attach a progress monitor where the version has one.

        Returns a function that tells whether Ctrl-C has cancelled the build.
        """
        if not self._library.reports_progress:
            return lambda: False
        monitor = create_monitor(self._library, self._progress)
        config.progress_monitor = monitor
        return lambda: bool(monitor.cancelled)

    def _count_types(
        self, data: bytes, network: Any, kind: LayerKind
    ) -> tuple[Histogram, str]:
        """Count layers by element type; also return what counted them."""
        try:
            runtime = self._trt.Runtime(self.logger)
            engine = runtime.deserialize_cuda_engine(data) if runtime else None
        except Exception:  # noqa: BLE001 - pybind11 raises many types without a GPU
            engine = None
        if engine is None and not self._library.strongly_typed:
            raise PlanError("the plan was built and cannot be loaded again")
        from_network = inspection.types_from_network(self._library, network, kind)
        if engine is None:
            return from_network, "network definition (no such GPU here)"
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        types = inspection.types_from_inspector(text, kind)
        if kind != "convolutions" and not set(types) - {"other"}:
            # a small network can become one fused kernel, and 8.6 gives no type for
            # matrix multiplications of dynamic shapes; the definition's types are
            # constraints that the builder obeys
            return from_network, "network definition (the inspector gives no types)"
        return types, "engine inspector"
