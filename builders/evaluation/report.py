"""Report of one run: its record, its facts, and the sections of its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import Dataset
from builders.evaluation.predictions import Predictions
from builders.evaluation.runners import ModelRunner
from builders.repository.built_files import shorten_weights
from builders.spec.model import Network
from builders.weights import stand_in_warning
from personserve.internal.files import write_text
from personserve.internal.machine import describe_machine
from personserve.internal.report import Report
from personserve.internal.sections import Listing, Section

UNREADABLE_LINES = 10


@dataclass(frozen=True)
class Run:
    """A model, its runner and the data set of one run.

    Attributes:
        model: The model.
        runner: Its runner.
        dataset: The data set.
        flip: Whether the outputs of each image and its mirror image are averaged.
    """

    model: Network
    runner: ModelRunner
    dataset: Dataset
    flip: bool


@dataclass(frozen=True)
class RunReport:
    """The written report of a run.

    Attributes:
        page: The HTML page; REPORT_FILE, Markdown and images are next to it.
        headline: Metrics that runs are compared by; None where one is undefined.
        content: The report, for a terminal.
    """

    page: Path
    headline: Mapping[str, float | None]
    content: Report


def write_report(
    folder: Path, run: Run, predictions: Predictions, assessment: Assessment
) -> RunReport:
    """Write the report of a run.

    Args:
        folder: Folder to write to; it is created if needed.
        run: What was run.
        predictions: The outputs, for speed and unreadable images.
        assessment: What the protocol computed from the outputs.

    Returns:
        The written report.
    """
    for name, text in assessment.files.items():
        write_text(folder / name, text)
    record = _record_run(run, predictions, assessment)
    weights = record["weights"]
    content = Report(
        f"{run.model.name} on {run.dataset.root.name}, by {run.runner.label}",
        _list_facts(record),
        record,
        [*_unreadable_sections(record["unreadable"]), *assessment.sections],
        {name: format_metric(value) for name, value in assessment.headline.items()},
        stand_in_warning(weights),
        f"{run.model.name}, {run.runner.label}, weights: {shorten_weights(weights)}",
    )
    return RunReport(content.write(folder), assessment.headline, content)


def _record_run(
    run: Run, predictions: Predictions, assessment: Assessment
) -> dict[str, Any]:
    items, seconds = len(run.dataset.items), predictions.seconds
    return {
        "model": run.model.name,
        "runner": run.runner.label,
        **run.runner.facts,
        "flip": run.flip,
        "data": dict(run.dataset.facts),
        "headline": dict(assessment.headline),
        "latency_ms": predictions.latency_ms,
        "images_per_s": items / seconds if seconds else None,
        "file_bytes": run.runner.file_bytes,
        "unreadable": predictions.unreadable,
        "numbers": dict(assessment.numbers),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
    }


def _list_facts(record: Mapping[str, Any]) -> dict[str, str]:
    return {
        "weights": record["weights"],
        "data": ", ".join(f"{key} {value}" for key, value in record["data"].items()),
        "averaged with the mirror image": "yes" if record["flip"] else "no",
        "latency": f"{record['latency_ms']:.2f} ms (one image, median, network alone)",
        "throughput": f"{format_rate(record['images_per_s'])} images/s (network alone)",
        "file": format_size(record["file_bytes"]),
        "date": record["date"],
        **record["machine"],
    }


def _unreadable_sections(unreadable: Sequence[str]) -> list[Section]:
    if not unreadable:
        return []
    title = f"{len(unreadable)} images cannot be read and do not count"
    return [Listing(title, "\n".join(unreadable[:UNREADABLE_LINES]))]


def format_metric(value: float | None) -> str:
    """Format a metric, "-" if it is undefined.

    Args:
        value: The metric; None if it is undefined.
    """
    return "-" if value is None else f"{value:.4f}"


def format_rate(images_per_s: float | None) -> str:
    """Format a throughput, "-" if it is unknown.

    Args:
        images_per_s: Images per second; None for a run without any new image.
    """
    return f"{images_per_s:.1f}" if images_per_s else "-"


def format_size(file_bytes: int | None) -> str:
    """Format a file's size in megabytes, "-" without a file.

    Args:
        file_bytes: Size in bytes.
    """
    return "-" if file_bytes is None else f"{file_bytes / 1e6:.1f} MB"
