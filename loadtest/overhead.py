"""What serving costs: `python -m loadtest overhead`.

Each model and the frame ensemble, served by the real tritonserver, beside the same
ONNX Runtime sessions called in this process: same files, one thread each, the same
number of concurrent callers, in turns within one run. The ratio is what serving keeps.
The cores are shared with the load's own client, as they are on one machine.

In process, a frame costs decode + cut + both networks, one after the other in its
caller's thread; the server may run both networks at once, so with one caller on more
than one core its ratio can exceed 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import onnxruntime
import simplejpeg
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest.in_process import REPOSITORY, SHAPES, cut_people, open_session
from loadtest.machine import machine_name
from loadtest.perf_input import jpeg_frame, some_boxes
from loadtest.server import Statistics
from personserve import Client
from personserve._closed_loop import closed_loop

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("person_gender", "person_reid_kd_r18", "person_gender_reid")
START_TIMEOUT_S = 120.0

Work = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Calls of `batch` people by a number of callers at once."""

    people_per_s: float
    p50_ms: float
    p99_ms: float
    calls: int


@dataclass(frozen=True)
class Row:
    """One measured pair."""

    what: str
    batch: int
    concurrency: int
    in_process: Timing
    served: Timing

    @property
    def ratio(self) -> float:
        """Served people/s over in-process people/s."""
        return self.served.people_per_s / self.in_process.people_per_s


def main(
    seconds: Annotated[float, typer.Option(help="Length of one measurement.")] = 6.0,
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,32",
    callers: Annotated[str, typer.Option(help="Numbers of callers.")] = "1,4",
    output: Annotated[
        Path | None, typer.Option(help="Write the figures as JSON, too.")
    ] = None,
) -> None:
    """What serving costs: served against in process, and preprocessing."""
    console = Console(width=130)
    frame = jpeg_frame()
    sessions = {name: open_session(REPOSITORY, name) for name in MODELS}
    grid = [
        (what, int(batch), int(count))
        for what in (*MODELS, "person_attributes")
        for batch in batches.split(",")
        for count in callers.split(",")
    ]
    rows: list[Row] = []
    http_port = 18000 + os.getpid() % 1000 * 3
    with (
        _served(http_port) as client,
        Progress(console=console, transient=True) as progress,
    ):
        for what, batch, count in progress.track(grid, description="measuring"):
            direct, served = _pair(what, batch, sessions, client, frame)
            rows.append(
                Row(
                    what,
                    batch,
                    count,
                    _measure(direct, batch, count, seconds),
                    _measure(served, batch, count, seconds),
                )
            )
        preprocessing = _preprocessing(client, http_port, frame, seconds)
    _print(rows, preprocessing, console)
    if output is not None:
        figures = {
            "machine": _machine(),
            "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
            "preprocessing": {k: asdict(v) for k, v in preprocessing.items()},
        }
        output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _served(port: int) -> Iterator[Client]:
    """`python -m builders serve` on `port` and the next two, and a client of it."""
    command = [
        *(sys.executable, "-m", "builders", "serve", "--http-port", str(port)),
        *("--grpc-port", str(port + 1), "--metrics-port", str(port + 2)),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        with Client(f"127.0.0.1:{port + 1}", timeout_s=300) as client:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not client.ready("person_attributes"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise typer.Exit(1)
                time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.wait()


def _pair(
    what: str,
    batch: int,
    sessions: dict[str, onnxruntime.InferenceSession],
    client: Client,
    frame: bytes,
) -> tuple[Work, Work]:
    """The same work, in process and served."""
    if what in sessions:
        session = sessions[what]
        shape = (batch, *session.get_inputs()[0].shape[1:])
        crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return (
            lambda: session.run(None, {"crops": crops}),
            lambda: client.infer(what, crops=crops),
        )
    boxes = some_boxes(batch)

    def direct() -> None:
        for name, crops in zip(SHAPES, cut_people(frame, boxes), strict=True):
            sessions[name].run(None, {"crops": crops})

    return direct, lambda: client.attributes(frame, boxes)


def _measure(work: Work, batch: int, callers: int, seconds: float) -> Timing:
    """`callers` threads repeat `work` for `seconds`, after one call to warm up."""
    work()
    times, elapsed = closed_loop(work, callers, seconds)
    p50, p99 = np.percentile(np.array(times) * 1e3, (50, 99))
    return Timing(len(times) * batch / elapsed, float(p50), float(p99), len(times))


def _preprocessing(
    client: Client, http_port: int, frame: bytes, seconds: float
) -> dict[str, Timing]:
    """People/s of decode + cut for 10 people in a 1080p JPEG."""
    boxes = some_boxes(10)
    encoded = np.frombuffer(frame, np.uint8).reshape(1, 1, -1)

    def decode_and_resize() -> None:
        pixels = simplejpeg.decode_jpeg(frame, colorspace="BGR")
        for x0, y0, x1, y1 in boxes.astype(int):
            person = pixels[y0:y1, x0:x1]
            cv2.resize(person, (224, 224), interpolation=cv2.INTER_LINEAR)
            cv2.resize(person, (128, 384), interpolation=cv2.INTER_CUBIC)

    def served() -> Any:
        return client.infer("person_preprocess", frame=encoded, boxes=boxes)

    cores = os.cpu_count() or 1
    statistics = Statistics(f"127.0.0.1:{http_port}", ["person_preprocess"])
    over_the_wire = _measure(served, 10, 1, seconds)
    spent = statistics.spent("person_preprocess")
    if spent is None:
        raise typer.Exit(1)
    mean_ms = spent.compute_ms
    inside = Timing(10 / mean_ms * 1e3, mean_ms, mean_ms, spent.requests)
    return {
        "bare decode + resize, 1 caller": _measure(decode_and_resize, 10, 1, seconds),
        "checks + decode + cut, 1 caller": _measure(
            lambda: cut_people(frame, boxes), 10, 1, seconds
        ),
        "served, as an ensemble's step, 1 caller (mean)": inside,
        "served, crops (3 MB) sent back, 1 caller": over_the_wire,
        f"bare decode + resize, {cores} callers": _measure(
            decode_and_resize, 10, cores, seconds
        ),
        f"served, crops (3 MB) sent back, {cores} callers": _measure(
            served, 10, cores, seconds
        ),
    }


def _machine() -> dict[str, str]:
    return {
        "cpu": machine_name(),
        "onnxruntime": version("onnxruntime"),
        "triton": f"nvidia-pytriton {version('nvidia-pytriton')}",
        "date": date.today().isoformat(),  # noqa: DTZ011 - the reader's own day
    }


def _print(
    rows: Sequence[Row], preprocessing: dict[str, Timing], console: Console
) -> None:
    console.print(", ".join(f"{k} {v}" for k, v in _machine().items()))
    table = Table(
        *("model", "batch", "callers", "in process people/s", "served people/s"),
        *("ratio", "p50 ms (in process)", "p99 ms (in process)"),
    )
    for row in rows:
        table.add_row(
            row.what,
            str(row.batch),
            str(row.concurrency),
            f"{row.in_process.people_per_s:.1f}",
            f"{row.served.people_per_s:.1f}",
            f"{row.ratio:.2f}",
            f"{row.served.p50_ms:.1f} ({row.in_process.p50_ms:.1f})",
            f"{row.served.p99_ms:.1f} ({row.in_process.p99_ms:.1f})",
        )
    console.print(table)
    table = Table("preprocessing, 10 people in a 1080p JPEG", "people/s", "p50 ms")
    for what, timing in preprocessing.items():
        table.add_row(what, f"{timing.people_per_s:.0f}", f"{timing.p50_ms:.2f}")
    console.print(table)
