"""What handing data over costs: `python -m loadtest transfer`, beside a running server
(`python -m builders serve`).

The preprocessing model is asked to cut one small crop out of what is sent, so that
little but the transfer is left: a raw 1080p frame, as many bytes as 64 gender crops,
and a JPEG. All ways take turns within one run; CPU time is this process's. Where there
is a GPU, that is also a way: CUDA's shared memory, filled from the host, and from torch
on the GPU. Then the whole job with people cut on the server and in the client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtest.perf_input import FRAME_HW, jpeg_frame, some_boxes
from personserve import Client
from personserve._requests import Memory
from personserve._segments import cuda_runtime

MODEL = "person_preprocess"
BOX = np.array([[0, 0, 40, 100]], np.float32)
PEOPLE = (1, 4, 10)
CUTS: tuple[Literal["server", "client"], ...] = ("server", "client")

Work = Callable[[], Any]
Bytes = npt.NDArray[np.uint8]


def main(
    grpc: Annotated[str, typer.Option(help="gRPC address.")] = "127.0.0.1:8001",
    http: Annotated[str, typer.Option(help="HTTP address.")] = "127.0.0.1:8000",
    rounds: Annotated[int, typer.Option(min=3, help="Calls of each kind.")] = 100,
) -> None:
    """What handing data over costs: wire, HTTP, shared memory; where to cut people."""
    jpeg = np.frombuffer(jpeg_frame(), np.uint8)
    frame = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
    payloads = {
        f"raw frame {FRAME_HW[1]}x{FRAME_HW[0]}": frame,
        "as 64 gender crops": np.zeros((64 * 224, 224, 3), np.uint8),
        "JPEG of the frame": jpeg.reshape(1, 1, -1),
    }
    console = Console(width=110)
    with ExitStack() as stack:
        clients = {
            f"{scheme}, {memory or 'wire'}": stack.enter_context(
                Client(f"{scheme}://{address}", shared_memory=memory)
            )
            for scheme, address in (("grpc", grpc), ("http", http))
            for memory in _memories()
        }
        console.print(_transfers(clients, payloads, rounds))
        console.print(_cuts(clients, frame, jpeg.tobytes(), rounds // 5))


def _memories() -> tuple[Memory | None, ...]:
    try:
        cuda_runtime()
    except OSError:
        return (None, "system")
    return (None, "system", "cuda")


def _transfers(
    clients: dict[str, Client], payloads: dict[str, Bytes], rounds: int
) -> Table:
    table = _table("payload", "MB", "way", "p50 ms", "CPU ms", "to gRPC's wire")
    for name, payload in payloads.items():
        works = {
            way: partial(client.infer, MODEL, frame=payload, boxes=BOX)
            for way, client in clients.items()
        }
        if "grpc, cuda" in clients:
            import torch

            works["grpc, cuda from torch"] = partial(
                clients["grpc, cuda"].infer,
                MODEL,
                frame=torch.from_numpy(payload).cuda(),
                boxes=BOX,
            )
        found = _in_turns(works, rounds)
        base = next(iter(found.values()))[0]
        for way, (ms, cpu_ms) in found.items():
            size = f"{payload.nbytes / 1e6:.1f}"
            ratio = f"{base / ms:.2f}"
            table.add_row(name, size, way, f"{ms:.2f}", f"{cpu_ms:.2f}", ratio)
    return table


def _cuts(clients: dict[str, Client], frame: Bytes, jpeg: bytes, rounds: int) -> Table:
    table = _table("frame", "people", "way", "cut on", "p50 ms", "CPU ms")
    for name, picture in (("raw", frame), ("JPEG", jpeg)):
        for people in PEOPLE:
            boxes = some_boxes(people)
            works = {
                (way, cut): partial(client.attributes, picture, boxes, crops=cut)
                for way, client in clients.items()
                if way.startswith("grpc")
                for cut in CUTS
            }
            for (way, cut), (ms, cpu_ms) in _in_turns(works, rounds).items():
                figures = f"{ms:.1f}", f"{cpu_ms:.1f}"
                table.add_row(name, str(people), way, cut, *figures)
    return table


def _in_turns(works: Mapping[Any, Work], rounds: int) -> dict[Any, tuple[float, float]]:
    """{name: (median ms, mean CPU ms)}, one call of each after the other."""
    times: dict[Any, list[float]] = {name: [] for name in works}
    cpu: dict[Any, float] = dict.fromkeys(works, 0.0)
    for work in works.values():
        work()
    for _ in track(range(rounds), description="calling", transient=True):
        for name, work in works.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            work()
            times[name].append(time.perf_counter() - began)
            cpu[name] += time.process_time() - cpu_began
    return {
        name: (float(np.median(times[name])) * 1e3, cpu[name] / rounds * 1e3)
        for name in works
    }


def _table(*head: str) -> Table:
    table = Table()
    for title in head:
        table.add_column(title)
    return table
