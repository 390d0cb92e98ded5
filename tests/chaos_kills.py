"""Kill the server's processes under load, and check the answers to callers.

    python -m tests.chaos_kills --trials 30

Callers send numbered requests whose answers differ and are known. Meanwhile one
Python-backend process, all of them, or tritonserver itself is killed, by SIGKILL,
SIGSEGV or SIGABRT, and the supervisor restarts what is needed. Counted are wrong
answers, errors that a client must not repeat, and the time until every answer is right
again.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated

import typer

from builders.serve.tritonserver import TritonServer
from tests.chaos_callers import (
    Outcome,
    RepositoryFolder,
    calling,
    list_stubs,
    list_unrepeatable,
    make_server,
)

TARGETS = ("stub", "stubs", "tritonserver")
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
Kill = tuple[str, signal.Signals]
"""A target, one of TARGETS, and the signal that it gets."""


def draw_kills(trials: int, seed: int) -> list[Kill]:
    """Draw a signal for each trial; the targets take turns.

    Args:
        trials: Number of kills.
        seed: Seed of the signals.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible
    return [(TARGETS[i % len(TARGETS)], rng.choice(SIGNALS)) for i in range(trials)]


def run_kills(
    server: TritonServer,
    kills: Sequence[Kill],
    *,
    callers: int = 6,
    log: Callable[[str], None] = print,
) -> Outcome:
    """Kill processes of a supervised server while callers use it.

    Args:
        server: A running server with the models of ENSEMBLE.
        kills: What to kill, one after the other.
        callers: Number of threads that send requests.
        log: Called with one line per trial and the supervisor's lines.
    """
    with calling(server, callers, log) as (outcome, threads, _supervisor):
        for number, (target, kind) in enumerate(kills, 1):
            outcome.trials[target] += 1
            began = time.monotonic()
            for pid in _choose_pids(server, target, seed=number):
                with suppress(ProcessLookupError):
                    os.kill(pid, kind)
            time.sleep(1.2)  # a dead process is noticed within a second
            threads.wait_until_healthy()
            outcome.recovery_s.append(time.monotonic() - began)
            log(
                f"{number:4d}  {target:12s} {kind.name}, healthy after "
                f"{outcome.recovery_s[-1]:4.1f} s, {len(outcome.wrong)} wrong, "
                f"{sum(outcome.errors.values())} errors so far"
            )
    return outcome


def _choose_pids(server: TritonServer, target: str, seed: int) -> list[int]:
    assert server.pid is not None
    stubs = list_stubs(server)
    rng = random.Random(seed)  # noqa: S311 - reproducible
    return {
        "stub": [rng.choice(sorted(stubs))],
        "stubs": stubs,
        "tritonserver": [server.pid],
    }[target]


def main(
    repository: RepositoryFolder = None,
    trials: Annotated[int, typer.Option(help="Number of kills.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the signals.")] = 0,
    callers: Annotated[int, typer.Option(help="Threads that send requests.")] = 6,
    cores: Annotated[int, typer.Option(help="Instances of each model.")] = 2,
) -> None:
    """Kill processes under load; exit with 1 after a wrong or unrepeatable answer."""
    with make_server(repository, cores) as server:
        outcome = run_kills(server, draw_kills(trials, seed), callers=callers)
    unrepeatable = list_unrepeatable(outcome)
    typer.echo(outcome.text())
    typer.echo("\n".join(f"UNREPEATABLE {text}" for text in unrepeatable))
    raise typer.Exit(bool(outcome.wrong or unrepeatable))


if __name__ == "__main__":
    typer.run(main)
