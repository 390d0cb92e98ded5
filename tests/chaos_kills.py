"""Kill the server's processes under load, and check what callers see.

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
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from builders.repository.layout import Repository
from builders.serve.processes import list_session
from builders.serve.supervisor import Supervisor
from builders.serve.tritonserver import Ports, TritonServer
from tests.chaos_pauses import ENSEMBLE, Callers, Outcome

TARGETS = ("stub", "stubs", "tritonserver")
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
REPEATABLE = {
    "ModelLoadingError",
    "ModelUnavailableError",
    "OverloadedError",
    "ServerUnavailableError",
}
"""Errors after which a client may ask the same or another server again."""

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
    outcome = Outcome()
    stop = threading.Event()
    supervisor = Supervisor(server, log)
    threads = Callers(server, outcome, callers)
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        for number, (target, kind) in enumerate(kills, 1):
            outcome.pauses[target] += 1
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
    finally:
        threads.stop()
        stop.set()
        thread.join()
    outcome.failures += supervisor.failures
    return outcome


def list_unrepeatable(outcome: Outcome) -> list[str]:
    """Return the errors after which a client does not ask again.

    Args:
        outcome: What callers saw.
    """
    return [text for text in outcome.errors if text.split(":")[0] not in REPEATABLE]


def _choose_pids(server: TritonServer, target: str, seed: int) -> list[int]:
    assert server.pid is not None
    stubs = [p.pid for p in list_session(server.pid) if p.pid != server.pid]
    rng = random.Random(seed)  # noqa: S311 - reproducible
    return {
        "stub": [rng.choice(sorted(stubs))],
        "stubs": stubs,
        "tritonserver": [server.pid],
    }[target]


def main(
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository. Default: the one of this checkout."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Number of kills.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the signals.")] = 0,
    callers: Annotated[int, typer.Option(help="Threads that send requests.")] = 6,
    cores: Annotated[int, typer.Option(help="Instances of each model.")] = 2,
) -> None:
    """Kill processes under load; exit with 1 after a wrong or unrepeatable answer."""
    server = TritonServer(
        Repository(repository) if repository else Repository(),
        models=[ENSEMBLE],
        ports=Ports.free(),
        cores=cores,
    )
    with server:
        outcome = run_kills(server, draw_kills(trials, seed), callers=callers)
    unrepeatable = list_unrepeatable(outcome)
    typer.echo(outcome.text().replace("pauses  ", "kills   ", 1))
    typer.echo("\n".join(f"UNREPEATABLE {text}" for text in unrepeatable))
    raise typer.Exit(bool(outcome.wrong or unrepeatable))


if __name__ == "__main__":
    typer.run(main)
