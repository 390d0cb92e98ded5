"""The `soak` command: memory and open files of client and server under a long load.

One client sends camera frames through shared memory, another sends crops over HTTP, to
a running server on this machine. Memory of this process and of the server (PSS: a page
that several processes share counts once in all), open files and mappings of /dev/shm
are sampled. Growth is measured between the median of the second tenth of the time (the
first is warm-up) and that of the last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.app import app
from loadtest.facts import describe_session
from loadtest.machine import (
    find_listening_process,
    mapped_shared_files,
    memory_mib,
    process_tree,
)
from loadtest.options import (
    GRPC_ADDRESS,
    HTTP_ADDRESS,
    GrpcAddress,
    HttpAddress,
    ReportFolder,
)
from loadtest.scenes import Scenes
from personserve import Client
from personserve.internal.report import Report, page_link
from personserve.internal.sections import Table

SAMPLE_INTERVAL_S = 5.0
CALLERS = 2
CROPS_SHAPE = (2, 256, 128, 3)
"""Crops of any size do, because the client resizes them."""

MAX_GROWTH = 0.02


@dataclass(frozen=True)
class Sample:
    """Resources in use at one moment.

    Attributes:
        client_mib: Memory of this process, in MiB.
        server_mib: Memory of the server's processes, in MiB.
        open_files: Open files of all these processes.
        shared_mappings: Files in /dev/shm that they have mapped.
    """

    client_mib: float
    server_mib: float
    open_files: int
    shared_mappings: int


@dataclass(frozen=True)
class Growth:
    """The change of one resource.

    Attributes:
        name: Name of the resource in the report.
        begin: Median of the second tenth of the samples.
        end: Median of the last tenth.
        is_memory: Whether its growth fails the test.
    """

    name: str
    begin: float
    end: float
    is_memory: bool

    @property
    def share(self) -> float:
        """Growth relative to the beginning."""
        return self.end / self.begin - 1 if self.begin else 0.0


@app.command()
def soak(
    grpc: GrpcAddress = GRPC_ADDRESS,
    http: HttpAddress = HTTP_ADDRESS,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Length of the load in minutes.")
    ] = 30.0,
    pause_s: Annotated[
        float, typer.Option(min=0, help="Seconds between the calls of a caller.")
    ] = 0.05,
    video: Annotated[
        Path | None,
        typer.Option(help="Video to take frames from; default: a 1080p photograph."),
    ] = None,
    output: ReportFolder = Path("reports/soak"),
) -> None:
    """Check that memory does not grow under a long load.

    Exit code 1 if the memory of client or server grows by more than 2 %.
    """
    console = Console()
    scenes = Scenes.from_video(video)
    server = find_listening_process(grpc)
    with (
        Client(f"grpc://{grpc}", shared_memory="system") as frame_client,
        Client(f"http://{http}") as crop_client,
        ThreadPoolExecutor(CALLERS) as pool,
        Progress(console=console, transient=True) as progress,
    ):
        end_s = time.monotonic() + minutes * 60
        callers = [
            pool.submit(_send_frames, frame_client, scenes, end_s, pause_s),
            pool.submit(_send_crops, crop_client, end_s, pause_s),
        ]
        task = progress.add_task("soaking", total=minutes * 60)
        samples: list[Sample] = []
        while time.monotonic() < end_s:
            samples.append(_take_sample(server))
            progress.update(task, completed=minutes * 60 - (end_s - time.monotonic()))
            time.sleep(SAMPLE_INTERVAL_S)
        frames, crop_calls = (caller.result() for caller in callers)
    growths = _measure_growth(samples)
    facts = describe_session() | {
        "server": grpc,
        "load": f"{minutes:g} minutes, {frames} frames, {crop_calls} calls with crops",
    }
    table = _tabulate(growths)
    table.print_to(console)
    console.print(facts["load"])
    record = {"facts": facts, "samples": [asdict(sample) for sample in samples]}
    page = Report("Soak test", facts, record, [table]).write(output)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)
    grows = any(each.is_memory and each.share > MAX_GROWTH for each in growths)
    raise typer.Exit(int(grows))


def _send_frames(client: Client, scenes: Scenes, end_s: float, pause_s: float) -> int:
    rng, calls = np.random.default_rng(0), 0
    while time.monotonic() < end_s:
        client.attributes(*scenes.draw(rng))
        calls += 1
        time.sleep(pause_s)
    return calls


def _send_crops(client: Client, end_s: float, pause_s: float) -> int:
    crops, calls = np.zeros(CROPS_SHAPE, np.uint8), 0
    while time.monotonic() < end_s:
        client.attributes_of_crops(crops)
        calls += 1
        time.sleep(pause_s)
    return calls


def _take_sample(server: psutil.Process) -> Sample:
    own = psutil.Process()
    servers = process_tree(server)
    return Sample(
        memory_mib([own]),
        memory_mib(servers),
        sum(process.num_fds() for process in (own, *servers)),
        len(mapped_shared_files([own, *servers])),
    )


def _measure_growth(samples: Sequence[Sample]) -> list[Growth]:
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]

    def growth(name: str, field: str, *, is_memory: bool = False) -> Growth:
        begin, end = (
            float(np.median([getattr(sample, field) for sample in part]))
            for part in (early, late)
        )
        return Growth(name, begin, end, is_memory)

    return [
        growth("client, MiB", "client_mib", is_memory=True),
        growth("server, MiB", "server_mib", is_memory=True),
        growth("open files", "open_files"),
        growth("mappings of /dev/shm", "shared_mappings"),
    ]


def _tabulate(growths: Sequence[Growth]) -> Table:
    rows = [
        [each.name, f"{each.begin:.1f}", f"{each.end:.1f}", f"{each.share:+.2%}"]
        for each in growths
    ]
    return Table("Growth", ["resource", "begin", "end", "growth"], rows)
