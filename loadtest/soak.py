"""Whether anything grows: `python -m loadtest soak --minutes 30`, beside a running
server on this machine.

Cameras' frames through one client with shared memory, and crops through another over
HTTP. Memory of this process and of the server's (pages that several share count once in
all), open files and what is mapped of /dev/shm are sampled; growth is between the
median of the second tenth of the time (the first warms up) and that of the last.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest.machine import family, listening_at, memory_mib, shared_files
from loadtest.scenes import Scenes
from personserve import Client

SAMPLE_S = 5.0
CALLERS = 2
MOST_GROWTH = 0.02


@dataclass(frozen=True)
class Sample:
    """Memory in MiB; open `files`, and those of /dev/shm that are mapped (`shared`)."""

    client_mib: float
    server_mib: float
    files: int
    shared: int


def main(
    grpc: Annotated[str, typer.Option(help="gRPC address.")] = "127.0.0.1:8001",
    http: Annotated[str, typer.Option(help="HTTP address.")] = "127.0.0.1:8000",
    minutes: Annotated[float, typer.Option(min=0.1)] = 30.0,
    pause_s: Annotated[float, typer.Option(help="Between calls of a caller.")] = 0.05,
    video: Annotated[Path | None, typer.Option(help="Take frames from it.")] = None,
) -> None:
    """Whether anything grows; exit code 1 where memory does by more than 2 %."""
    console = Console()
    end = time.monotonic() + minutes * 60
    scenes = Scenes.of_video(video)
    samples: list[Sample] = []
    server = listening_at(grpc)
    with (
        Client(f"grpc://{grpc}", shared_memory="system") as frames,
        Client(f"http://{http}") as crops,
        ThreadPoolExecutor(CALLERS) as pool,
        Progress(console=console, transient=True) as progress,
    ):
        callers = [
            pool.submit(_frames, frames, scenes, end, pause_s),
            pool.submit(_crops, crops, end, pause_s),
        ]
        bar = progress.add_task("soaking", total=minutes * 60)
        while time.monotonic() < end:
            samples.append(_sample(server))
            progress.update(bar, completed=minutes * 60 - (end - time.monotonic()))
            time.sleep(SAMPLE_S)
        calls = [caller.result() for caller in callers]
    table, grew = _table(samples)
    console.print(table)
    console.print(f"{minutes:g} minutes, {calls[0]} frames and {calls[1]} crops asked")
    raise typer.Exit(int(grew))


def _frames(client: Client, scenes: Scenes, end: float, pause_s: float) -> int:
    rng, calls = np.random.default_rng(0), 0
    while time.monotonic() < end:
        client.attributes(*scenes.draw(rng))
        calls += 1
        time.sleep(pause_s)
    return calls


def _crops(client: Client, end: float, pause_s: float) -> int:
    crops, calls = np.zeros((2, 256, 128, 3), np.uint8), 0
    while time.monotonic() < end:
        client.attributes_of_crops(crops)
        calls += 1
        time.sleep(pause_s)
    return calls


def _sample(server: psutil.Process) -> Sample:
    own = psutil.Process()
    servers = family(server)
    return Sample(
        memory_mib([own]),
        memory_mib(servers),
        sum(process.num_fds() for process in (own, *servers)),
        len(shared_files([own, *servers])),
    )


def _table(samples: list[Sample]) -> tuple[Table, bool]:
    """What was at the begin and at the end, and whether memory grew too much."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]
    table = Table("", "begin", "end", "growth")
    grew = False
    for name, title in (
        ("client_mib", "client, MiB"),
        ("server_mib", "server, MiB"),
        ("files", "open files"),
        ("shared", "mapped of /dev/shm"),
    ):
        begin, end = (
            float(np.median([getattr(sample, name) for sample in part]))
            for part in (early, late)
        )
        growth = end / begin - 1 if begin else 0.0
        grew = grew or (name.endswith("mib") and growth > MOST_GROWTH)
        table.add_row(title, f"{begin:.1f}", f"{end:.1f}", f"{growth:+.2%}")
    return table, grew
