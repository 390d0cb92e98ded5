"""The `tune` command: instances, queue delay and preferred batches for a goal.

    python -m loadtest tune person_gender --goal p99_ms=500

The server runs each candidate as its configuration (Triton's repository API; the files
do not change, and the declared settings are restored at the end). Instances are tried
first, then batching with the best count, --rounds times in turns. The winner is then
measured against the declared settings again, because the best of many is partly luck.
If the rounds of the two do not overlap, the report has the line to paste into the
model's declaration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.app import app
from loadtest.errors import LoadTestError
from loadtest.facts import describe_session
from loadtest.model_config import LiveConfig, Settings, restoring_config
from loadtest.options import (
    GRPC_ADDRESS,
    HTTP_ADDRESS,
    GrpcAddress,
    HttpAddress,
    parse_counts,
)
from loadtest.server import LOAD_TIMEOUT_S
from loadtest.tuning import RunTrials, Trial, Tuning, find_best
from personserve import Client, ModelDescription
from personserve.internal.closed_loop import run_closed_loop
from personserve.internal.report import Report, page_link
from personserve.internal.sections import Listing, Table

MIN_CALLS = 3

DTYPES = {"UINT8": np.uint8, "FP32": np.float32}


@app.command()
def tune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model to tune, not an ensemble.")
    ],
    goal: Annotated[
        str,
        typer.Option(
            help="p99_ms=LIMIT: find the highest throughput with a 99th percentile of "
            "latency of at most LIMIT ms."
        ),
    ],
    grpc: GrpcAddress = GRPC_ADDRESS,
    http: HttpAddress = HTTP_ADDRESS,
    people: Annotated[int, typer.Option(min=1, help="People per request.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
    instances: Annotated[
        str, typer.Option(help="Instance counts to try, comma-separated.")
    ] = "1,2,3,4",
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds per round.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds per candidate.")] = 3,
    output: Annotated[
        Path, typer.Option(help="Folder for the report; each model has its own in it.")
    ] = Path("reports/tune"),
) -> None:
    """Find a model's best instances and batching for a latency goal.

    Prints the Batching(...) line for the model's declaration, and the difference of
    the server's configuration. Exit code 1 if nothing reaches the goal.
    """
    console = Console()
    limit_ms = _parse_goal(goal)
    counts = parse_counts(instances, "--instances")
    with (
        Client(grpc, timeout_s=LOAD_TIMEOUT_S) as client,
        restoring_config(http, model) as config,
    ):
        description = client.describe(model)
        tuning = find_best(
            model,
            config.declared,
            counts,
            _preferred_sizes(people, description),
            _make_run_trials(client, description, config, people, concurrency, seconds),
            rounds,
            limit_ms,
            is_cpu=config.is_cpu,
        )
        difference = config.diff(tuning.chosen)
    conclude(tuning, difference, output / model, console)
    raise typer.Exit(0 if tuning.reaches_goal else 1)


def _parse_goal(goal: str) -> float:
    name, _, value = goal.partition("=")
    try:
        limit_ms = float(value)
    except ValueError:
        limit_ms = 0.0
    if name != "p99_ms" or not limit_ms > 0:
        raise LoadTestError(
            f"--goal {goal!r}: expected p99_ms=LIMIT, for example p99_ms=500"
        )
    return limit_ms


def _preferred_sizes(people: int, model: ModelDescription) -> tuple[int, ...]:
    """Return the batch of four requests, if the model takes one that large."""
    return (4 * people,) if 4 * people <= model.max_batch_size else ()


def conclude(tuning: Tuning, difference: str, folder: Path, console: Console) -> None:
    """Print the result, and write its report.

    Args:
        tuning: The result.
        difference: The difference of the server's configuration, for the report.
        folder: Where the report is written.
        console: Where the result is printed.
    """
    tables = [_tabulate("Candidates", tuning.trials)]
    if len(tuning.final) > 1:
        tables.append(_tabulate("Declared and best, measured again", tuning.final))
    for table in tables:
        table.print_to(console)
    listings = []
    if tuning.is_better:
        listings = [
            Listing("Line for the declaration", declaration_line(tuning), "python"),
            Listing("Change of the configuration", difference, "diff"),
        ]
    _print_verdict(tuning, listings, console)
    facts = describe_session() | {
        "goal": f"p99 of at most {tuning.limit_ms:g} ms",
        "declared": str(tuning.declared),
        "chosen": str(tuning.chosen),
    }
    record = {
        "facts": facts,
        "trials": {str(each): list(t.rates) for each, t in tuning.trials.items()},
        "final": {str(each): list(t.rates) for each, t in tuning.final.items()},
    }
    title = f"Tuning of {tuning.model}"
    page = Report(title, facts, record, [*listings, *tables]).write(folder)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)


def _print_verdict(
    tuning: Tuning, listings: Sequence[Listing], console: Console
) -> None:
    if tuning.is_better:
        before, after = tuning.final[tuning.declared], tuning.final[tuning.best]
        console.print(
            f"{tuning.best}: {after.rate / before.rate:.2f} of the declared settings' "
            f"people/s, p99 {before.p99_ms:.0f} ms -> {after.p99_ms:.0f} ms. Paste the "
            f"line into builders/models/{tuning.model}.py, and run "
            "python -m builders render:",
            soft_wrap=True,
        )
        for listing in listings:
            console.print(f"\n{listing.text}", markup=False, soft_wrap=True)
    else:
        console.print(
            f"{tuning.model} keeps its declared settings ({tuning.declared}): no other "
            "is better by more than the spread of the rounds",
            soft_wrap=True,
        )
    if not tuning.reaches_goal:
        p99_ms = tuning.final[tuning.chosen].p99_ms
        console.print(
            f"[red]p99 {p99_ms:.0f} ms[/red]: nothing reaches {tuning.limit_ms:g} ms "
            "with this load; lower --concurrency or --people, or use more cores",
            soft_wrap=True,
        )


def declaration_line(tuning: Tuning) -> str:
    """Return the keyword argument for the model's declaration, as Python code.

    Args:
        tuning: The result; its best settings are written.
    """
    prefix = "cpu_" if tuning.is_cpu else ""
    fields = {
        "cpu_instances" if tuning.is_cpu else "gpu_instances": tuning.best.instances,
        f"{prefix}queue_delay_us": tuning.best.queue_delay_us,
        "preferred_batch_sizes": tuning.best.preferred,
    }
    words = (f"{name}={value!r}" for name, value in fields.items())
    return f"batching=Batching({', '.join(words)})"


def _make_run_trials(
    client: Client,
    model: ModelDescription,
    config: LiveConfig,
    people: int,
    concurrency: int,
    seconds: float,
) -> RunTrials:
    """Return a function that measures candidates on the server."""
    rng = np.random.default_rng(0)
    arrays = {
        tensor.name: rng.integers(0, 256, (people, *tensor.shape)).astype(
            DTYPES[tensor.data_type]
        )
        for tensor in model.inputs
    }

    def infer() -> object:
        return client.infer(model.name, arrays, timeout_s=LOAD_TIMEOUT_S)

    def run_trials(
        candidates: Sequence[Settings], rounds: int
    ) -> dict[Settings, Trial]:
        trials: dict[Settings, Trial] = {each: Trial([], []) for each in candidates}
        turns = [each for _ in range(rounds) for each in candidates]
        with Progress(transient=True) as progress:
            for settings in progress.track(turns, description=model.name):
                config.apply(settings)
                infer()
                times_s, elapsed_s = run_closed_loop(
                    infer, concurrency, seconds, MIN_CALLS
                )
                trial = trials[settings]
                trials[settings] = Trial(
                    [*trial.rates, len(times_s) * people / elapsed_s],
                    [*trial.p99s_ms, float(np.percentile(times_s, 99)) * 1e3],
                )
        return trials

    return run_trials


def _tabulate(title: str, trials: Mapping[Settings, Trial]) -> Table:
    rows = [
        [
            str(settings),
            f"{trial.rate:.1f}",
            f"{min(trial.rates):.1f} to {max(trial.rates):.1f}",
            f"{trial.p99_ms:.0f}",
        ]
        for settings, trial in sorted(trials.items(), key=lambda item: -item[1].rate)
    ]
    return Table(title, ["settings", "people/s", "rounds", "p99 ms"], rows)
