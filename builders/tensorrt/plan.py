"""Building plans: a network definition, a builder config, bytes.

From a model's wiring (the usual way) or from an ONNX file through NVIDIA's parser. The
timing cache is kept between builds; progress is reported where the version does, and
a build that is interrupted ends early and leaves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.ops.placement import Int8
from builders.ops.tensorrt import define_network
from builders.spec import Batching, Model, Tensor
from builders.tensorrt.engine import collecting_logger
from builders.tensorrt.library import Library, PlanError, Precision
from personserve._files import atomic_write

Report = Callable[[str], None]
Histogram = dict[str, int]

DEFAULT_WORKSPACE_BYTES = 4 << 30

TYPE_WORDS = {
    "FP16": ("half", "fp16"),
    "BF16": ("bfloat16", "bf16"),
    "FP32": ("float", "fp32"),
    "INT8": ("int8",),
}
"""How the engine inspectors of different versions spell element types."""


@dataclass(frozen=True)
class PlanOptions:
    """How to build. `gpus` names GPU types for libraries that build without one."""

    precision: Precision = "fp32"
    gpus: tuple[str, ...] = ()
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A serialised plan and what is known about it. `types` counts its layers by
    element type; `types_from` says who counted.
    """

    data: bytes
    types: Histogram
    types_from: str


def plan_from_model(
    library: Library,
    model: Model,
    arrays: Mapping[str, npt.NDArray[np.generic]],
    options: PlanOptions,
    report: Report,
    int8: Int8 | None = None,
) -> Plan:
    """The plan of `model` with `arrays` as weights. Raises PlanError."""
    with_builder = _Builder(library, options, report)
    network = library.create_network(with_builder.builder)
    report("defining the network")
    try:
        kept = define_network(library, network, model, arrays, options.precision, int8)
    except RuntimeError as exc:  # a layer without an output, as the bindings say it
        reasons = "; ".join(with_builder.errors[-3:]) or str(exc)
        raise PlanError(f"{library} refused layer by layer: {reasons}") from exc
    plan = with_builder.build(network, model.inputs, model.batching)
    del kept
    # of what the placement says; the library merges some and splits none
    wanted = len(int8.placement.layers) if int8 else sum(plan.types.values())
    _require_precision(plan, options.precision, wanted)
    return plan


def plan_from_onnx(
    library: Library,
    data: bytes,
    inputs: tuple[Tensor, ...],
    batching: Batching,
    options: PlanOptions,
    report: Report,
) -> Plan:
    """The plan of an ONNX file through NVIDIA's parser. Raises PlanError.

    Strongly typed versions take the file's own types, so that a reduced precision has
    to be in the file already.
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
    with_builder = _Builder(library, options, report)
    network = library.create_network(with_builder.builder)
    parser = library.trt.OnnxParser(network, with_builder.logger)
    report("parsing the ONNX file")
    if not parser.parse(data):
        reasons = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise PlanError(f"{library} cannot parse the file: {'; '.join(reasons[:3])}")
    plan = with_builder.build(network, inputs, batching)
    _require_precision(plan, options.precision, sum(plan.types.values()))
    return plan


class _Builder:
    """A builder, its logger, and one build."""

    def __init__(self, library: Library, options: PlanOptions, report: Report) -> None:
        self._library = library
        self._options = options
        self._report = report
        self._trt = library.trt
        self.errors: list[str] = []
        self.logger = collecting_logger(library.trt, self.errors)
        builder = self._trt.Builder(self.logger)
        if not builder:
            raise PlanError(
                f"{library} cannot create a builder: it needs an NVIDIA GPU and its "
                "driver. TensorRT-RTX builds without one (--target rtx --gpu sm_86)"
            )
        self.builder = builder

    def build(
        self, network: Any, inputs: tuple[Tensor, ...], batching: Batching
    ) -> Plan:
        """The plan of `network`. Raises PlanError with the library's own reasons."""
        config = self._config(inputs, batching)
        self._load_timing_cache(config)
        cancelled = self._watch(config)
        self._report("building")
        serialized = self.builder.build_serialized_network(network, config)
        if cancelled():
            raise KeyboardInterrupt
        if serialized is None:
            raise PlanError(
                f"{self._library} could not build it: "
                f"{'; '.join(self.errors[-3:]) or 'it gave no reason'}"
            )
        self._save_timing_cache(config)
        data = bytes(serialized)
        return Plan(data, *self._types(data, network))

    def _config(self, inputs: tuple[Tensor, ...], batching: Batching) -> Any:
        config = self.builder.create_builder_config()
        config.set_memory_pool_limit(
            self._trt.MemoryPoolType.WORKSPACE, self._options.workspace_bytes
        )
        self._library.configure(config, self._options.precision)
        profile = self.builder.create_optimization_profile()
        for tensor in inputs:
            shapes = [(n, *tensor.shape) for n in (1, batching.usual, batching.maximum)]
            profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)
        self._choose_gpus(config)
        return config

    def _choose_gpus(self, config: Any) -> None:
        wanted, known = self._options.gpus, self._library.gpus()
        if not known:
            if wanted:
                raise PlanError(
                    f"{self._library} builds for the GPU of this machine; drop --gpu"
                )
            return
        strangers = [name for name in wanted if name not in known]
        if strangers:
            raise PlanError(
                f"{self._library} has no GPU type {', '.join(strangers)}; it builds "
                f"for {', '.join(known)}"
            )
        if not wanted:
            raise PlanError(
                f"{self._library} needs to know the GPU: --gpu with one or more of "
                f"{', '.join(known)}"
            )
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            config.set_compute_capability(known[name], index)

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

    def _watch(self, config: Any) -> Callable[[], bool]:
        """Report progress and end on Ctrl-C where the version allows it; the returned
        function says whether that happened.
        """
        if not self._library.reports_progress:
            return lambda: False
        monitor = _progress_monitor(self._library, self._report)
        config.progress_monitor = monitor
        return lambda: bool(monitor.cancelled)

    def _types(self, data: bytes, network: Any) -> tuple[Histogram, str]:
        try:
            runtime = self._trt.Runtime(self.logger)
            engine = runtime.deserialize_cuda_engine(data) if runtime else None
        except Exception:  # noqa: BLE001 - pybind raises what it likes without a GPU
            engine = None
        if engine is not None:
            inspector = engine.create_engine_inspector()
            text = inspector.get_engine_information(
                self._trt.LayerInformationFormat.JSON
            )
            return types_from_inspector(text), "engine inspector"
        if not self._library.strongly_typed:
            raise PlanError("the plan was built and cannot be loaded again")
        return self._types_from_network(
            network
        ), "network definition (no such GPU here)"

    def _types_from_network(self, network: Any) -> Histogram:
        names = {
            self._trt.float32: "FP32",
            self._trt.float16: "FP16",
            self._trt.bfloat16: "BF16",
            self._trt.int8: "INT8",
        }
        types: Histogram = {}
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if layer.type == self._trt.LayerType.CONVOLUTION:
                name = names.get(layer.get_output(0).dtype, "other")
                # a kernel that is a tensor comes out of Q/DQ
                name = "INT8" if layer.num_inputs > 1 else name
                types[name] = types.get(name, 0) + 1
        return types


def types_from_inspector(text: str) -> Histogram:
    """Convolutions by element type, from an engine inspector's JSON: the kernel's,
    or else the first input's.
    """
    types: Histogram = {}
    for layer in json.loads(text)["Layers"]:
        if not isinstance(layer, Mapping):
            continue
        kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
        if "conv" not in kind:
            continue
        # with dynamic shapes 8.6 tells no tensor's type, but always the kernel's
        first = layer["Weights"] if "Weights" in layer else layer["Inputs"][0]
        words = " ".join(
            str(first.get(key, "")) for key in ("Type", "Datatype", "Format/Datatype")
        )
        name = _type_name(words)
        types[name] = types.get(name, 0) + 1
    return types


def _type_name(words: str) -> str:
    lower = words.lower()
    for name, spellings in TYPE_WORDS.items():
        if any(spelling in lower for spelling in spellings):
            return name
    return "other"


def _require_precision(plan: Plan, precision: Precision, wanted: int) -> None:
    """Raises PlanError unless most of `wanted` convolutions are in `precision`."""
    kind = {"tf32": "FP32"}.get(precision, precision.upper())
    if plan.types and plan.types.get(kind, 0) * 2 <= wanted:
        raise PlanError(
            f"the plan is not {precision}: {wanted} convolutions should be, and the "
            f"{plan.types_from} counts {plan.types}; nothing was written"
        )


def _progress_monitor(library: Library, report: Report) -> Any:
    class Monitor(library.trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Says which phase the builder is in; Ctrl-C arrives here."""

        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            self._steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            try:
                report(f"building: {name} {step + 1}/{self._steps.get(name, 0)}")
            except KeyboardInterrupt:
                self.cancelled = True
            return not self.cancelled

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)

    return Monitor()
