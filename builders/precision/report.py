"""The report as files: JSON that runs add to, Markdown and plots from it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders import markdown
from builders.evaluation.report import machine
from builders.precision.measure import Row, SweepPoint
from builders.spec import Model
from builders.tensorrt.engine import current_gpu
from personserve._files import atomic_write, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE = "report.json"
SHOWN_BATCHES = (1, 8, 64)


def write_report(
    folder: Path, model: Model, rows: Sequence[Row], points: Sequence[SweepPoint] = ()
) -> tuple[Path, str]:
    """Add to what `folder` has; its Markdown's path and the table. Plots are drawn
    where matplotlib is.
    """
    path = folder / REPORT_FILE
    record: dict[str, Any] = {"machines": {}, "rows": [], "sweep": []}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
    new = [asdict(row) for row in rows]
    mine = {(row["runner"], row["precision"]) for row in new}
    kept = [r for r in record["rows"] if (r["runner"], r["precision"]) not in mine]
    gpu = current_gpu()
    here = machine() | {"gpu": f"{gpu.name}, {gpu.driver}" if gpu else "none"}
    record = {
        "model": model.name,
        "machines": record["machines"] | {row.runner: here for row in rows},
        "date": time.strftime("%Y-%m-%d"),
        "rows": kept + new,
        "sweep": [asdict(point) for point in points] or record["sweep"],
    }
    # through JSON, so that a batch is the same text whether it is new or was read
    record = json.loads(json.dumps(record))
    write_text(path, json.dumps(record, indent=2) + "\n")
    table = _table(record["rows"])
    write_text(folder / "report.md", _markdown(record, table))
    if find_spec("matplotlib") is not None:
        for stem, plot in _plots(record).items():
            with atomic_write(folder / f"{stem}.png") as partial:
                plot.savefig(partial, format="png", dpi=130)
    return folder / "report.md", table


def summary(folder: Path) -> str:
    """All reports under `folder` side by side, in Markdown: ms by runner, then what
    each plan is.
    """
    paths = sorted(folder.glob(f"*/{REPORT_FILE}"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    runners = sorted({_label(r) for each in records for r in each["rows"] if r["ms"]})
    speeds, facts = [], []
    for record in records:
        times = {_label(row): row["ms"] for row in record["rows"]}
        for batch in (str(size) for size in SHOWN_BATCHES):
            found = [times.get(runner, {}).get(batch) for runner in runners]
            cells = ["-" if ms is None else f"{ms:.3f}" for ms in found]
            speeds.append([record["model"], batch, *cells])
        facts += [
            [record["model"], *_facts(row, ())]
            for row in record["rows"]
            if row["parity"]
        ]
    return (
        markdown.table(["model", "batch", *runners], speeds)
        + "\n\n"
        + markdown.table(["model", *_head(())], facts)
    )


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['runner']} {row['precision']}"


def _markdown(record: Mapping[str, Any], table: str) -> str:
    lines = [f"# Precisions of {record['model']}", "", record["date"], ""]
    for runner, facts in record["machines"].items():
        said = ", ".join(f"{key} {value}" for key, value in facts.items())
        lines.append(f"- {runner}: {said}")
    lines += ["", table, "", "![people a second](throughput.png)", ""]
    if record["sweep"]:
        cells = [[str(p["images"]), f"{p['error']:.4g}"] for p in record["sweep"]]
        lines += [
            "## INT8 by calibration images",
            "",
            markdown.table(["images", "error against FP32"], cells),
            "",
            "![sweep](sweep.png)",
            "",
        ]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each precision is, and below how fast."""
    figures = tuple(dict.fromkeys(k for row in rows for k in row["accuracy"] or ()))
    speeds = [
        [row["runner"], row["precision"], batch, *_speed(int(batch), ms)]
        for row in rows
        for batch, ms in row["ms"].items()
    ]
    return (
        markdown.table(_head(figures), [_facts(row, figures) for row in rows])
        + "\n\n"
        + markdown.table(
            ["runner", "precision", "batch", "ms", "ms a crop", "people/s"], speeds
        )
    )


def _head(figures: Sequence[str]) -> list[str]:
    kinds = ["runner", "precision", "file", "memory", "convolutions"]
    return [*kinds, *figures, "against FP32"]


def _facts(row: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    counted = row["convolutions"] or {}
    return [
        row["runner"],
        row["precision"],
        f"{row['file_bytes'] / 1e6:.1f} MB" if row["file_bytes"] else "-",
        f"{row['memory_mib']:.0f} MiB" if row["memory_mib"] else "-",
        ", ".join(f"{n} {kind}" for kind, n in counted.items()) or "-",
        *(_figure((row["accuracy"] or {}).get(key)) for key in figures),
        row["parity"] + ("" if row["passed"] else " (OUTSIDE tolerance)"),
    ]


def _speed(batch: int, ms: float) -> list[str]:
    return [f"{ms:.3f}", f"{ms / batch:.3f}", f"{batch / ms * 1e3:,.0f}"]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _plots(record: Mapping[str, Any]) -> dict[str, Figure]:
    plots = {"throughput": _throughput(record["rows"])}
    if record["sweep"]:
        plots["sweep"] = _sweep_plot(record["sweep"])
    return plots


def _throughput(rows: Sequence[Mapping[str, Any]]) -> Figure:
    from builders.evaluation.assessment import figure

    plot = figure(6.0, 4.2)
    axes = plot.subplots()
    for row in rows:
        sizes = [int(size) for size in row["ms"]]
        rates = [int(size) / ms * 1e3 for size, ms in row["ms"].items()]
        if sizes:
            axes.plot(sizes, rates, marker="o", label=_label(row))
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
