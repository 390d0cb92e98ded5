"""Files of the precision report: JSON that runs add to, and a page from it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.precision.measure import PrecisionRow, SweepPoint
from builders.repository.built_files import shorten_weights
from builders.spec.model import Network
from builders.tensorrt.engine import current_gpu
from builders.weights import stand_in_warning
from personserve.internal import markdown
from personserve.internal.figures import (
    can_draw,
    draw_series,
    new_figure,
    place_legend,
)
from personserve.internal.machine import describe_machine
from personserve.internal.report import REPORT_FILE, Report
from personserve.internal.sections import Plot, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY_BATCHES = (1, 8, 64)
"""Batch sizes in the summary of several reports."""


def write_report(
    folder: Path,
    model: Network,
    rows: Sequence[PrecisionRow],
    points: Sequence[SweepPoint] = (),
) -> tuple[Path, Report]:
    """Add rows to the report in a folder, and write it again.

    Args:
        folder: Folder of the report, which may have rows of earlier runs.
        model: The declaration.
        rows: New rows; they replace those of the same runner and precision.
        points: New points of the calibration sweep; they replace earlier ones.

    Returns:
        The path of the HTML page, and the report.
    """
    record = _merge_record(folder / REPORT_FILE, model, rows, points)
    report = _make_report(record)
    return report.write(folder), report


def _merge_record(
    path: Path,
    model: Network,
    rows: Sequence[PrecisionRow],
    points: Sequence[SweepPoint],
) -> dict[str, Any]:
    record: dict[str, Any] = {"machines": {}, "rows": [], "sweep": []}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
    new = [asdict(row) for row in rows]
    replaced = {(row["runner"], row["precision"]) for row in new}
    earlier = [
        row
        for row in record["rows"]
        if (row["runner"], row["precision"]) not in replaced
    ]
    gpu = current_gpu()
    machine = describe_machine()
    machine |= {"gpu": f"{gpu.name}, {gpu.driver}" if gpu else "none"}
    record = {
        "model": model.name,
        "machines": record["machines"] | {row.runner: machine for row in rows},
        "date": time.strftime("%Y-%m-%d"),
        "rows": earlier + new,
        "sweep": [asdict(point) for point in points] or record["sweep"],
    }
    # through JSON, so that new batch sizes are text like those of earlier rows
    merged: dict[str, Any] = json.loads(json.dumps(record))
    return merged


def _make_report(record: Mapping[str, Any]) -> Report:
    weights = sorted({row.get("weights", "") for row in record["rows"]} - {""})
    runners: dict[str, list[str]] = {}
    for runner, machine in record["machines"].items():
        text = ", ".join(f"{key} {value}" for key, value in machine.items())
        runners.setdefault(text, []).append(runner)
    machines = {f"machine of {', '.join(v)}": text for text, v in runners.items()}
    facts = {"date": record["date"], "weights": "; ".join(weights) or "-", **machines}
    return Report(
        f"Precisions of {record['model']}",
        facts,
        record,
        _list_sections(record),
        warning=stand_in_warning(*weights),
        mark=f"{record['model']}, weights: {'; '.join(map(shorten_weights, weights))}",
    )


def _list_sections(record: Mapping[str, Any]) -> list[Section]:
    sections: list[Section] = []
    if can_draw():
        plot = _draw_throughput(record["rows"])
        sections.append(Plot("Throughput by batch size", plot, "throughput"))
    sections += _tabulate_rows(record["rows"])
    if record["sweep"]:
        cells = [[str(p["images"]), f"{p['error']:.4g}"] for p in record["sweep"]]
        head = ["images", "error against FP32"]
        sections.append(Table("INT8 by calibration images", head, cells))
        if can_draw():
            plot = _draw_sweep(record["sweep"])
            sections.append(Plot("Error by calibration images", plot, "sweep"))
    return sections


def summarise_reports(folder: Path) -> str:
    """Put all reports below a folder side by side.

    Args:
        folder: Folder with one report folder per model.

    Returns:
        Two Markdown tables: milliseconds by runner, then the facts of each row.
    """
    paths = sorted(folder.glob(f"*/{REPORT_FILE}"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    runners = sorted({_label(r) for each in records for r in each["rows"] if r["ms"]})
    speeds, facts = [], []
    for record in records:
        times = {_label(row): row["ms"] for row in record["rows"]}
        for batch in (str(size) for size in SUMMARY_BATCHES):
            medians = [times.get(runner, {}).get(batch) for runner in runners]
            cells = ["-" if ms is None else f"{ms:.3f}" for ms in medians]
            speeds.append([record["model"], batch, *cells])
        facts += [
            [record["model"], *_facts(row, ())]
            for row in record["rows"]
            if row["parity"]
        ]
    return (
        markdown.format_table(["model", "batch", *runners], speeds)
        + "\n\n"
        + markdown.format_table(["model", *_head(())], facts)
    )


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['runner']} {row['precision']}"


def _tabulate_rows(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return a table of the precisions' facts, and one of their speeds."""
    figures = tuple(dict.fromkeys(k for row in rows for k in row["accuracy"] or ()))
    facts = [_facts(row, figures) for row in rows]
    speeds = [
        [row["runner"], row["precision"], batch, *_speed(row, batch)]
        for row in rows
        for batch in row["ms"]
    ]
    head = ["runner", "precision", "batch", "ms", "p10 to p90", "ms per crop"]
    note = "Median of the calls. p10 to p90 is their spread on this machine."
    return [
        Table("Precisions", _head(figures), facts),
        Table("Speed", [*head, "crops/s"], speeds, note),
    ]


def _head(figures: Sequence[str]) -> list[str]:
    kinds = ["runner", "precision", "file", "memory", "convolutions"]
    return [*kinds, *figures, "against FP32"]


def _facts(row: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    counts = row["convolutions"] or {}
    return [
        row["runner"],
        row["precision"],
        f"{row['file_bytes'] / 1e6:.1f} MB" if row["file_bytes"] else "-",
        f"{row['memory_mib']:.0f} MiB" if row["memory_mib"] else "-",
        ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "-",
        *(_format_figure((row["accuracy"] or {}).get(key)) for key in figures),
        _describe_parity(row),
    ]


def _describe_parity(row: Mapping[str, Any]) -> str:
    if not row["ms"]:
        return f"not measured: {row['parity']}"
    return str(row["parity"]) + ("" if row["passed"] else " (OUTSIDE tolerance)")


def _speed(row: Mapping[str, Any], batch: str) -> list[str]:
    ms, size = row["ms"][batch], int(batch)
    spread = row.get("spread_ms", {}).get(batch)
    return [
        f"{ms:.3f}",
        f"{spread[0]:.3f} to {spread[1]:.3f}" if spread else "-",
        f"{ms / size:.3f}",
        f"{size / ms * 1e3:,.0f}",
    ]


def _format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _draw_throughput(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = new_figure(7.5, 4.2)
    axes = figure.subplots()
    for row in rows:
        sizes = [int(size) for size in row["ms"]]
        spread = row.get("spread_ms", {})
        has_spread = bool(spread) and all(size in spread for size in row["ms"])

        def rates(ms: Sequence[float], sizes: Sequence[int] = sizes) -> list[float]:
            return [size / each * 1e3 for size, each in zip(sizes, ms, strict=True)]

        if sizes:
            draw_series(
                axes,
                sizes,
                rates(list(row["ms"].values())),
                _label(row),
                low=rates([spread[s][1] for s in row["ms"]]) if has_spread else (),
                high=rates([spread[s][0] for s in row["ms"]]) if has_spread else (),
            )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(
        xlabel="batch size, crops per call",
        ylabel="crops/s (median; bars: p10 to p90)",
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    place_legend(figure, [axes])
    return figure


def _draw_sweep(points: Sequence[Mapping[str, Any]]) -> Figure:
    figure = new_figure()
    axes = figure.subplots()
    images = [point["images"] for point in points]
    draw_series(axes, images, [point["error"] for point in points], "INT8")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(
        xlabel="number of calibration images",
        ylabel="error against FP32 on held-out crops",
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    return figure
