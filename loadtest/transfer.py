"""The `transfer` command: the cost of handing data to the server.

The preprocessing model cuts one small crop out of the payload, so that little but the
transfer remains: a raw 1080p frame, 64 gender crops' worth of bytes, and a JPEG. All
transports take turns; CPU time is this process's. On a machine with a GPU, CUDA shared
memory is measured too, filled from the host and from torch on the GPU. Then the whole
job, with people cut on the server and in the client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track

from loadtest.app import app
from loadtest.baselines.in_process import GENDER, describe_frame_networks
from loadtest.facts import describe_session
from loadtest.frames import FRAME_HW, encoded_tensor, make_jpeg_frame, place_boxes
from loadtest.measurements import transport_name
from loadtest.options import (
    DEFAULT_FRAME_MODEL,
    GRPC_ADDRESS,
    HTTP_ADDRESS,
    GrpcAddress,
    HttpAddress,
    ReportFolder,
)
from personserve import Client, InvalidInputError
from personserve.images.inputs import tensors_from_frame
from personserve.internal.report import Report, page_link
from personserve.internal.sections import Table

PREPROCESS_MODEL = "person_preprocess"
BOX = np.array([[0, 0, 40, 100]], np.float32)
MAX_CROPS = 64
PEOPLE = (1, 4, 10)

CROP_PLACES: tuple[Literal["server", "client"], ...] = ("server", "client")
SHARED_MEMORIES: tuple[Literal["system", "cuda"] | None, ...] = (None, "system", "cuda")

GRPC = transport_name("grpc", None)
GRPC_CUDA = transport_name("grpc", "cuda")

Call = Callable[[], Any]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Cost:
    """The cost of one call.

    Attributes:
        p50_ms: Median time of a call, in ms.
        cpu_ms: Mean CPU time of this process per call, in ms.
    """

    p50_ms: float
    cpu_ms: float


@app.command()
def transfer(
    grpc: GrpcAddress = GRPC_ADDRESS,
    http: HttpAddress = HTTP_ADDRESS,
    calls: Annotated[
        int, typer.Option(min=5, help="Calls per transport and payload.")
    ] = 100,
    output: ReportFolder = Path("reports/transfer"),
) -> None:
    """Compare transports: gRPC, HTTP, and shared memory (system, CUDA).

    Then compares cutting people out of the frame on the server and in the client.
    """
    console = Console(width=110)
    jpeg = make_jpeg_frame()
    encoded = np.frombuffer(jpeg, np.uint8)
    frame = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    with _open_clients(grpc, http) as clients:
        crop = describe_frame_networks(clients[GRPC], http, DEFAULT_FRAME_MODEL)[
            GENDER
        ].crop
        crops = np.zeros((MAX_CROPS * crop.height, crop.width, 3), np.uint8)
        payloads = {
            f"raw frame {FRAME_HW[1]}x{FRAME_HW[0]}": tensors_from_frame(frame),
            f"as many bytes as {MAX_CROPS} gender crops": tensors_from_frame(crops),
            "JPEG of the frame": {"encoded_frame": encoded_tensor(jpeg)},
        }
        tables = [
            _compare_transports(clients, payloads, calls),
            _compare_crop_places(clients, frame, jpeg, calls // 5),
        ]
    for table in tables:
        table.print_to(console)
    facts = describe_session() | {"server": grpc}
    record = {
        "facts": facts,
        "tables": {t.title: [t.head, *t.rows] for t in tables},
    }
    page = Report("Cost of handing data over", facts, record, tables).write(output)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)


@contextmanager
def _open_clients(grpc: str, http: str) -> Iterator[dict[str, Client]]:
    """Provide a client for each transport, CUDA shared memory only if it is there."""
    clients = {}
    with ExitStack() as stack:
        for protocol, address in (("grpc", grpc), ("http", http)):
            for memory in SHARED_MEMORIES:
                try:
                    client = Client(f"{protocol}://{address}", shared_memory=memory)
                except InvalidInputError:
                    if memory != "cuda":
                        raise
                    continue
                clients[transport_name(protocol, memory)] = stack.enter_context(client)
        yield clients


def _compare_transports(
    clients: Mapping[str, Client],
    payloads: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    calls: int,
) -> Table:
    rows = []
    for name, payload in payloads.items():
        inputs: dict[str, npt.NDArray[Any]] = {**payload, "boxes": BOX}
        work: dict[str, Call] = {
            transport: partial(client.infer, PREPROCESS_MODEL, inputs)
            for transport, client in clients.items()
        }
        if GRPC_CUDA in clients:
            import torch

            on_gpu: dict[str, Any] = {
                name: torch.from_numpy(array.copy()).cuda()
                if name.endswith("_frame")
                else array
                for name, array in inputs.items()
            }
            infer = clients[GRPC_CUDA].infer
            work[f"{GRPC_CUDA}, from torch"] = partial(infer, PREPROCESS_MODEL, on_gpu)
        costs = _measure_in_turns(work, calls)
        size_mb = sum(array.nbytes for array in payload.values()) / 1e6
        for transport, cost in costs.items():
            rows.append(
                [
                    *(name, f"{size_mb:.1f}", transport),
                    *(f"{cost.p50_ms:.2f}", f"{cost.cpu_ms:.2f}"),
                    f"{costs[GRPC].p50_ms / cost.p50_ms:.2f}",
                ]
            )
    head = ["payload", "MB", "transport", "p50 ms", "CPU ms", "speed, gRPC = 1"]
    return Table("Transports", head, rows)


def _compare_crop_places(
    clients: Mapping[str, Client], frame: Bytes, jpeg: bytes, calls: int
) -> Table:
    rows = []
    for name, image in (("raw", frame), ("JPEG", jpeg)):
        for people in PEOPLE:
            boxes = place_boxes(people)
            work: dict[tuple[str, str], Call] = {
                (transport, place): partial(
                    client.attributes, image, boxes, crop_on=place
                )
                for transport, client in clients.items()
                if transport.startswith(GRPC)
                for place in CROP_PLACES
            }
            for (transport, place), cost in _measure_in_turns(work, calls).items():
                figures = f"{cost.p50_ms:.1f}", f"{cost.cpu_ms:.1f}"
                rows.append([name, str(people), transport, place, *figures])
    head = ["frame", "people", "transport", "cut on", "p50 ms", "CPU ms"]
    return Table("Cutting on the server and in the client", head, rows)


def _measure_in_turns(work: Mapping[Name, Call], calls: int) -> dict[Name, Cost]:
    """Measure calls in turns, one of each after the other, after a warm-up of each."""
    times_s: dict[Name, list[float]] = {name: [] for name in work}
    cpu_s: dict[Name, float] = dict.fromkeys(work, 0.0)
    for call in work.values():
        call()
    for _ in track(range(calls), description="calling", transient=True):
        for name, call in work.items():
            start_s, cpu_start_s = time.perf_counter(), time.process_time()
            call()
            times_s[name].append(time.perf_counter() - start_s)
            cpu_s[name] += time.process_time() - cpu_start_s
    return {
        name: Cost(float(np.median(times_s[name])) * 1e3, cpu_s[name] / calls * 1e3)
        for name in work
    }
