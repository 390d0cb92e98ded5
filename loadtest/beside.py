"""This server beside others with the same ONNX files, the same cores and the same load:
FastAPI under uvicorn, LitServe, mosec and pytriton (loadtest/rivals), each in turn,
--rounds times. In process is the bound: the same work by a thread a core.

It wants a running server on this machine (`python -m builders serve`), and every answer
is compared with what the networks give here before anything is timed.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest.in_process import REPOSITORY, Networks, NotBuiltError
from loadtest.machine import machine_name, memory_mib
from loadtest.report import Point, Run, beyond, merged, write_report
from loadtest.rivals.asking import (
    BOUND,
    OURS,
    RIVALS,
    SDK,
    Job,
    RivalError,
    check,
    jobs,
    started,
)
from loadtest.rivals.work import WORKERS
from personserve import PersonServeError
from personserve._closed_loop import closed_loop

LEAST_CALLS = 3
"""Of each caller, where a frame of a crowd takes longer than the time."""


def main(
    grpc: Annotated[str, typer.Option(help="gRPC address.")] = "127.0.0.1:8001",
    http: Annotated[str, typer.Option(help="HTTP address.")] = "127.0.0.1:8000",
    repository: Annotated[
        Path, typer.Option(help="Where the server's models are built.")
    ] = REPOSITORY,
    rivals: Annotated[str, typer.Option(help="Several divided by commas.")] = ",".join(
        RIVALS
    ),
    concurrency: Annotated[str, typer.Option(help="Callers at once.")] = "1,8,32",
    people: Annotated[int, typer.Option(min=1, help="In a frame.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of one load.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path(
        "reports/beside"
    ),
) -> None:
    """This server beside FastAPI, LitServe, mosec and pytriton; with a report."""
    console = Console()
    names = [name for name in rivals.split(",") if name]
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]}: there are {', '.join(RIVALS)}")
    loads = [
        (job, int(count)) for job in jobs(people) for count in concurrency.split(",")
    ]
    try:
        with Progress(console=console, transient=True) as progress:
            points = _measured(
                (grpc, http), repository, names, loads, seconds, rounds, progress
            )
    except (RivalError, NotBuiltError, LookupError, PersonServeError) as exc:
        console.print(f"[red]error:[/red] {exc}", soft_wrap=True)
        raise typer.Exit(1) from exc
    run = Run(_facts(names), points)
    verdict = _verdict(run)
    table = Table(*verdict[1])
    for row in verdict[2]:
        table.add_row(*row)
    console.print(table)
    console.print(f"wrote {write_report(output, run, more=[verdict])}")


def _measured(
    addresses: tuple[str, str],
    repository: Path,
    rivals: Sequence[str],
    loads: Sequence[tuple[Job, int]],
    seconds: float,
    rounds: int,
    progress: Progress,
) -> list[Point]:
    """All loads on all servers, one server after the other in each round."""
    networks = Networks(repository)
    expected = {job.name: job.done_by(networks) for job, _ in loads}
    taken: dict[tuple[str, str, int], list[Point]] = {}
    task = progress.add_task("measuring", total=rounds * len(loads) * (len(rivals) + 3))
    for _ in range(rounds):
        for way in (BOUND, OURS, SDK, *rivals):
            progress.update(task, description=way)
            with started(way, addresses, networks, repository) as (ask, processes):
                for job, callers in loads:
                    check(way, job, ask(job)(), expected[job.name])
                    # more threads than cores would not be the bound
                    count = min(callers, WORKERS) if way == BOUND else callers
                    times, elapsed = closed_loop(ask(job), count, seconds, LEAST_CALLS)
                    point = _point(way, job, callers, times, elapsed, processes())
                    taken.setdefault((job.name, way, callers), []).append(point)
                    progress.advance(task)
    return [merged(points) for points in taken.values()]


def _point(
    way: str,
    job: Job,
    callers: int,
    times: Sequence[float],
    elapsed: float,
    processes: list[psutil.Process],
) -> Point:
    p50, p99 = np.percentile(np.array(times) * 1e3, (50, 99))
    return Point(
        job.name,
        way,
        job.people,
        callers,
        [len(times) * job.people / elapsed],
        float(p50),
        float(p99),
        memory_mib=memory_mib(processes),
    )


def _verdict(run: Run) -> tuple[str, list[str], list[list[str]]]:
    """Each load: ours to the bound, and the best of the others to ours."""
    head = ["load", "ours", "of bound", "SDK", "best other", "", "p99 ms", "other"]
    rows = []
    for job, count in dict.fromkeys((p.model, p.concurrency) for p in run.points):
        found = {
            p.way: p for p in run.points if (p.model, p.concurrency) == (job, count)
        }
        ours, bound, sdk = found.pop(OURS), found.pop(BOUND), found.pop(SDK)
        row = [f"{job}, x{count}", f"{ours.rate:.1f}", f"{ours.rate / bound.rate:.2f}"]
        row.append(f"{sdk.rate:.1f}")
        if found:
            best = max(found.values(), key=lambda point: point.rate)
            quick = min(found.values(), key=lambda point: point.p99_ms)
            apart = beyond(ours.people_per_s, best.people_per_s)
            ahead = "ours ahead" if ours.rate > best.rate else "BEHIND"
            row += [f"{best.rate:.1f} {best.way}", ahead if apart else "within spread"]
            row += [f"{ours.p99_ms:.0f}", f"{quick.p99_ms:.0f} {quick.way}"]
        rows.append(row)
    return "Beside others, people/s", head[: len(rows[0])], rows


def _facts(rivals: Sequence[str]) -> dict[str, str]:
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{machine_name()}, Python {platform.python_version()}",
        "target": f"cpu, FP32, ONNX Runtime {version('onnxruntime')}, one thread each",
    }
    return facts | {name: version(RIVALS[name][1]) for name in rivals}
