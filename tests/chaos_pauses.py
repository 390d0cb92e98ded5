"""Pause the server's processes at random, and check that no caller gets a wrong answer.

    python -m tests.chaos_pauses --trials 60

Callers send numbered requests whose answers differ and are known. Meanwhile one
Python-backend process, all of them, tritonserver alone, or all of its processes are
paused for 0.5 to 6 s, by SIGSTOP or by the kernel's freezer (as `docker pause` does).
Counted are wrong answers, errors, crashes of tritonserver, and the time until every
answer is right again.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from builders.repository.layout import Repository
from builders.serve.processes import list_session
from builders.serve.supervisor import Supervisor, Symptom
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.weights.standin import noise_crops
from personserve import Client, PersonServeError, Retry

(GENDER,) = models(["person_gender"])
ENSEMBLE = "person_attributes"
BOX = [[0.0, 0.0, 224.0, 224.0]]
QUESTIONS = 16
HEALTHY_ANSWERS = 16
"""Right answers in a row, over all instances, that make a server healthy."""

HEALTHY_TIMEOUT_S = 240.0
MAX_DIFFERENCE = 1e-4
"""Of an answer to the same question. Answers to different questions differ more."""

TARGETS = ("stub", "stubs", "tritonserver", "all")
FREEZER = Path("/sys/fs/cgroup/freezer")

Answer = np.ndarray
Ask = Callable[[Client, int], Answer]


def _ask_gender(client: Client, number: int) -> Answer:
    answer = client.infer(GENDER.name, {"crops": _crops()[number][None]})
    return np.asarray(answer["female_probability"]).reshape(-1)


def _ask_ensemble(client: Client, number: int) -> Answer:
    (person,) = client.attributes(_crops()[number], BOX, crop_on="server")
    probability = person.gender.probability if person.gender else 0.0
    return np.append(person.embedding, probability)


def _crops(cache: list[np.ndarray] = []) -> np.ndarray:  # noqa: B006 - a cache
    if not cache:
        cache.append(noise_crops(GENDER.images[0], QUESTIONS, seed=3))
    return cache[0]


@dataclass
class Outcome:
    """Answers, errors, and restarts of the server.

    Attributes:
        pauses: Number of pauses by target.
        right: Number of right answers.
        wrong: Each wrong answer, with the questions that it would be right for.
        errors: Number of errors by class and message.
        failures: Reasons of the restarts.
        recovery_s: Seconds from the end of each pause until the server was healthy.
    """

    pauses: Counter[str] = field(default_factory=Counter)
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    recovery_s: list[float] = field(default_factory=list)

    @property
    def crashes(self) -> int:
        """Restarts because tritonserver itself had ended."""
        return sum(text.startswith("tritonserver ") for text in self.failures)

    def text(self) -> str:
        """Return a summary."""
        lines = [
            f"pauses          {sum(self.pauses.values())} ({dict(self.pauses)})",
            f"right answers   {self.right}",
            f"wrong answers   {len(self.wrong)}",
            f"errors          {sum(self.errors.values())}",
            *(f"    {count:6d}  {text}" for text, count in self.errors.most_common()),
            f"restarts        {len(self.failures)}",
            f"server crashes  {self.crashes}",
        ]
        if self.recovery_s:
            median, last = np.median(self.recovery_s), max(self.recovery_s)
            lines.append(f"until healthy   {median:.1f} s median, {last:.1f} s at most")
        return "\n".join([*lines, *(f"WRONG {text}" for text in self.wrong)])


class Callers:
    """Threads that send numbered requests and compare the answers."""

    def __init__(self, server: TritonServer, outcome: Outcome, count: int) -> None:
        self._address = server.grpc_address
        self._outcome = outcome
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._streak = 0
        with self._client() as client:
            self._expected = {
                ask: [ask(client, number) for number in range(QUESTIONS)]
                for ask in (_ask_gender, _ask_ensemble)
            }
        for answers in self._expected.values():
            for one, other in itertools.combinations(answers, 2):
                difference = np.abs(one - other).max()
                assert difference > MAX_DIFFERENCE, "answers must tell requests apart"
        self._threads = [
            threading.Thread(target=self._run, args=(seed,)) for seed in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_until_healthy(self) -> float:
        """Return the seconds until HEALTHY_ANSWERS came in a row."""
        began = time.monotonic()
        with self._lock:
            self._streak = 0
        while time.monotonic() - began < HEALTHY_TIMEOUT_S:
            with self._lock:
                if self._streak >= HEALTHY_ANSWERS:
                    break
            time.sleep(0.02)
        return time.monotonic() - began

    def _client(self) -> Client:
        return Client(self._address, timeout_s=8, retry=Retry(attempts=1))

    def _run(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - reproducible
        with self._client() as client:
            while not self._stop.is_set():
                ask = rng.choice(list(self._expected))
                self._check(ask, rng.randrange(QUESTIONS), client)

    def _check(self, ask: Ask, number: int, client: Client) -> None:
        try:
            answer = ask(client, number)
        except PersonServeError as exc:
            with self._lock:
                self._outcome.errors[f"{type(exc).__name__}: {_shorten(exc)}"] += 1
                self._streak = 0
            time.sleep(0.05)
            return
        expected = self._expected[ask]
        right = _is_close(answer, expected[number])
        with self._lock:
            self._streak += 1
            if right:
                self._outcome.right += 1
            else:
                same = [i for i, e in enumerate(expected) if _is_close(answer, e)]
                self._outcome.wrong.append(f"{ask.__name__} {number} got {same}")


def _is_close(answer: Answer, expected: Answer) -> bool:
    same_shape = answer.shape == expected.shape
    return same_shape and float(np.abs(answer - expected).max()) < MAX_DIFFERENCE


def _shorten(exc: Exception) -> str:
    known = (
        "not healthy",
        "Server is stopping",
        "Connection refused",
        "Socket closed",
        "Connection reset",
        "failed to connect",
    )
    return next((text for text in known if text in str(exc)), str(exc)[:80])


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
    outcome = Outcome()
    stop = threading.Event()
    supervisor = Supervisor(server, log)
    threads = Callers(server, outcome, callers)
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    if supervised:
        thread.start()
    try:
        for number, (target, seconds) in enumerate(pauses, 1):
            pids = _choose_pids(server, target)
            outcome.pauses[target] += 1
            with pause_processes(pids, freezer=freezer):
                time.sleep(seconds)
            began = time.monotonic()
            time.sleep(1.2)  # a dead process is noticed within a second
            threads.wait_until_healthy()
            outcome.recovery_s.append(time.monotonic() - began)
            if not supervised and outcome.recovery_s[-1] >= HEALTHY_TIMEOUT_S:
                unhealthy = Symptom("canary", "unhealthy")
                supervisor.restart(supervisor.find_symptom() or unhealthy, stop)
            log(
                f"{number:4d}  {target:12s} {seconds:4.2f} s, healthy after "
                f"{outcome.recovery_s[-1]:4.1f} s, {len(outcome.wrong)} wrong, "
                f"{sum(outcome.errors.values())} errors so far"
            )
    finally:
        threads.stop()
        stop.set()
        if supervised:
            thread.join()
    outcome.failures += supervisor.failures
    return outcome


def _choose_pids(server: TritonServer, target: str) -> list[int]:
    assert server.pid is not None
    stubs = [p.pid for p in list_session(server.pid) if p.pid != server.pid]
    return {
        "stub": [random.choice(stubs)],  # noqa: S311 - which one is of no account
        "stubs": stubs,
        "tritonserver": [server.pid],
        "all": [server.pid, *stubs],
    }[target]


def main(
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository. Default: the one of this checkout."),
    ] = None,
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
    server = TritonServer(
        Repository(repository) if repository else Repository(),
        models=[ENSEMBLE],
        ports=Ports.free(),
        cores=cores,
    )
    with server:
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
