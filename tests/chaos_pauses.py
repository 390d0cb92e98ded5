"""Pause the server's processes at random, and check that no caller gets a wrong answer.

    python -m tests.chaos_pauses --trials 60

Callers send numbered requests whose answers differ and are known. Meanwhile one
Python-backend process, all of them, tritonserver alone, or all of its processes are
paused for 0.5 to 6 s, by SIGSTOP or by the kernel's freezer (as `docker pause` does).
Counted are wrong answers, errors, crashes of tritonserver, and the time until every
answer is right again.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from builders.serve.supervisor import Symptom
from builders.serve.tritonserver import TritonServer
from tests.chaos_callers import (
    HEALTHY_TIMEOUT_S,
    Outcome,
    RepositoryFolder,
    calling,
    list_stubs,
    make_server,
)

TARGETS = ("stub", "stubs", "tritonserver", "all")
FREEZER = Path("/sys/fs/cgroup/freezer")


@contextmanager
def pause_processes(pids: Sequence[int], *, freezer: bool) -> Iterator[None]:
    """Pause processes by signal, or as `docker pause` does.

    Args:
        pids: Their process ids.
        freezer: Whether to use the kernel's freezer, which needs root and cgroup v1.
    """
    if not freezer:
        _kill_all(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _kill_all(pids, signal.SIGCONT)
        return
    group = FREEZER / f"personserve-{os.getpid()}"
    group.mkdir(exist_ok=True)
    for pid in pids:
        with suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(pid))
    (group / "freezer.state").write_text("FROZEN")
    try:
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (FREEZER / "cgroup.procs").write_text(pid)


def _kill_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def draw_pauses(trials: int, seed: int) -> list[tuple[str, float]]:
    """Draw targets and lengths in seconds.

    Args:
        trials: Number of pauses.
        seed: Seed of the lengths; the targets take turns.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible
    return [
        (
            TARGETS[trial % len(TARGETS)],
            rng.choice((0.3, rng.uniform(0.5, 1.5), rng.uniform(0.5, 6))),
        )
        for trial in range(trials)
    ]


def run_trials(
    server: TritonServer,
    pauses: Sequence[tuple[str, float]],
    *,
    callers: int = 6,
    supervised: bool = True,
    freezer: bool = False,
    log: Callable[[str], None] = print,
) -> Outcome:
    """Pause processes of a server while callers use it.

    Args:
        server: A running server with the models of ENSEMBLE.
        pauses: Target, one of TARGETS, and seconds of each pause.
        callers: Number of threads that send requests.
        supervised: Whether a Supervisor restarts the server. If not, it is restarted
            by this function after a crash.
        freezer: Whether to use the kernel's freezer instead of signals.
        log: Called with one line per trial and the supervisor's lines.
    """
    with calling(server, callers, log, supervised=supervised) as (
        outcome,
        threads,
        supervisor,
    ):
        for number, (target, seconds) in enumerate(pauses, 1):
            pids = _choose_pids(server, target)
            outcome.trials[target] += 1
            with pause_processes(pids, freezer=freezer):
                time.sleep(seconds)
            began = time.monotonic()
            time.sleep(1.2)  # a dead process is noticed within a second
            threads.wait_until_healthy()
            outcome.recovery_s.append(time.monotonic() - began)
            if not supervised and outcome.recovery_s[-1] >= HEALTHY_TIMEOUT_S:
                unhealthy = Symptom("canary", "unhealthy")
                symptom = supervisor.find_symptom() or unhealthy
                supervisor.restart(symptom, threading.Event())
            log(
                f"{number:4d}  {target:12s} {seconds:4.2f} s, healthy after "
                f"{outcome.recovery_s[-1]:4.1f} s, {len(outcome.wrong)} wrong, "
                f"{sum(outcome.errors.values())} errors so far"
            )
    return outcome


def _choose_pids(server: TritonServer, target: str) -> list[int]:
    assert server.pid is not None
    stubs = list_stubs(server)
    return {
        "stub": [random.choice(stubs)],  # noqa: S311 - which one is of no account
        "stubs": stubs,
        "tritonserver": [server.pid],
        "all": [server.pid, *stubs],
    }[target]


def main(
    repository: RepositoryFolder = None,
    trials: Annotated[int, typer.Option(help="Number of pauses.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of targets and lengths.")] = 0,
    callers: Annotated[int, typer.Option(help="Threads that send requests.")] = 6,
    cores: Annotated[int, typer.Option(help="Instances of each model.")] = 2,
    supervise: Annotated[
        bool, typer.Option(help="Restart the server as `serve` does.")
    ] = True,
    freezer: Annotated[
        bool,
        typer.Option(
            "--freezer", help="Pause as `docker pause` does (root and cgroup v1)."
        ),
    ] = False,
) -> None:
    """Pause the server's processes at random; exit with 1 if an answer was wrong."""
    with make_server(repository, cores) as server:
        outcome = run_trials(
            server,
            draw_pauses(trials, seed),
            callers=callers,
            supervised=supervise,
            freezer=freezer,
        )
    typer.echo(outcome.text())
    raise typer.Exit(bool(outcome.wrong))


if __name__ == "__main__":
    typer.run(main)
