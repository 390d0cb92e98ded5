"""Building and measuring the rows of a precision report, and its sweep."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builders.build import (
    CPU_RUNTIMES,
    ONNX_FILE,
    PLAN_FILE,
    BuildOptions,
    build,
    int8_check,
    load,
    render,
)
from builders.check import Check, measures, reference_check
from builders.parity import ParityError
from builders.precision import timing
from builders.precision.timing import Times
from builders.quantisation.table import (
    CHECK_FILE,
    FILE,
    FINETUNED_FILE,
    QuantisationError,
    int8_of,
)
from builders.repository import Repository
from builders.runtimes.cpu_session import (
    ONNX_RUNTIME,
    OPENVINO,
    RuntimeMissingError,
)
from builders.spec import Model
from builders.tensorrt.engine import Engine
from builders.tensorrt.library import PlanError, Precision, load_library
from builders.verify import built_runner, verify_built
from builders.weights import Origin

if TYPE_CHECKING:
    from builders.quantisation.calibration import Images

RUNNERS = {ONNX_RUNTIME: "ONNX Runtime", OPENVINO: "OpenVINO"}

TARGETS = ("torch", "cpu", "tensorrt")

SWEEP = (32, 64, 128, 256, 512, 1024, 5000, 20_000)

Told = Callable[[str], None]
Accuracy = Callable[[Repository, str], Mapping[str, float | None]]


@dataclass(frozen=True)
class Row:
    """One precision of one runner. `ms` is the median of a batch by its size,
    `memory_mib` what the process (or what is used of the GPU) grew by, `convolutions`
    {type: how many} of a plan, `parity` the distance from FP32 in words, and `accuracy`
    a data set's headline figures.
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


@dataclass(frozen=True)
class SweepPoint:
    """INT8 calibrated on `images` images: its distance from FP32 on held-out ones."""

    images: int
    error: float


def measure_precisions(
    model: Model,
    origin: Origin,
    repository: Repository,
    target: str,
    told: Told,
    only: Sequence[str] | None = None,
    check: Check | None = None,
    accuracy: Accuracy | None = None,
) -> Iterator[Row]:
    """A row for every precision that `target` builds here from the weights of `origin`,
    or for `only` some, as each is done. What keeps the model's tolerance is noted as
    verified.

    Judged against `check`, or, where there is none, against torch here and now; INT8
    always against what its calibration held out.
    """
    if target == "torch":
        from builders.precision.pytorch import torch_times

        told("PyTorch")
        arrays = load(model, origin).arrays
        for runner, precision, ms, mib in torch_times(model, arrays):
            yield Row(runner, precision, ms, memory_mib=mib)
        return
    cpu = target == "cpu"
    for runtime, precision in _ways(target):
        if only and precision not in only:
            continue
        told(f"{runtime or target} {precision}")
        options = BuildOptions(precision, runtime=runtime)
        with tempfile.TemporaryDirectory() as folder:
            own = _copied(repository, model, Path(folder))
            try:
                judge = _judge(model, origin, own, precision, check)
                row = _row(model, origin, own, target, options, judge)
            except (
                ParityError,
                PlanError,
                QuantisationError,
                RuntimeMissingError,
            ) as exc:
                name = RUNNERS.get(runtime or "", target)
                yield Row(name, precision, {}, parity=str(exc), passed=False)
                continue
            for what, facts in own.verifications(model.name).items():
                repository.add_verification(model.name, what, facts)
            if accuracy is not None:
                row = replace(row, accuracy=accuracy(own, "onnx" if cpu else "plan"))
            yield row


def sweep(
    model: Model, arrays: Any, origin: Origin, images: Images, told: Told
) -> list[SweepPoint]:
    """How far INT8 is from FP32 by the number of images it is calibrated on."""
    from builders.ops.onnx import onnx_from_model
    from builders.parity import onnx_runner
    from builders.quantisation.calibration import calibrate, held_out_check

    check = held_out_check(model, arrays, origin, images)
    points = []
    total = len(images.files)
    for count in sorted({min(count, total) for count in SWEEP}):
        told(f"calibrating on {count} images")
        places = np.linspace(0, total - 1, count).astype(int)
        part = replace(images, files=tuple(images.files[i] for i in places))
        table = calibrate(model, arrays, str(origin), part, "max", lambda *_: None)
        data = onnx_from_model(model, arrays, int8_of(model, table))
        run = onnx_runner(data.SerializeToString())
        found = measures(model, check, run, "cpu", "int8")
        points.append(SweepPoint(count, max(measure.error for measure in found)))
    return points


def _ways(target: str) -> Iterator[tuple[str | None, Precision]]:
    """(runtime, precision) of every row of a target."""
    if target != "cpu":
        for precision in load_library("tensorrt").precisions:
            yield None, precision
        return
    for precision, runtimes in CPU_RUNTIMES.items():
        for runtime in runtimes:
            yield runtime, precision


def _copied(repository: Repository, model: Model, root: Path) -> Repository:
    """A repository of its own with the model's INT8 table, if it has one."""
    own = Repository(root)
    render(own)
    for path in (
        repository.folder(model.name) / FILE,
        repository.folder(model.name) / FINETUNED_FILE,
        repository.built(model.name, CHECK_FILE),
    ):
        if path.is_file():
            copy = root / path.relative_to(repository.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return own


def _judge(
    model: Model,
    origin: Origin,
    repository: Repository,
    precision: Precision,
    check: Check | None,
) -> Check:
    if precision == "int8":
        return int8_check(model, origin, repository, lambda _doing: None)
    return check or reference_check(model, load(model, origin).arrays, origin)


def _row(
    model: Model,
    origin: Origin,
    repository: Repository,
    target: str,
    options: BuildOptions,
    check: Check,
) -> Row:
    precision = options.precision
    build(target, model, origin, repository, options, lambda _doing: None)
    runner, times, memory_mib, record = _timed(model, repository, target)
    found = verify_built(model, repository, target, precision, check)
    file = ONNX_FILE if target == "cpu" else PLAN_FILE
    return Row(
        runner,
        precision,
        times,
        repository.built(model.name, file).stat().st_size,
        memory_mib,
        record.get("convolutions"),
        "; ".join(str(measure) for measure in found),
        all(measure.passed for measure in found),
    )


def _timed(
    model: Model, repository: Repository, target: str
) -> tuple[str, Times, float, Mapping[str, Any]]:
    """(runner, times, MiB, record) of what was built."""
    used_mib = timing.resident_mib if target == "cpu" else timing.gpu_used_mib
    before = used_mib()
    run, record = built_runner(model, repository, target)
    if not isinstance(run, Engine):
        times = timing.host_times(model, run)
        return RUNNERS[record["runtime"]], times, used_mib() - before, record
    times = timing.engine_times(model, run)
    taken = used_mib() - before
    run.close()
    return str(record["library"]), times, taken, record
