"""Comparison of all runs of a model on a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from builders.evaluation.report import (
    format_metric,
    format_rate,
    format_size,
)
from builders.spec.model import Network
from builders.weights import stand_in_warning
from personserve.internal.report import REPORT_FILE, Report
from personserve.internal.sections import Table

EXPLANATION = (
    "agrees: agreement with {first}, as the share of equal labels or, for embeddings, "
    "as the lowest cosine similarity. ms: median latency of one image, network alone. "
    "images/s: throughput in batches. Runs on different machines are not comparable."
)


def compare_runs(folder: Path, model: Network) -> tuple[Path, Report]:
    """Compare the runs below a folder, and write the files of comparison.html.

    Args:
        folder: Folder of the runs of one model on one data set.
        model: The model, for its outputs.

    Returns:
        Path of the HTML page, and the report.
    """
    records = {
        path.parent: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob(REPORT_FILE))
    }
    # torch is the reference and comes first
    runs = sorted(
        records, key=lambda run: (not records[run]["runner"].startswith("torch"), run)
    )
    metrics = list(
        dict.fromkeys(key for run in runs for key in records[run]["headline"])
    )
    rows = [
        [
            run.relative_to(folder).as_posix(),
            *(format_metric(records[run]["headline"].get(name)) for name in metrics),
            "" if run == runs[0] else _describe_agreement(model, runs[0], run),
            f"{records[run]['latency_ms']:.2f}",
            format_rate(records[run]["images_per_s"]),
            format_size(records[run]["file_bytes"]),
        ]
        for run in runs
    ]
    head = ["run", *metrics, "agrees", "ms", "images/s", "file"]
    explanation = EXPLANATION.format(first=runs[0].relative_to(folder))
    by_name: dict[str, Any] = {rows[i][0]: records[run] for i, run in enumerate(runs)}
    weights = {str(record["weights"]) for record in records.values()}
    report = Report(
        f"{model.name} on {folder.name}: runs compared",
        {"weights": "; ".join(sorted(weights))},
        by_name,
        [Table("Runs", head, rows, explanation)],
        warning=stand_in_warning(*weights),
    )
    return report.write(folder, "comparison"), report


def _describe_agreement(model: Network, first: Path, other: Path) -> str:
    texts = []
    for output in (o for o in model.outputs if o.size > 0):
        files = [_output_file(run, output.name) for run in (first, other)]
        if not all(path.is_file() for path in files):
            return ""
        a, b = (np.load(path, mmap_mode="r") for path in files)
        if a.shape != b.shape:
            return "other images"
        if output.labels:
            same = (a >= output.threshold) == (b >= output.threshold)
            texts.append(f"{same.mean():.2%}")
        else:
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            texts.append(f"{np.nanmin((a * b).sum(axis=1) / lengths):.5f}")
    return ", ".join(texts)


def _output_file(run: Path, output: str) -> Path:
    """Return the file of an output; a re-ranked run has it one folder above."""
    path = run / f"{output}.npy"
    return path if path.is_file() else run.parent / path.name
