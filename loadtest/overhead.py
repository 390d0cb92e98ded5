"""The `overhead` command: throughput served, relative to the same work in process.

Each model and the frame ensemble, served by the running server, against the same ONNX
files called in this process: one thread per session, the same number of concurrent
callers, in turns. The load's own client shares the cores, as it does on one machine.

In process, a frame costs decoding, cutting and both networks, one after the other in
its caller's thread; the server may run both networks at once, so with one caller on
more than one core its ratio can exceed 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import simplejpeg
import typer
from rich.console import Console
from rich.progress import track

from loadtest.app import app
from loadtest.baselines.in_process import (
    REPOSITORY,
    Networks,
    describe_frame_networks,
    open_session,
)
from loadtest.errors import LoadTestError
from loadtest.facts import describe_models, describe_server, describe_session
from loadtest.frames import encoded_tensor, make_jpeg_frame, place_boxes
from loadtest.options import (
    DEFAULT_FRAME_MODEL,
    GRPC_ADDRESS,
    HTTP_ADDRESS,
    GrpcAddress,
    HttpAddress,
    ReportFolder,
    Repository,
    parse_counts,
)
from loadtest.server import Statistics
from personserve import Client
from personserve.images.crops import resize_image
from personserve.internal.closed_loop import run_closed_loop
from personserve.internal.report import Report, page_link
from personserve.internal.sections import Table

MODELS = "person_gender,person_reid_kd_r18,person_gender_reid"
PREPROCESS_MODEL = "person_preprocess"
PREPROCESS_PEOPLE = 10
CALL_TIMEOUT_S = 300.0

Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Calls of a number of people by a number of concurrent callers.

    Attributes:
        people_per_s: Throughput.
        p50_ms: Median latency in ms.
        p99_ms: 99th percentile of latency in ms.
        calls: Number of calls.
    """

    people_per_s: float
    p50_ms: float
    p99_ms: float
    calls: int


@dataclass(frozen=True)
class Row:
    """One model under one load, in process and served.

    Attributes:
        model: Name of the model.
        batch: Number of people in a call.
        concurrency: Number of callers.
        in_process: Timing of the calls in this process.
        served: Timing of the calls to the server.
    """

    model: str
    batch: int
    concurrency: int
    in_process: Timing
    served: Timing

    @property
    def ratio(self) -> float:
        """Throughput served, relative to in process."""
        return self.served.people_per_s / self.in_process.people_per_s


@app.command()
def overhead(
    grpc: GrpcAddress = GRPC_ADDRESS,
    http: HttpAddress = HTTP_ADDRESS,
    repository: Repository = REPOSITORY,
    models: Annotated[
        str,
        typer.Option(
            help="Models, comma-separated, in addition to the frame ensemble."
        ),
    ] = MODELS,
    people: Annotated[
        str, typer.Option(help="People per call, comma-separated.")
    ] = "1,8,32",
    concurrency: Annotated[
        str, typer.Option(help="Concurrent callers, comma-separated.")
    ] = "1,4",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds per measurement.")
    ] = 6.0,
    output: ReportFolder = Path("reports/overhead"),
) -> None:
    """Measure what serving costs, compared with ONNX Runtime in this process.

    Also measures preprocessing: decoding a JPEG and cutting ten people out of it.
    """
    console = Console(width=130)
    names = models.split(",")
    sizes = parse_counts(people, "--people")
    counts = parse_counts(concurrency, "--concurrency")
    grid = [
        (n, s, c) for n in (*names, DEFAULT_FRAME_MODEL) for s in sizes for c in counts
    ]
    jpeg = make_jpeg_frame()
    with Client(grpc, timeout_s=CALL_TIMEOUT_S) as client:
        networks = Networks(
            repository, describe_frame_networks(client, http, DEFAULT_FRAME_MODEL)
        )
        sessions = {name: open_session(repository, name) for name in names}
        rows = []
        for model, size, count in track(
            grid, "measuring", console=console, transient=True
        ):
            calls = _make_calls(model, size, sessions, networks, client, jpeg)
            timings = (_measure(call, size, count, seconds) for call in calls)
            rows.append(Row(model, size, count, *timings))
        preprocessing = _measure_preprocessing(client, http, networks, jpeg, seconds)
    facts = describe_session() | {"onnxruntime": version("onnxruntime")}
    facts |= describe_server(
        grpc, http, describe_models(http, [*names, DEFAULT_FRAME_MODEL])
    )
    record = {
        "facts": facts,
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
        "preprocessing": {name: asdict(each) for name, each in preprocessing.items()},
    }
    tables = [_tabulate(rows), _tabulate_preprocessing(preprocessing)]
    for table in tables:
        table.print_to(console)
    page = Report("Serving overhead", facts, record, tables).write(output)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)


def _make_calls(
    model: str,
    batch: int,
    sessions: Mapping[str, onnxruntime.InferenceSession],
    networks: Networks,
    client: Client,
    jpeg: bytes,
) -> tuple[Call, Call]:
    """Return the same work as a call in this process and as a call to the server."""
    if model == DEFAULT_FRAME_MODEL:
        boxes = place_boxes(batch)
        return (
            partial(networks.describe_people, jpeg, boxes),
            partial(client.attributes, jpeg, boxes),
        )
    session = sessions[model]
    (tensor,) = session.get_inputs()
    shape = (batch, *tensor.shape[1:])
    crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    inputs = {tensor.name: crops}
    return partial(session.run, None, inputs), partial(client.infer, model, inputs)


def _measure(call: Call, batch: int, callers: int, seconds: float) -> Timing:
    """Time `callers` threads that repeat `call` for `seconds`, after one warm-up."""
    call()
    times_s, elapsed_s = run_closed_loop(call, callers, seconds)
    p50_ms, p99_ms = np.percentile(np.array(times_s) * 1e3, (50, 99))
    rate = len(times_s) * batch / elapsed_s
    return Timing(rate, float(p50_ms), float(p99_ms), len(times_s))


def _measure_preprocessing(
    client: Client, http: str, networks: Networks, jpeg: bytes, seconds: float
) -> dict[str, Timing]:
    """Time decoding a 1080p JPEG and cutting ten people, bare, checked and served."""
    boxes = place_boxes(PREPROCESS_PEOPLE)
    shapes = [spec.crop for spec in networks.specs.values()]

    def decode_and_resize() -> None:
        pixels = simplejpeg.decode_jpeg(jpeg, colorspace="BGR")
        for x0, y0, x1, y1 in boxes.astype(int):
            person = pixels[y0:y1, x0:x1]
            for shape in shapes:
                resize_image(person, shape)

    def measure(call: Call, callers: int) -> Timing:
        return _measure(call, PREPROCESS_PEOPLE, callers, seconds)

    inputs: dict[str, Any] = {
        "encoded_frame": encoded_tensor(jpeg),
        "boxes": boxes,
    }
    served = partial(client.infer, PREPROCESS_MODEL, inputs)
    cut = partial(networks.cut_people, jpeg, boxes)
    statistics = Statistics(http, [PREPROCESS_MODEL])
    with_crops_returned = measure(served, 1)
    times = statistics.times(PREPROCESS_MODEL)
    if times is None:
        raise LoadTestError(f"http://{http} counted no request of {PREPROCESS_MODEL}")
    mean_ms = times.compute_ms
    as_step = Timing(
        PREPROCESS_PEOPLE / mean_ms * 1e3, mean_ms, mean_ms, times.requests
    )
    cores = os.cpu_count() or 1
    return {
        "bare decode and resize, 1 caller": measure(decode_and_resize, 1),
        "checks, decode and cut, 1 caller": measure(cut, 1),
        "served as an ensemble's step, 1 caller (mean)": as_step,
        "served, crops returned, 1 caller": with_crops_returned,
        f"bare decode and resize, {cores} callers": measure(decode_and_resize, cores),
        f"served, crops returned, {cores} callers": measure(served, cores),
    }


def _tabulate(rows: Sequence[Row]) -> Table:
    head = ["model", "people", "callers", "in process, people/s", "served, people/s"]
    head += ["ratio", "p50 ms served (in process)", "p99 ms served (in process)"]
    cells = [
        [
            row.model,
            str(row.batch),
            str(row.concurrency),
            f"{row.in_process.people_per_s:.1f}",
            f"{row.served.people_per_s:.1f}",
            f"{row.ratio:.2f}",
            f"{row.served.p50_ms:.1f} ({row.in_process.p50_ms:.1f})",
            f"{row.served.p99_ms:.1f} ({row.in_process.p99_ms:.1f})",
        ]
        for row in rows
    ]
    return Table("Served and in process", head, cells)


def _tabulate_preprocessing(preprocessing: Mapping[str, Timing]) -> Table:
    title = f"Preprocessing, {PREPROCESS_PEOPLE} people in a 1080p JPEG"
    rows = [
        [name, f"{timing.people_per_s:.0f}", f"{timing.p50_ms:.2f}"]
        for name, timing in preprocessing.items()
    ]
    return Table(title, ["variant", "people/s", "p50 ms per frame"], rows)
