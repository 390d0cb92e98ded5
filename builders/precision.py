"""The precision report of a model: what each precision costs and gives, side by side.

Every precision of a target is built in a folder of its own and run in this process:
time by batch, memory, file size, distance from FP32, and accuracy where there is a data
set. A sweep over the number of calibration images says how many INT8 needs (seed 003's
table 3). What was measured stays in report.json, so that a second target, or PyTorch on
another Python, adds its rows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builders import markdown
from builders.build import (
    CPU_PRECISIONS,
    ONNX_FILE,
    PLAN_FILE,
    BuildOptions,
    build,
    int8_check,
    load,
    render,
)
from builders.check import Check, measures, reference_check
from builders.evaluation.report import machine
from builders.parity import ParityError, Runner
from builders.quantisation.table import (
    CHECK_FILE,
    FILE,
    FINETUNED_FILE,
    QuantisationError,
)
from builders.repository import Repository, atomic_write, write_text
from builders.spec import Model
from builders.tensorrt.engine import current_gpu
from builders.tensorrt.library import PlanError, Precision, load_library
from builders.verify import built_runner
from builders.weights import Origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from builders.quantisation.calibration import Images

LARGEST_BATCH = 512
SECONDS_A_BATCH = 1.0
MOST_RUNS = 100
PAGE_BYTES = 4096
SWEEP = (32, 64, 128, 256, 512, 1024, 5000, 20_000)
REPORT_FILE = "report.json"

Told = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One precision of one runner. `ms` is the median of a batch by its size,
    `memory_mib` what the process grew by, `parity` the distance from FP32 in words, and
    `accuracy` a data set's headline figures.
    """

    runner: str
    precision: str
    ms: Mapping[int, float]
    file_bytes: int | None = None
    memory_mib: float | None = None
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
    accuracy: Callable[[Repository, str], Mapping[str, float | None]] | None = None,
) -> list[Row]:
    """A row for PyTorch, and for every precision that `target` builds here."""
    rows = [_torch_row(model, origin, told)]
    names = CPU_PRECISIONS if target == "cpu" else load_library("tensorrt").precisions
    for precision in names:
        told(f"{target} {precision}")
        with tempfile.TemporaryDirectory() as folder:
            own = _copied(repository, model, Path(folder))
            try:
                rows.append(_row(model, origin, own, target, precision, accuracy))
            except (ParityError, PlanError, QuantisationError) as exc:
                rows.append(Row(target, precision, {}, parity=str(exc), passed=False))
    return rows


def sweep(
    model: Model, arrays: Any, origin: Origin, images: Images, told: Told
) -> list[SweepPoint]:
    """How far INT8 is from FP32 by the number of images it is calibrated on."""
    from builders.ops.onnx import onnx_from_model
    from builders.parity import onnx_runner
    from builders.quantisation.calibration import calibrate, held_out_check
    from builders.quantisation.table import int8_of

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


def write_report(
    folder: Path, model: Model, rows: Sequence[Row], points: Sequence[SweepPoint]
) -> tuple[Path, str]:
    """Add to what `folder` has; its Markdown's path and the table."""
    path = folder / REPORT_FILE
    record: dict[str, Any] = {"rows": [], "sweep": []}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
    new = [asdict(row) for row in rows]
    mine = {(row["runner"], row["precision"]) for row in new}
    kept = [r for r in record["rows"] if (r["runner"], r["precision"]) not in mine]
    gpu = current_gpu()
    record = {
        "model": model.name,
        "machine": machine() | {"gpu": gpu.name if gpu else "none"},
        "date": time.strftime("%Y-%m-%d"),
        "rows": kept + new,
        "sweep": [asdict(point) for point in points] or record["sweep"],
    }
    # through JSON, so that a batch is the same text whether it is new or was read
    record = json.loads(json.dumps(record))
    write_text(path, json.dumps(record, indent=2) + "\n")
    table = _table(record["rows"])
    text = f"# Precisions of {model.name}\n\n{record['machine']}, {record['date']}\n\n"
    text += table + "\n\n![people a second](throughput.png)\n"
    plots = {"throughput": _throughput(record["rows"])}
    if record["sweep"]:
        text += "\n## INT8 by calibration images\n\n" + markdown.table(
            ["images", "error against FP32"],
            [[str(p["images"]), f"{p['error']:.4g}"] for p in record["sweep"]],
        )
        text += "\n\n![sweep](sweep.png)\n"
        plots["sweep"] = _sweep_plot(record["sweep"])
    for stem, plot in plots.items():
        with atomic_write(folder / f"{stem}.png") as partial:
            plot.savefig(partial, format="png", dpi=130)
    write_text(folder / "report.md", text)
    return folder / "report.md", table


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


def _torch_row(model: Model, origin: Origin, told: Told) -> Row:
    from builders.ops.torch import Reference

    told("PyTorch fp32")
    arrays = load(model, origin).arrays
    before = _resident_mib()
    run = Reference(model, arrays)
    ms = _times(model, run)
    return Row("PyTorch", "fp32", ms, memory_mib=_resident_mib() - before)


def _row(
    model: Model,
    origin: Origin,
    repository: Repository,
    target: str,
    precision: Precision,
    accuracy: Callable[[Repository, str], Mapping[str, float | None]] | None,
) -> Row:
    options = BuildOptions(precision)
    build(target, model, origin, repository, options, lambda _doing: None)
    check = _check(model, origin, repository, precision)
    before = _resident_mib()
    run, record = built_runner(model, repository, target)
    ms = _times(model, run)
    memory_mib = _resident_mib() - before
    found = measures(model, check, run, target, precision)
    file = ONNX_FILE if target == "cpu" else PLAN_FILE
    name = "onnx" if target == "cpu" else "plan"
    return Row(
        "ONNX Runtime" if target == "cpu" else f"{record['library']}",
        precision,
        ms,
        repository.built(model.name, file).stat().st_size,
        memory_mib,
        "; ".join(str(measure) for measure in found),
        all(measure.passed for measure in found),
        accuracy(repository, name) if accuracy else None,
    )


def _check(
    model: Model, origin: Origin, repository: Repository, precision: Precision
) -> Check:
    if precision == "int8":
        return int8_check(model, origin, repository, lambda _doing: None)
    return reference_check(model, load(model, origin).arrays, origin)


def _times(model: Model, run: Runner) -> dict[int, float]:
    """Median ms of a batch, by its size: 1, 2, 4 ... the model's largest."""
    rng = np.random.default_rng(0)
    largest = min(model.batching.maximum, LARGEST_BATCH)
    sizes = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    found = {}
    for size in sizes:
        inputs = {
            tensor.name: rng.integers(0, 256, (size, *tensor.shape), dtype=np.uint8)
            for tensor in model.inputs
        }
        run(**inputs)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < MOST_RUNS and (
            len(times) < 3 or time.perf_counter() - began < SECONDS_A_BATCH
        ):
            start = time.perf_counter()
            run(**inputs)
            times.append(time.perf_counter() - start)
        found[size] = float(np.median(times)) * 1e3
    return found


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * PAGE_BYTES / (1 << 20)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each precision is, and below how fast."""
    figures = list(dict.fromkeys(k for row in rows for k in row["accuracy"] or ()))
    head = ["runner", "precision", "file", "memory", *figures, "against FP32"]
    facts = [
        [
            row["runner"],
            row["precision"],
            f"{row['file_bytes'] / 1e6:.1f} MB" if row["file_bytes"] else "-",
            f"{row['memory_mib']:.0f} MiB" if row["memory_mib"] else "-",
            *(_figure((row["accuracy"] or {}).get(key)) for key in figures),
            row["parity"] + ("" if row["passed"] else " (OUTSIDE tolerance)"),
        ]
        for row in rows
    ]
    speeds = [
        [row["runner"], row["precision"], batch, *_speed(int(batch), ms)]
        for row in rows
        for batch, ms in row["ms"].items()
    ]
    return (
        markdown.table(head, facts)
        + "\n\n"
        + markdown.table(
            ["runner", "precision", "batch", "ms", "ms a crop", "people/s"], speeds
        )
    )


def _speed(batch: int, ms: float) -> list[str]:
    return [f"{ms:.2f}", f"{ms / batch:.2f}", f"{batch / ms * 1e3:.0f}"]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _throughput(rows: Sequence[Mapping[str, Any]]) -> Figure:
    from builders.evaluation.assessment import figure

    plot = figure(6.0, 4.2)
    axes = plot.subplots()
    for row in rows:
        sizes = [int(size) for size in row["ms"]]
        rates = [int(size) / ms * 1e3 for size, ms in row["ms"].items()]
        if sizes:
            label = f"{row['runner']} {row['precision']}"
            axes.plot(sizes, rates, marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel="batch", ylabel="people a second", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return plot


def _sweep_plot(points: Sequence[Mapping[str, Any]]) -> Figure:
    from builders.evaluation.assessment import figure

    plot = figure()
    axes = plot.subplots()
    axes.plot([p["images"] for p in points], [p["error"] for p in points], marker="o")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel="calibration images", ylabel="error against FP32", ylim=(0, None))
    axes.grid(alpha=0.3)
    return plot
