"""ONNX files for the CPU: FP32, BF16 and INT8 for ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders.build.digest import graph_digest
from builders.build.onnx_import import read_imported_file, wrap_imported_file
from builders.build.source import Artefact, BuildOptions, BuildSource, int8_reference
from builders.progress import Progress
from builders.quantisation.table import Int8Table, int8_from_table
from builders.repository.runtimes.cpu_session import (
    ONNX_RUNTIME,
    OPENVINO,
    RuntimeMissingError,
    has_bf16,
)
from builders.spec.model import Model, OnnxModel
from builders.tensorrt.library import PlanError, Precision
from builders.verify.comparison import (
    compare_outputs,
    require_tolerance,
    tolerance_text,
)
from builders.verify.inputs import RunnerError, onnx_runner
from builders.verify.reference import compute_onnx_reference, compute_reference
from builders.weights import Origin

CPU_RUNTIMES: Mapping[Precision, tuple[str, ...]] = {
    "fp32": (ONNX_RUNTIME, OPENVINO),
    "bf16": (OPENVINO,),
    "int8": (ONNX_RUNTIME, OPENVINO),
}
"""Runtimes that run model.onnx on the CPU, by precision; the first is the default."""


@dataclass(frozen=True)
class CpuExporter:
    """Exporter of ONNX files for the CPU.

    Attributes:
        runtime: Runtime that will run the file.
        precision: "fp32", "bf16" or "int8".
    """

    runtime: str
    precision: Precision

    def inputs(self, source: BuildSource) -> dict[str, Any]:
        """Return everything that an ONNX file depends on, except the weights."""
        return {
            "graph": graph_digest(source.model, source.origin, "onnx"),
            "runtime": self.runtime,
            "precision": self.precision,
        }

    def compute(self, source: BuildSource, progress: Progress) -> Artefact:
        """Export a model to ONNX and compare it with the torch reference."""
        return compute_onnx(source, self.runtime, self.precision, progress)


def create_cpu_exporter(options: BuildOptions) -> CpuExporter:
    """Choose the runtime of the cpu target.

    Args:
        options: Options of the build.

    Raises:
        PlanError: No such runtime runs the precision, or this CPU does not.
        RunnerError: OpenVINO is needed and is not installed.
    """
    runtimes = CPU_RUNTIMES.get(options.precision)
    if runtimes is None:
        raise PlanError(
            f"the cpu target builds {', '.join(CPU_RUNTIMES)}, not {options.precision}"
        )
    runtime = options.runtime or runtimes[0]
    if runtime not in runtimes:
        raise PlanError(
            f"{runtime} does not run {options.precision} on the CPU; expected "
            f"{' or '.join(runtimes)}"
        )
    if options.precision == "bf16" and not _has_bf16():
        raise PlanError("this CPU does not compute in BF16 (AVX512-BF16 or AMX)")
    return CpuExporter(runtime, options.precision)


def compute_onnx(
    source: BuildSource, runtime: str, precision: Precision, progress: Progress
) -> Artefact:
    """Export a model to ONNX and compare it with the torch reference.

    Args:
        source: Model and weights.
        runtime: Runtime that will run the file.
        precision: "fp32", "bf16" or "int8".
        progress: Callback for the current work.

    Raises:
        CheckpointError: The weights cannot be read or do not fit.
        OnnxImportError: An imported ONNX file does not fit its declaration.
        QuantisationError: The INT8 table does not fit the model.
        RunnerError: The runtime is not installed.
        VerificationError: The file is outside the model's tolerance.
    """
    model = source.model
    facts: dict[str, Any] = {"runtime": runtime, "precision": precision}
    if not isinstance(model, Model):
        return _compute_imported(model, source.origin, facts)
    if source.table is not None:
        return _compute_int8(model, source, source.table, facts, progress)
    return _compute_float(model, source, facts, progress)


def _compute_imported(
    model: OnnxModel, origin: Origin, facts: Mapping[str, Any]
) -> Artefact:
    """Read an imported file; compare it behind its normalisation with itself."""
    original = read_imported_file(model, origin)
    if not model.wrapped_images:
        return Artefact(original, {**facts, "summary": "as imported"})
    data = wrap_imported_file(model, original)
    comparisons = compare_outputs(
        model,
        compute_onnx_reference(model, original, origin),
        onnx_runner(data, facts),
        "cpu",
        "fp32",
    )
    text = require_tolerance(
        comparisons,
        f"{model.name} behind its normalisation",
        tolerance_text(model.tolerance, "fp32"),
    )
    return Artefact(data, {**facts, "summary": f"behind its normalisation; {text}"})


def _compute_float(
    model: Model, source: BuildSource, facts: Mapping[str, Any], progress: Progress
) -> Artefact:
    runtime, precision = facts["runtime"], facts["precision"]
    arrays = source.load_arrays(model, progress)
    progress("running the torch reference")
    reference = compute_reference(model, arrays, source.origin)
    from builders.ops.onnx import onnx_from_model

    progress("exporting to ONNX")
    data = onnx_from_model(model, arrays).SerializeToString()
    # kinship_concat has 1.28 GB of weights, and the runtime is about to copy them
    del arrays
    progress(f"comparing {runtime} with torch")
    comparisons = compare_outputs(
        model, reference, onnx_runner(data, facts), "cpu", precision
    )
    text = require_tolerance(
        comparisons,
        f"{model.name} in {precision} by {runtime}",
        tolerance_text(model.tolerance, precision),
    )
    summary = f"{precision} by {runtime}; {text}"
    return Artefact(data, {**facts, "summary": summary})


def _compute_int8(
    model: Model,
    source: BuildSource,
    table: Int8Table,
    facts: Mapping[str, Any],
    progress: Progress,
) -> Artefact:
    int8 = int8_from_table(model, table)
    arrays = source.load_arrays(model, progress)
    from builders.ops.onnx import onnx_from_model

    progress("exporting to ONNX in INT8")
    data = onnx_from_model(model, arrays, int8).SerializeToString()
    del arrays
    progress("comparing with torch in FP32")
    reference = int8_reference(model, source.origin, source.repository, progress)
    comparisons = compare_outputs(
        model, reference, onnx_runner(data, facts), "cpu", "int8"
    )
    text = require_tolerance(
        comparisons,
        f"{model.name} in INT8",
        tolerance_text(model.tolerance, "int8"),
        int8_advice(model.name),
    )
    return Artefact(
        data,
        {
            **facts,
            "calibration": table.summary,
            "summary": f"int8 by {facts['runtime']}, {len(int8.placement.layers)} "
            f"convolutions; against FP32: {text}",
        },
    )


def int8_advice(model: str) -> str:
    """Return how to come within the tolerance of INT8, for messages.

    Args:
        model: Name of the model.
    """
    return (
        "Calibrate with more or other images or another --method; see which layers "
        f"cost most (python -m builders sensitivity {model}) and keep them float "
        "with int8_exclude; or fine-tune (finetune-int8)"
    )


def _has_bf16() -> bool:
    try:
        return has_bf16()
    except RuntimeMissingError as exc:
        raise RunnerError(str(exc)) from exc
