"""The `compare` command: our server against baselines and other running servers.

Baselines are FastAPI under uvicorn, LitServe, mosec and pytriton (loadtest/baselines)
with the same ONNX files, on the same cores and under the same load; --server adds any
running server that speaks KServe v2. All systems take turns, --rounds times. The upper
bound is the same work in this process, one thread per core.

Needs a running server on this machine (`python -m builders serve --http`). Every
system's result is compared with the networks' own before anything is timed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.app import app
from loadtest.baselines.endpoints import Endpoint, describe_tensors, parse_endpoint
from loadtest.baselines.in_process import (
    GENDER,
    REPOSITORY,
    Networks,
    describe_frame_networks,
)
from loadtest.baselines.jobs import Job, check_result, find_difference, make_jobs
from loadtest.baselines.systems import (
    BASELINES,
    IN_PROCESS,
    PERSONSERVE,
    SDK,
    System,
    running_system,
)
from loadtest.baselines.work import WORKERS
from loadtest.errors import LoadTestError
from loadtest.facts import describe_models, describe_session, describe_weights
from loadtest.load_report import write_load_report
from loadtest.machine import memory_mib
from loadtest.measurements import Point, Run, merge_rounds, rounds_differ
from loadtest.options import (
    DEFAULT_FRAME_MODEL,
    GRPC_ADDRESS,
    HTTP_ADDRESS,
    GrpcAddress,
    HttpAddress,
    ReportFolder,
    Repository,
    Rounds,
    parse_counts,
)
from personserve import Client
from personserve.internal.closed_loop import run_closed_loop
from personserve.internal.report import page_link
from personserve.internal.sections import Table

MIN_CALLS = 3
"""Requests of each caller, even if a frame takes longer than the time for a load."""


@app.command()
def compare(
    grpc: GrpcAddress = GRPC_ADDRESS,
    http: HttpAddress = HTTP_ADDRESS,
    repository: Repository = REPOSITORY,
    baselines: Annotated[
        str,
        typer.Option(help=f"Servers, comma-separated: {', '.join(BASELINES)}."),
    ] = ",".join(BASELINES),
    servers: Annotated[
        list[str] | None,
        typer.Option(
            "--server",
            metavar="NAME=URL",
            help="A further server that speaks KServe v2: grpc://HOST:PORT/MODEL or "
            "http://. A query maps our tensors (crops, female_probability; "
            "encoded_frame, boxes, embedding) to its names: ?crops=INPUT. May be "
            "repeated.",
        ),
    ] = None,
    concurrency: Annotated[
        str, typer.Option(help="Requests in flight, comma-separated.")
    ] = "1,8,32",
    people: Annotated[int, typer.Option(min=1, help="People per frame.")] = 4,
    model: Annotated[
        str,
        typer.Option(
            help="Model of this server that takes frames; its networks are what "
            "all systems run."
        ),
    ] = DEFAULT_FRAME_MODEL,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds per load and round.")
    ] = 4.0,
    rounds: Rounds = 3,
    output: ReportFolder = Path("reports/compare"),
) -> None:
    """Compare this server with FastAPI, LitServe, mosec, pytriton, and any other.

    The four run the same ONNX files on the same cores; other servers are named by
    --server. The upper bound is the same work in this process, one thread per core.

    Against one other server only:
    `python -m loadtest compare --baselines "" --server
    other=grpc://192.0.2.7:8001/person_attributes`. It may serve other tensor names,
    another precision and other weights; the report states how far its results are from
    the networks' own.
    """
    console = Console()
    names = [name for name in baselines.split(",") if name]
    for name in names:
        if name not in BASELINES:
            raise typer.BadParameter(
                f"{name!r}: expected one or more of {', '.join(BASELINES)}",
                param_hint="--baselines",
            )
    counts = parse_counts(concurrency, "--concurrency")
    endpoints = _parse_endpoints(servers or ())
    with Client(grpc) as client:
        specs = describe_frame_networks(client, http, model)
    networks = Networks(repository, specs)
    loads = [(job, count) for job in make_jobs(people, networks) for count in counts]
    with Progress(console=console, transient=True) as progress:
        points, differences = _measure(
            [IN_PROCESS, PERSONSERVE, SDK, *names, *endpoints],
            *(loads, networks, grpc, http, endpoints, model, seconds, rounds, progress),
        )
    served = describe_models(http, [spec.model for spec in specs.values()])
    gender = served[specs[GENDER].model]
    runtime = f"ONNX Runtime {version('onnxruntime')}, one thread per session"
    facts = {"model": model, "target": f"cpu, {gender.precision}, {runtime}"}
    facts |= describe_weights(served.values())
    facts |= _versions(names) | {
        name: f"{endpoints[name]}, at most {difference:.2g} from the networks' results"
        for name, difference in differences.items()
    }
    run = Run(describe_session() | facts, points)
    table = _tabulate(run)
    table.print_to(console)
    page = write_load_report(output, run, tables=[table])
    console.print(f"wrote {page_link(page)}", soft_wrap=True)


def _parse_endpoints(servers: Sequence[str]) -> dict[str, Endpoint]:
    """Return the endpoints by name, and refuse what cannot be measured at once."""
    parsed = list(map(parse_endpoint, servers))
    counts = Counter(each.name for each in parsed)
    counts.update([IN_PROCESS, PERSONSERVE, SDK, *BASELINES])
    taken = [name for name, count in counts.items() if count > 1]
    if taken:
        raise LoadTestError(
            f"--server {', '.join(taken)}: this name is there twice; expected a name "
            "that no other system has"
        )
    endpoints = {each.name: each for each in parsed}
    for endpoint in endpoints.values():
        describe_tensors(endpoint)
    return endpoints


def _versions(names: Sequence[str]) -> dict[str, str]:
    try:
        return {name: version(BASELINES[name].distribution) for name in names}
    except PackageNotFoundError as exc:
        raise LoadTestError(
            f'{exc.name} is not installed: pip install -e ".[compare]"'
        ) from exc


def _measure(
    names: Sequence[str],
    loads: Sequence[tuple[Job, int]],
    networks: Networks,
    grpc: str,
    http: str,
    endpoints: Mapping[str, Endpoint],
    model: str,
    seconds: float,
    rounds: int,
    progress: Progress,
) -> tuple[list[Point], dict[str, float]]:
    """Measure all loads on all systems, one system after the other in each round.

    Returns:
        The points, and the largest difference of each endpoint's results.
    """
    expected = {job.name: job.run(networks) for job, _ in loads}
    differences = dict.fromkeys(endpoints, 0.0)
    points: dict[tuple[str, str, int], list[Point]] = {}
    task = progress.add_task("measuring", total=rounds * len(loads) * len(names))
    for _ in range(rounds):
        for name in names:
            progress.update(task, description=name)
            with running_system(name, networks, grpc, http, endpoints, model) as system:
                for job, concurrency in loads:
                    if not system.takes(job):
                        progress.advance(task)
                        continue
                    results = system.send(job), expected[job.name]
                    if name in endpoints:  # perhaps of another precision
                        difference = find_difference(name, job, *results)
                        differences[name] = max(differences[name], difference)
                    else:
                        check_result(name, job, *results)
                    point = _measure_once(system, job, concurrency, seconds)
                    points.setdefault((job.name, name, concurrency), []).append(point)
                    progress.advance(task)
    return [merge_rounds(of_load) for of_load in points.values()], differences


def _measure_once(system: System, job: Job, concurrency: int, seconds: float) -> Point:
    # in process, more threads than cores would not be an upper bound
    callers = min(concurrency, WORKERS) if system.name == IN_PROCESS else concurrency
    times_s, elapsed_s = run_closed_loop(
        lambda: system.send(job), callers, seconds, MIN_CALLS
    )
    p50_ms, p99_ms = np.percentile(np.array(times_s) * 1e3, (50, 99))
    processes = system.processes()
    return Point(
        job.name,
        system.transport,
        job.people,
        concurrency,
        [len(times_s) * job.people / elapsed_s],
        float(p50_ms),
        float(p99_ms),
        memory_mib=memory_mib(processes) if processes else None,
        system=system.name,
        runtime="onnxruntime",
    )


def _tabulate(run: Run) -> Table:
    """Compare our server with the bound and with the best baseline, load by load."""
    head = ["load", PERSONSERVE, "of the bound", "SDK", "best baseline", "verdict"]
    head += [f"{PERSONSERVE} p99 ms", "best baseline p99 ms"]
    rows = []
    for job, concurrency in dict.fromkeys((p.model, p.concurrency) for p in run.points):
        systems = {
            point.system: point
            for point in run.points
            if (point.model, point.concurrency) == (job, concurrency)
        }
        rows.append([f"{job}, x{concurrency}", *_compare_systems(systems)])
    return Table("Throughput compared, people/s", head, rows)


def _compare_systems(points: Mapping[str, Point]) -> list[str]:
    ours, bound, sdk = points[PERSONSERVE], points[IN_PROCESS], points[SDK]
    cells = [f"{ours.rate:.1f}", f"{ours.rate / bound.rate:.2f}", f"{sdk.rate:.1f}"]
    own = {PERSONSERVE, IN_PROCESS, SDK}
    baselines = [point for name, point in points.items() if name not in own]
    if not baselines:
        return [*cells, *["-"] * 4]
    fastest = max(baselines, key=lambda point: point.rate)
    lowest = min(baselines, key=lambda point: point.p99_ms)
    verdict = "within the spread"
    if rounds_differ(ours.people_per_s, fastest.people_per_s):
        verdict = "ahead" if ours.rate > fastest.rate else "BEHIND"
    return [
        *cells,
        f"{fastest.rate:.1f} {fastest.system}",
        verdict,
        f"{ours.p99_ms:.0f}",
        f"{lowest.p99_ms:.0f} {lowest.system}",
    ]
