"""Which instances, queue delay and preferred batches serve a model best, on the real
server: `python -m loadtest tune person_gender --goal p99_ms=500`.

The server takes each candidate as its configuration (Triton's repository API; the files
stay as they are, and come back at the end). Instances first, then batching with the
best count, --rounds times in turns; the winner is then measured against the declared
settings afresh, because the best of many is partly luck. Where the rounds of the two do
not overlap, the change is written as a diff of the declaration, to be reviewed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest.declaration import DeclarationError, batching_diff
from loadtest.report import beyond
from loadtest.server import LOAD_TIMEOUT_S
from loadtest.settings import Settings, TuneError, tuned
from personserve import Client, ModelDescription, PersonServeError
from personserve._closed_loop import closed_loop
from personserve._files import write_text

FINAL_ROUNDS = 5
DELAYS_US = (0, 2000)
LEAST_CALLS = 3


@dataclass(frozen=True)
class Measured:
    """A candidate's rounds."""

    rates: Sequence[float]
    p99s_ms: Sequence[float]

    @property
    def rate(self) -> float:
        """People/s of the median round."""
        return float(np.median(self.rates))

    @property
    def p99_ms(self) -> float:
        """Of the median round."""
        return float(np.median(self.p99s_ms))


Measure = Callable[[Sequence[Settings], int], dict[Settings, Measured]]


def main(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    goal: Annotated[
        str, typer.Option(help="p99_ms=LIMIT: as many people/s as it allows.")
    ],
    grpc: Annotated[str, typer.Option(help="gRPC address.")] = "127.0.0.1:8001",
    http: Annotated[str, typer.Option(help="HTTP address.")] = "127.0.0.1:8000",
    people: Annotated[int, typer.Option(min=1, help="In a request.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    instances: Annotated[str, typer.Option(help="Counts to try.")] = "1,2,3,4",
    seconds: Annotated[float, typer.Option(min=0.1, help="Of one round.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of each candidate.")] = 3,
    output: Annotated[Path, typer.Option(help="Where a diff goes.")] = Path(
        "reports/tune"
    ),
) -> None:
    """Instances and batching for a goal; writes a diff of the declaration.

    Exit code 1 where nothing reaches the goal.
    """
    console = Console()
    limit_ms = _limit_ms(goal)
    counts = [int(count) for count in instances.split(",")]
    try:
        with Client(grpc, timeout_s=LOAD_TIMEOUT_S) as client:
            described = client.describe(model)
            with tuned(http, model) as (declared, use, is_cpu):
                found = _found(
                    declared,
                    counts,
                    _preferred(people, described),
                    _measure(client, described, use, people, concurrency, seconds),
                    rounds,
                    limit_ms,
                    console,
                )
        reached = _concluded(model, declared, found, limit_ms, is_cpu, output, console)
    except (TuneError, DeclarationError, PersonServeError) as exc:
        console.print(f"[red]error:[/red] {exc}", soft_wrap=True)
        raise typer.Exit(1) from exc
    raise typer.Exit(0 if reached else 1)


def _limit_ms(goal: str) -> float:
    name, _, value = goal.partition("=")
    try:
        limit_ms = float(value)
    except ValueError:
        limit_ms = 0.0
    if name != "p99_ms" or not limit_ms > 0:
        raise typer.BadParameter(f"{goal!r}: expected p99_ms=LIMIT, as p99_ms=500")
    return limit_ms


def _preferred(people: int, model: ModelDescription) -> tuple[int, ...]:
    """The batch of four requests, where one may be that large."""
    return (4 * people,) if 4 * people <= model.max_batch_size else ()


def _found(
    declared: Settings,
    counts: Sequence[int],
    preferred: tuple[int, ...],
    measure: Measure,
    rounds: int,
    limit_ms: float,
    console: Console,
) -> dict[Settings, Measured]:
    """The declared settings and the winner, measured afresh."""
    candidates = [replace(declared, instances=count) for count in counts]
    seen = measure(list(dict.fromkeys([declared, *candidates])), rounds)
    best = _best(seen, limit_ms)
    batchings = [replace(best, queue_delay_us=None, preferred=())]
    for sizes in dict.fromkeys([(), preferred]):
        batchings += [
            replace(best, queue_delay_us=delay, preferred=sizes) for delay in DELAYS_US
        ]
    seen |= measure([each for each in batchings if each not in seen], rounds)
    _print("tried", seen, console)
    best = _best(seen, limit_ms)
    if best == declared:
        return {declared: seen[declared]}
    final = measure([declared, best], FINAL_ROUNDS)
    _print("declared, and the best of these again", final, console)
    return final


def _best(seen: Mapping[Settings, Measured], limit_ms: float) -> Settings:
    """The most people/s within the limit; without any, the lowest p99."""
    within = [each for each, found in seen.items() if found.p99_ms <= limit_ms]
    if within:
        return max(within, key=lambda each: seen[each].rate)
    return min(seen, key=lambda each: seen[each].p99_ms)


def _concluded(
    model: str,
    declared: Settings,
    found: Mapping[Settings, Measured],
    limit_ms: float,
    is_cpu: bool,
    output: Path,
    console: Console,
) -> bool:
    """Say what was found, and write the diff; whether the goal is reached."""
    best = list(found)[-1]
    before, after = found[declared], found[best]
    late = before.p99_ms > limit_ms >= after.p99_ms
    gains = after.rate > before.rate and beyond(after.rates, before.rates)
    better = best != declared and (late or gains)
    chosen = after if better else before
    reached = chosen.p99_ms <= limit_ms
    if not better:
        console.print(
            f"{model} keeps its declared settings ({declared}): nothing else is better "
            "by more than the rounds vary"
        )
    else:
        path = output / f"{model}.diff"
        write_text(path, batching_diff(model, _fields(best, is_cpu)))
        console.print(
            f"{best}: {after.rate / before.rate:.2f} of the people/s, p99 "
            f"{before.p99_ms:.0f} ms -> {after.p99_ms:.0f} ms; git apply {path}, then "
            "python -m builders render",
            soft_wrap=True,
        )
    if not reached:
        console.print(
            f"[red]p99 {chosen.p99_ms:.0f} ms[/red]: nothing reaches {limit_ms:g} ms "
            "with this load; ask for fewer people at once, or take more cores"
        )
    return reached


def _fields(settings: Settings, is_cpu: bool) -> dict[str, Any]:
    """As the declaration calls them."""
    if is_cpu:
        return {
            "cpu_instances": settings.instances,
            "cpu_queue_delay_us": settings.queue_delay_us,
            "preferred": settings.preferred,
        }
    return {
        "gpu_instances": settings.instances,
        "queue_delay_us": settings.queue_delay_us,
        "preferred": settings.preferred,
    }


def _measure(
    client: Client,
    model: ModelDescription,
    use: Callable[[Settings], None],
    people: int,
    concurrency: int,
    seconds: float,
) -> Measure:
    rng = np.random.default_rng(0)
    arrays = {
        tensor.name: rng.integers(0, 256, (people, *tensor.shape)).astype(
            {"UINT8": np.uint8, "FP32": np.float32}[tensor.data_type]
        )
        for tensor in model.inputs
    }

    def ask() -> object:
        return client.infer(model.name, timeout_s=LOAD_TIMEOUT_S, **arrays)

    def measure(
        candidates: Sequence[Settings], rounds: int
    ) -> dict[Settings, Measured]:
        taken: dict[Settings, tuple[list[float], list[float]]] = {}
        turns = [each for _ in range(rounds) for each in candidates]
        with Progress(transient=True) as progress:
            for each in progress.track(turns, description=model.name):
                use(each)
                ask()
                times, elapsed = closed_loop(ask, concurrency, seconds, LEAST_CALLS)
                rates, p99s = taken.setdefault(each, ([], []))
                rates.append(len(times) * people / elapsed)
                p99s.append(float(np.percentile(times, 99)) * 1e3)
        return {each: Measured(*found) for each, found in taken.items()}

    return measure


def _print(title: str, seen: Mapping[Settings, Measured], console: Console) -> None:
    table = Table("settings", "people/s", "rounds", "p99 ms", title=title)
    for each, found in sorted(seen.items(), key=lambda item: -item[1].rate):
        spread = f"{min(found.rates):.1f} to {max(found.rates):.1f}"
        table.add_row(str(each), f"{found.rate:.1f}", spread, f"{found.p99_ms:.0f}")
    console.print(table)
