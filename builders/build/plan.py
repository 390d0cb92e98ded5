"""Plans of TensorRT and TensorRT-RTX, with the facts that their records keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.build.cpu import compute_onnx, int8_advice
from builders.build.digest import GraphFormat, graph_digest
from builders.build.source import Artefact, BuildOptions, BuildSource, int8_reference
from builders.progress import Progress
from builders.quantisation.table import int8_from_table
from builders.repository.layout import ROOT
from builders.repository.runtimes.cpu_session import ONNX_RUNTIME
from builders.spec.model import Model, Network
from builders.tensorrt.engine import current_gpu
from builders.tensorrt.library import Library, PlanError
from builders.tensorrt.plan import (
    Plan,
    PlanOptions,
    plan_from_model,
    plan_from_onnx,
)
from builders.verify.comparison import (
    compare_outputs,
    require_tolerance,
    tolerance_text,
)
from builders.weights import StandIn

TIMING_CACHES = ROOT / ".timing"


@dataclass(frozen=True)
class PlanExporter:
    """Exporter of plans.

    Attributes:
        library: TensorRT library that builds the plan.
        options: Options of the build.
    """

    library: Library
    options: BuildOptions

    def inputs(self, source: BuildSource) -> dict[str, Any]:
        """Return everything that a plan depends on, except the weights."""
        gpu = current_gpu()
        own_gpu = [gpu.capability] if gpu and not self.library.chooses_gpu else []
        graph_format = plan_format(source.model, from_onnx=self.options.from_onnx)
        return {
            "graph": graph_digest(source.model, source.origin, graph_format),
            "library": str(self.library),
            "precision": self.options.precision,
            "gpus": list(self.options.gpus) or own_gpu,
            "from_onnx": self.options.from_onnx,
            "profile": _profile(source),
        }

    def compute(self, source: BuildSource, progress: Progress) -> Artefact:
        """Build a plan, and judge one in INT8 where a GPU is here to run it.

        The comparison of all others with the reference is left to `verify`.
        """
        model, table = source.model, source.table
        plan_options = PlanOptions(
            self.options.precision, self.options.gpus, timing_cache=self._timing_cache()
        )
        if isinstance(model, Model) and not self.options.from_onnx:
            arrays = source.load_arrays(model, progress)
            int8 = int8_from_table(model, table) if table else None
            plan = plan_from_model(
                self.library, model, arrays, plan_options, progress, int8
            )
        else:
            onnx_file = compute_onnx(source, ONNX_RUNTIME, "fp32", progress)
            plan = plan_from_onnx(
                self.library,
                onnx_file.data,
                model.inputs,
                model.batching,
                plan_options,
                progress,
            )
        facts = _plan_facts(self.library, source, self.options, plan)
        if self.options.precision == "int8" and self._runs_here():
            text = judge_int8_plan(self.library, source, plan.data, progress)
            facts["summary"] += f"; against FP32: {text}"
        return Artefact(plan.data, facts)

    def _runs_here(self) -> bool:
        """Return whether this machine has a GPU that the plan is for."""
        gpu = current_gpu()
        return gpu is not None and gpu.capability in (
            self.options.gpus or (gpu.capability,)
        )

    def _timing_cache(self) -> Path:
        gpu = current_gpu()
        capability = gpu.capability if gpu else "none"
        return TIMING_CACHES / (
            f"{self.library.target}-{self.library.version}-{capability}"
        )


def judge_int8_plan(
    library: Library, source: BuildSource, plan: bytes, progress: Progress
) -> str:
    """Run a plan in INT8 and require that it is within the model's tolerance.

    Args:
        library: Library that built the plan.
        source: Model and weights, with the INT8 table.
        plan: The plan.
        progress: Callback for the current work.

    Returns:
        The comparison as one line of text.

    Raises:
        PlanError: The plan cannot be loaded or run.
        VerificationError: The plan is outside the tolerance.
    """
    model = source.model
    if not isinstance(model, Model):
        raise PlanError(f"{model.name}: an imported file has no plan in INT8")
    progress("comparing with torch in FP32")
    reference = int8_reference(model, source.origin, source.repository, progress)
    engine = library.load_engine(plan)
    try:
        comparisons = compare_outputs(model, reference, engine, library.target, "int8")
    finally:
        engine.close()
    return require_tolerance(
        comparisons,
        f"{model.name} in INT8 by {library}",
        tolerance_text(model.tolerance, "int8"),
        int8_advice(model.name),
    )


def plan_format(model: Network, *, from_onnx: bool) -> GraphFormat:
    """Return how a model's operations reach a plan.

    Args:
        model: Model that is built.
        from_onnx: Whether NVIDIA's ONNX parser was asked for.
    """
    return "plan" if isinstance(model, Model) and not from_onnx else "parser"


def _plan_facts(
    library: Library, source: BuildSource, options: BuildOptions, plan: Plan
) -> dict[str, Any]:
    model, gpu = source.model, current_gpu()
    tensors = {t.name: t for t in (*model.inputs, *model.output_tensors)}
    counts = ", ".join(f"{n} {kind}" for kind, n in plan.types.items())
    return {
        "library": library.name,
        "version": library.version,
        "gpus": list(options.gpus) or ([gpu.capability] if gpu else []),
        "gpu_name": gpu.name if gpu else None,
        "precision": options.precision,
        "profile": _profile(source),
        "tensors": {n: [t.data_type, *t.shape] for n, t in tensors.items()},
        "weights": str(source.origin),
        "stand_in": isinstance(source.origin, StandIn),
        "calibration": source.table.summary if source.table else None,
        plan.layer_kind.replace(" ", "_"): plan.types,
        "types_from": plan.types_from,
        "parity": None,
        "summary": f"{library}, {options.precision}, {plan.layer_kind}: "
        f"{counts or 'none'} ({plan.types_from})",
    }


def _profile(source: BuildSource) -> list[int]:
    """Return the smallest, the usual and the largest batch size."""
    batching = source.model.batching
    return [1, batching.opt_batch_size, batching.max_batch_size]
