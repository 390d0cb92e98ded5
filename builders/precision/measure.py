"""Rows of a precision report, and the error of INT8 by number of calibration images."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from builders.build.build import build
from builders.build.cpu import CPU_RUNTIMES
from builders.build.source import (
    BuildOptions,
    compute_answers,
    int8_reference,
    load_arrays,
)
from builders.errors import BuildersError
from builders.ops.onnx import onnx_from_model
from builders.precision import timing
from builders.precision.accuracy import MeasureAccuracy
from builders.precision.timing import Times
from builders.progress import Progress, no_progress
from builders.quantisation.calibration import calibrate, compute_held_out_reference
from builders.quantisation.images import CalibrationImages
from builders.quantisation.table import (
    FINETUNED_FILE,
    HELD_OUT_FILE,
    TABLE_FILE,
    int8_from_table,
)
from builders.repository.layout import ARTEFACTS, Repository
from builders.repository.render import render_repository
from builders.repository.runtimes.cpu_session import ONNX_RUNTIME, OPENVINO
from builders.spec.catalogue import require_operations
from builders.spec.model import Model, Network
from builders.tensorrt.engine import Engine
from builders.tensorrt.library import Precision, load_library
from builders.verify.comparison import compare_outputs
from builders.verify.inputs import onnx_runner
from builders.verify.reference import ReferenceAnswers
from builders.verify.verification import (
    open_artefact,
    publish_verification,
    verify_artefact,
)
from builders.weights import Origin

RUNTIME_NAMES = {ONNX_RUNTIME: "ONNX Runtime", OPENVINO: "OpenVINO"}

TARGETS = ("torch", "cpu", "tensorrt")

SWEEP_COUNTS = (32, 64, 128, 256, 512, 1024, 5000, 20_000)
"""Numbers of calibration images that are compared."""


@dataclass(frozen=True)
class PrecisionRow:
    """One precision of one runner.

    Attributes:
        runner: "PyTorch", "ONNX Runtime", "OpenVINO", "TensorRT" ...
        precision: The precision.
        ms: Median milliseconds by batch size; empty if it could not be built.
        file_bytes: Size of the built file.
        memory_mib: Growth of the process's memory (CPU) or of the GPU's memory in use.
        convolutions: Number of layers of a plan by element type.
        parity: Distance from FP32, or the reason why it could not be built, as text.
        passed: Whether that is within the model's tolerance.
        accuracy: Headline figures on a data set.
        spread_ms: 10th and 90th percentile of the calls' milliseconds by batch size.
        weights: Origin of the weights, as text.
    """

    runner: str
    precision: str
    ms: Mapping[int, float]
    file_bytes: int | None = None
    memory_mib: float | None = None
    convolutions: Mapping[str, int] | None = None
    parity: str = ""
    passed: bool = True
    accuracy: Mapping[str, float | None] | None = None
    spread_ms: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    weights: str = ""


@dataclass(frozen=True)
class SweepPoint:
    """Error of INT8 after calibration on a number of images.

    Attributes:
        images: Number of calibration images.
        error: Distance from FP32 on held-out images (`Comparison.error`).
    """

    images: int
    error: float


def measure_precisions(
    model: Network,
    origin: Origin,
    repository: Repository,
    target: str,
    progress: Progress = no_progress,
    precisions: Sequence[str] | None = None,
    reference: ReferenceAnswers | None = None,
    measure_accuracy: MeasureAccuracy | None = None,
    publish_to: Path | None = None,
) -> Iterator[PrecisionRow]:
    """Build, compare and time a model in every precision of a target.

    Each precision is built in a temporary repository. A precision that cannot be built
    becomes a row with the reason.

    Args:
        model: The declaration.
        origin: Origin of the weights.
        repository: The repository with the model's INT8 table, if it has one.
        target: "torch", "cpu" or "tensorrt".
        progress: Called with the current runner and precision.
        precisions: Only these; all by default.
        reference: Answers to compare with; by default torch computes them here. INT8 is
            always compared on the images that its calibration held out.
        measure_accuracy: Evaluates each built file on a data set.
        publish_to: Folder of verified results that rows within the model's tolerance
            are added to; none by default.

    Yields:
        One row per precision, as soon as it is measured.
    """
    if target == "torch":
        from builders.precision.pytorch import measure_torch

        progress("PyTorch")
        declared = require_operations(model, "name other targets: --target cpu")
        arrays = load_arrays(declared, origin)
        for runner, precision, times, mib in measure_torch(declared, arrays):
            yield PrecisionRow(
                runner,
                precision,
                times.ms,
                memory_mib=mib,
                spread_ms=times.spread_ms,
                weights=str(origin),
            )
        return
    for options in _build_options(target):
        if precisions and options.precision not in precisions:
            continue
        progress(f"{options.runtime or target} {options.precision}")
        with tempfile.TemporaryDirectory() as folder:
            own = _copy_repository(repository, model, Path(folder))
            try:
                row = _measure_row(model, origin, own, target, options, reference)
            except BuildersError as exc:
                name = RUNTIME_NAMES.get(options.runtime or "", target)
                yield PrecisionRow(
                    name, options.precision, {}, parity=str(exc), passed=False
                )
                continue
            if publish_to is not None and row.passed:
                publish_verification(model, own, target, publish_to)
            if measure_accuracy is not None:
                evaluator = "onnx" if target == "cpu" else "plan"
                row = replace(row, accuracy=measure_accuracy(own, evaluator))
            yield row


def sweep_calibration(
    model: Model,
    arrays: Mapping[str, Any],
    origin: Origin,
    images: CalibrationImages,
    progress: Progress = no_progress,
) -> list[SweepPoint]:
    """Measure the error of INT8 by the number of images it is calibrated on.

    Args:
        model: The declaration.
        arrays: Weights by checkpoint name.
        origin: Origin of the weights.
        images: Images to take subsets of, and held-out ones to judge by.
        progress: Called with the current number of images.

    Returns:
        One point for each of SWEEP_COUNTS up to the number of images.

    Raises:
        QuantisationError: If the images do not suffice for calibration.
    """
    reference = compute_held_out_reference(model, arrays, origin, images)
    points = []
    total = len(images.files)
    for count in sorted({min(count, total) for count in SWEEP_COUNTS}):
        progress(f"calibrating on {count} images")
        indices = np.linspace(0, total - 1, count).astype(int)
        part = replace(images, files=tuple(images.files[i] for i in indices))
        table = calibrate(model, arrays, str(origin), part, "max")
        data = onnx_from_model(model, arrays, int8_from_table(model, table))
        run = onnx_runner(data.SerializeToString())
        comparisons = compare_outputs(model, reference, run, "cpu", "int8")
        points.append(SweepPoint(count, max(c.error for c in comparisons)))
    return points


def _build_options(target: str) -> Iterator[BuildOptions]:
    """Yield the options of every row of a target."""
    if target != "cpu":
        for precision in load_library("tensorrt").precisions:
            yield BuildOptions(precision)
        return
    for precision, runtimes in CPU_RUNTIMES.items():
        for runtime in runtimes:
            yield BuildOptions(precision, runtime=runtime)


def _copy_repository(repository: Repository, model: Network, root: Path) -> Repository:
    """Render a repository at `root` and copy the model's INT8 files, if it has any."""
    own = Repository(root)
    render_repository(own)
    copies = {
        repository.artefact_path(model.name, HELD_OUT_FILE): own.artefact_path(
            model.name, HELD_OUT_FILE
        )
    }
    for file in (TABLE_FILE, FINETUNED_FILE):
        copies[repository.folder(model.name) / file] = own.folder(model.name) / file
    for path, copy in copies.items():
        if path.is_file():
            # a model on request is not rendered before it is built
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return own


def _measure_row(
    model: Network,
    origin: Origin,
    repository: Repository,
    target: str,
    options: BuildOptions,
    reference: ReferenceAnswers | None,
) -> PrecisionRow:
    precision: Precision = options.precision
    if precision == "int8" and isinstance(model, Model):
        reference = int8_reference(model, origin, repository)
    elif reference is None:
        reference = compute_answers(model, origin, repository)
    build(target, model, origin, repository, options)
    runner, times, memory_mib, record = _time_artefact(model, repository, target)
    comparisons = verify_artefact(model, repository, target, precision, reference)
    artefact = repository.artefact_path(model.name, ARTEFACTS[target])
    return PrecisionRow(
        runner,
        precision,
        times.ms,
        artefact.stat().st_size,
        memory_mib,
        record.get("convolutions"),
        "; ".join(str(comparison) for comparison in comparisons),
        all(comparison.passed for comparison in comparisons),
        spread_ms=times.spread_ms,
        weights=str(origin),
    )


def _time_artefact(
    model: Network, repository: Repository, target: str
) -> tuple[str, Times, float, Mapping[str, Any]]:
    """Return runner, times, MiB and record of a built file."""
    used_mib = timing.resident_mib if target == "cpu" else timing.gpu_used_mib
    before_mib = used_mib()
    run, record = open_artefact(model, repository, target)
    if not isinstance(run, Engine):
        times = timing.measure_host_times(model, run)
        runtime = RUNTIME_NAMES[record["runtime"]]
        return runtime, times, used_mib() - before_mib, record
    times = timing.measure_engine_times(model, run)
    memory_mib = used_mib() - before_mib
    run.close()
    return str(record["library"]), times, memory_mib, record
