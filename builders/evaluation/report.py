"""Runs written down: JSON, Markdown and plots of one, and a table of several."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from builders import markdown
from builders.evaluation.assessment import Assessment
from builders.evaluation.predictions import Backend, Predictions
from builders.spec import Model
from personserve._files import atomic_write, write_text

REPORT_FILE = "report.json"
PACKAGES = (
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "scikit-learn",
    "tensorrt",
    "torch",
)
SHOWN_UNREADABLE = 10
DOTS_PER_INCH = 130


@dataclass(frozen=True)
class Run:
    """What was evaluated: `data` says which pictures, as {root, layout, part ...}."""

    model: Model
    backend: Backend
    data: Mapping[str, Any]
    flip: bool


def write_report(
    folder: Path, run: Run, found: Predictions, assessment: Assessment
) -> Path:
    """Write everything of one run to `folder`; returns the Markdown's path."""
    count = len(next(iter(found.outputs.values())))
    record = {
        "model": run.model.name,
        "backend": run.backend.label,
        **run.backend.facts,
        "flip": run.flip,
        "data": dict(run.data),
        "headline": dict(assessment.headline),
        "latency_ms": found.latency_ms,
        "pictures_per_s": count / found.seconds if found.seconds else None,
        "file_bytes": run.backend.file_bytes,
        "unreadable": found.unreadable,
        "numbers": dict(assessment.numbers),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
    }
    for stem, plot in assessment.plots.items():
        with atomic_write(folder / f"{stem}.png") as partial:
            plot.savefig(partial, format="png", dpi=DOTS_PER_INCH)
    for stem, picture in assessment.pictures.items():
        data = cv2.imencode(".jpg", picture)[1]
        with atomic_write(folder / f"{stem}.jpg") as partial:
            partial.write_bytes(data.tobytes())
    for name, text in assessment.files.items():
        write_text(folder / name, text)
    write_text(folder / REPORT_FILE, json.dumps(record, indent=2) + "\n")
    path = folder / "report.md"
    write_text(path, _markdown(record, assessment))
    return path


def machine() -> dict[str, str]:
    """Where and with what a run was made."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [x.partition(":")[2].strip() for x in lines if "model name" in x]
        cpu = names[0] if names else cpu
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": ", ".join(_versions()),
    }


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _markdown(record: Mapping[str, Any], assessment: Assessment) -> str:
    data = record["data"]
    lines = [
        f"# {record['model']} on {Path(data['root']).name}, by {record['backend']}"
    ]
    if "untrained" in record["weights"]:
        lines.append("**Stand-in weights: untrained, the figures mean nothing.**")
    facts = {
        "weights": record["weights"],
        "data": ", ".join(f"{key} {value}" for key, value in data.items()),
        "mirror image too": "yes" if record["flip"] else "no",
        "one picture": f"{record['latency_ms']:.2f} ms (median, network alone)",
        "throughput": f"{record['pictures_per_s']:.1f} pictures/s (network alone)"
        if record["pictures_per_s"]
        else "-",
        "file": _size(record["file_bytes"]),
        "date": record["date"],
        **record["machine"],
    }
    lines.append("\n".join(f"- {key}: {value}" for key, value in facts.items()))
    if record["unreadable"]:
        shown = record["unreadable"][:SHOWN_UNREADABLE]
        lines.append(
            f"{len(record['unreadable'])} pictures could not be read and do not "
            "count:\n" + "\n".join(f"- {text}" for text in shown)
        )
    lines += [f"## {title}\n\n{text}" for title, text in assessment.text.items()]
    pictures = [f"{stem}.png" for stem in assessment.plots]
    pictures += [f"{stem}.jpg" for stem in assessment.pictures]
    lines += [f"![{name.partition('.')[0]}]({name})" for name in pictures]
    return "\n\n".join(lines) + "\n"


def compare(folder: Path, model: Model) -> tuple[Path, str]:
    """All runs below `folder` side by side: written there, and the table itself."""
    found = [
        (path.parent, json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.rglob(REPORT_FILE))
    ]
    # the reference first, then by name
    found.sort(key=lambda run: (not run[1]["backend"].startswith("torch"), run[0]))
    figures = list(dict.fromkeys(k for _, record in found for k in record["headline"]))
    first = found[0][0]
    head = ["run", *figures, "agrees", "ms", "pictures/s", "file"]
    rows = [
        [
            path.relative_to(folder).as_posix(),
            *(_figure(record["headline"].get(figure)) for figure in figures),
            "" if path == first else _agreement(model, first, path),
            f"{record['latency_ms']:.2f}",
            f"{record['pictures_per_s']:.1f}" if record["pictures_per_s"] else "-",
            _size(record["file_bytes"]),
        ]
        for path, record in found
    ]
    table = markdown.table(head, rows)
    text = (
        f"# {model.name} on {folder.name}\n\n{table}\n\n"
        f"`agrees`: with {first.relative_to(folder)}, by equal labels or by the "
        "smallest cosine of two answers. `ms`: the network alone on one picture, "
        "median; `pictures/s` in batches. Runs of different machines do not compare.\n"
    )
    path = folder / "comparison.md"
    write_text(path, text)
    records = {p.relative_to(folder).as_posix(): record for p, record in found}
    write_text(folder / "comparison.json", json.dumps(records, indent=2) + "\n")
    return path, table


def _agreement(model: Model, first: Path, other: Path) -> str:
    texts = []
    for output in model.outputs:
        files = [
            _predictions(folder, f"{output.name}.npy") for folder in (first, other)
        ]
        if not all(path.is_file() for path in files):
            return ""
        a, b = (np.load(path, mmap_mode="r") for path in files)
        if a.shape != b.shape:
            return "other pictures"
        if output.labels:
            same = (a >= output.threshold) == (b >= output.threshold)
            texts.append(f"{same.mean():.2%}")
        else:
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            texts.append(f"{np.nanmin((a * b).sum(axis=1) / lengths):.5f}")
    return ", ".join(texts)


def _predictions(folder: Path, name: str) -> Path:
    """A re-ranked run has its answers one folder above."""
    return folder / name if (folder / name).is_file() else folder.parent / name


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _size(file_bytes: int | None) -> str:
    return "-" if file_bytes is None else f"{file_bytes / 1e6:.1f} MB"
