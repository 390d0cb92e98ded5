"""Loads on a server that is being measured, by NVIDIA's perf_analyzer over gRPC.

Frames are random photographs-like JPEGs or raw pixels with boxes of people, and crops
are random. Several different frames take turns.
"""

from __future__ import annotations

import base64
import csv
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from builders.benchmarks.gpu_frames import SIZES, draw_boxes, draw_frame, encode_jpeg
from builders.benchmarks.gpu_server import Use, UseSampler
from loadtest.perf_analyzer import STABILITY_PERCENT, Tool

WINDOWS = 3
"""Windows of perf_analyzer, which reports their mean."""

OUTPUT_BYTES = 1 << 20
"""Shared memory for each output: 64 embeddings of 512 values take 131 kB."""

CROP_SHAPES = ("gender_crops:224,224,3", "reid_crops:384,128,3")
RECORDS: Mapping[str, int] = {"jpeg": 4, "raw": 1}
TIMEOUT_S = 60


@dataclass(frozen=True)
class Load:
    """One load.

    Attributes:
        model: Model that is asked.
        content: "crops", "jpeg" or "raw".
        people: People in each request.
        callers: Requests in flight.
        memory: "none" (in the message), "system" or "cuda" shared memory.
        size: Size of the frames, of SIZES; empty for crops.
    """

    model: str
    content: str
    people: int
    callers: int
    memory: str = "none"
    size: str = ""


@dataclass(frozen=True)
class Result:
    """Result of a load; zero with a reason where it failed.

    Attributes:
        form: What was served, for example "preprocessing on the GPU".
        load: The load.
        people_per_s: People answered in a second.
        p50_ms: Median latency.
        p99_ms: 99th percentile of the latency.
        use: CPU cores and GPUs.
        failure: Reason why there are no figures.
    """

    form: str
    load: Load
    people_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    use: Use | None = None
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)


def run_load(
    tool: Tool, address: str, form: str, load: Load, window_s: float, use: UseSampler
) -> Result:
    """Measure one load.

    Args:
        tool: perf_analyzer.
        address: The server's gRPC endpoint.
        form: What is served, for the result.
        load: The load.
        window_s: Length of each of WINDOWS in seconds.
        use: Sampler of the server.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [
            *(str(tool.path), "-m", load.model, "-i", "grpc", "-u", address),
            *("-f", str(report), "--shared-memory", load.memory),
            *("--output-shared-memory-size", str(OUTPUT_BYTES)),
            *("-s", str(STABILITY_PERCENT), "-r", str(WINDOWS)),
            *("-p", str(round(window_s * 1e3))),
            *("--concurrency-range", f"{load.callers}:{load.callers}"),
            *_input_arguments(load),
        ]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=dict(tool.environment),
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return Result(form, load, failure=f"no end within {TIMEOUT_S} s")
        # what is before the windows is perf_analyzer's own start
        used = use.use(WINDOWS * window_s * 0.8, before_s=0.2)
        if done.returncode or not report.is_file():
            words = " ".join((done.stdout + done.stderr).split())
            return Result(form, load, failure=words[-300:])
        (row,) = csv.DictReader(report.read_text(encoding="utf-8").splitlines())
    rate = float(row["Inferences/Second"])
    per_inference = 1 if load.content == "crops" else load.people
    return Result(
        form,
        load,
        rate * per_inference,
        float(row["p50 latency"]) / 1e3,
        float(row["p99 latency"]) / 1e3,
        used,
    )


def _input_arguments(load: Load) -> list[str]:
    if load.content == "crops":
        shapes = (word for shape in CROP_SHAPES for word in ("--shape", shape))
        return ["-b", str(load.people), *shapes]
    path = _write_frames(load.content, load.size, load.people)
    return ["--input-data", str(path)]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="frames-")


@cache
def _write_frames(content: str, size: str, people: int) -> Path:
    """Write requests in the form of --input-data, once for each kind."""
    rng = np.random.default_rng(people)
    boxes = draw_boxes(rng, SIZES[size], people)
    records = []
    for frame in _draw_frames(size)[: RECORDS[content]]:
        record: dict[str, Any] = {
            "boxes": {"content": boxes.ravel().tolist(), "shape": list(boxes.shape)}
        }
        data = encode_jpeg(frame) if content == "jpeg" else frame.tobytes()
        name = "encoded_frame" if content == "jpeg" else "raw_frame"
        record[name] = {"b64": base64.b64encode(data).decode(), "shape": [len(data)]}
        if content == "raw":
            record["frame_size"] = {"content": list(SIZES[size]), "shape": [2]}
        records.append(record)
    path = Path(_folder().name) / f"{content}-{size}-{people}.json"
    path.write_text(json.dumps({"data": records}), encoding="utf-8")
    return path


@cache
def _draw_frames(size: str) -> list[Any]:
    rng = np.random.default_rng(0)
    return [draw_frame(rng, SIZES[size]) for _ in range(RECORDS["jpeg"])]
