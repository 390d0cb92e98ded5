"""The `perf` command: a sweep with perf_analyzer over transports, batches, concurrency.

    python -m loadtest perf person_gender --people 1,8 --concurrency 1,4

All loads take turns, --rounds times, so that the report can state how much they vary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from loadtest.app import app
from loadtest.errors import LoadTestError
from loadtest.facts import (
    ServedModel,
    describe_models,
    describe_server,
    describe_session,
    describe_weights,
)
from loadtest.load_report import write_load_report
from loadtest.measurements import (
    PROTOCOLS,
    SHARED_MEMORY,
    Point,
    Run,
    compare_runs,
    merge_rounds,
)
from loadtest.options import (
    GRPC_ADDRESS,
    HTTP_ADDRESS,
    METRICS_ADDRESS,
    GrpcAddress,
    HttpAddress,
    MetricsAddress,
    ReportFolder,
    Rounds,
    parse_counts,
)
from loadtest.perf_analyzer import Load, Tool, find_perf_analyzer, run_perf_analyzer
from loadtest.server import CPU_METRIC, GPU_METRIC, check_metrics, sample_utilisation
from personserve import Client
from personserve.internal.report import page_link

NO_SHARED_MEMORY = "none"


@app.command()
def perf(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Models to load in turns.")
    ],
    grpc: GrpcAddress = GRPC_ADDRESS,
    http: HttpAddress = HTTP_ADDRESS,
    metrics: MetricsAddress = METRICS_ADDRESS,
    people: Annotated[
        str, typer.Option(help="People per request, comma-separated.")
    ] = "1,8",
    concurrency: Annotated[
        str, typer.Option(help="Requests in flight, comma-separated.")
    ] = "1,4",
    protocols: Annotated[
        str, typer.Option(help="Protocols, comma-separated: grpc, http.")
    ] = "grpc",
    shared_memory: Annotated[
        str,
        typer.Option(
            help="How tensors travel, comma-separated: none (in the message), system "
            "(/dev/shm), cuda (GPU memory)."
        ),
    ] = NO_SHARED_MEMORY,
    seconds: Annotated[
        float, typer.Option(min=0.2, help="Seconds per measurement window.")
    ] = 2.0,
    rounds: Rounds = 5,
    label: Annotated[
        str, typer.Option(help="Note for the report, for example a branch name.")
    ] = "",
    against: Annotated[
        Path | None, typer.Option(help="report.json of an earlier run to compare with.")
    ] = None,
    output: ReportFolder = Path("reports/load"),
) -> None:
    """Sweep transports, people per request and concurrency with NVIDIA's perf_analyzer.

    Inputs are what the models take: random crops, or a JPEG frame with boxes.
    """
    console = Console()
    grid = product(
        _parse_choices(protocols, "--protocols", PROTOCOLS),
        _parse_choices(
            shared_memory, "--shared-memory", [NO_SHARED_MEMORY, *SHARED_MEMORY]
        ),
        parse_counts(people, "--people"),
        parse_counts(concurrency, "--concurrency"),
    )
    earlier = None if against is None else Run.load(against)
    with Client(grpc) as client:
        described = [client.describe(name) for name in models]
    check_metrics(metrics)
    loads = [
        Load(model, protocol, None if memory == NO_SHARED_MEMORY else memory, *sizes)
        for protocol, memory, *sizes in grid
        for model in described
    ]
    addresses = {"grpc": grpc, "http": http}
    served = describe_models(http, models)
    points = _measure(loads, served, addresses, metrics, seconds, rounds, console)
    facts = describe_session(label) | describe_server(grpc, http, served)
    facts |= describe_weights(served.values())
    run = Run(facts, points)
    page = write_load_report(output, run, earlier)
    _print_summary(run, earlier, console)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)


def _parse_choices(
    text: str, option: str, choices: Sequence[str] | Mapping[str, str]
) -> list[str]:
    chosen = text.split(",")
    for item in chosen:
        if item not in choices:
            raise LoadTestError(
                f"{option} {item!r}: expected one or more of {', '.join(choices)}, "
                "separated by commas"
            )
    return chosen


def _measure(
    loads: Sequence[Load],
    served: Mapping[str, ServedModel],
    addresses: Mapping[str, str],
    metrics: str,
    seconds: float,
    rounds: int,
    console: Console,
) -> list[Point]:
    """Return one point per load; the loads take turns in every round."""
    points: list[list[Point]] = [[] for _ in loads]
    with find_perf_analyzer(console) as tool:
        turns = [index for _ in range(rounds) for index in range(len(loads))]
        for index in track(turns, "measuring", console=console, transient=True):
            load = loads[index]
            model = served.get(load.model.name, ServedModel(""))
            points[index].append(
                _measure_once(tool, load, model, addresses, metrics, seconds)
            )
    return [merge_rounds(of_load) for of_load in points]


def _measure_once(
    tool: Tool,
    load: Load,
    served: ServedModel,
    addresses: Mapping[str, str],
    metrics: str,
    seconds: float,
) -> Point:
    with sample_utilisation(metrics) as samples:
        row = run_perf_analyzer(tool, load, addresses[load.protocol], seconds)

    def ms(*columns: str) -> float:
        return sum(float(row[column]) for column in columns) / 1e3

    mean_use = {name: float(np.mean(values)) for name, values in samples.items()}
    return Point(
        load.model.name,
        load.transport,
        load.people,
        load.concurrency,
        [float(row["Inferences/Second"]) * load.people_per_inference],
        ms("p50 latency"),
        ms("p99 latency"),
        ms("Server Queue"),
        ms("Server Compute Input", "Server Compute Infer", "Server Compute Output"),
        ms("Client Send", "Network+Server Send/Recv", "Client Recv"),
        mean_use.get(CPU_METRIC),
        mean_use.get(GPU_METRIC),
        runtime=served.runtime,
        precision=served.precision,
    )


def _print_summary(run: Run, earlier: Run | None, console: Console) -> None:
    for point in run.points:
        console.print(
            f"{point.key}: {point.rate:.1f} people/s, p50 {point.p50_ms:.1f} ms, "
            f"p99 {point.p99_ms:.1f} ms",
            soft_wrap=True,
        )
    for change in compare_runs(run, earlier) if earlier else []:
        if change.exceeds_spread:
            console.print(str(change), style="bold")
