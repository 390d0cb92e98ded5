"""Callers of a server that is paused, killed or given another time meanwhile.

Callers send numbered requests whose answers differ and are known. Counted are right and
wrong answers, errors, restarts, and the time until every answer is right again.
"""

from __future__ import annotations

import itertools
import random
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
from builders.serve.errors import ServeError
from builders.serve.processes import list_session
from builders.serve.selection import choose_models
from builders.serve.supervisor import Supervisor
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.weights.standin import noise_crops
from personserve import Client, PersonServeError, Retry

RepositoryFolder = Annotated[
    Path | None,
    typer.Option(
        "--repository", help="Model repository. Default: the one of this checkout."
    ),
]
"""Option of the scripts that start a server."""

(GENDER,) = models(["person_gender"])
ENSEMBLE = "person_attributes"
BOX = [[0.0, 0.0, 224.0, 224.0]]
QUESTIONS = 16
HEALTHY_ANSWERS = 16
"""Right answers in a row, over all instances, that make a server healthy."""

HEALTHY_TIMEOUT_S = 240.0
MAX_DIFFERENCE = 1e-4
"""Of an answer to the same question. Answers to different questions differ more."""

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
        trials: Number of trials by what was done to the server.
        right: Number of right answers.
        wrong: Each wrong answer, with the questions that it would be right for.
        errors: Number of errors by class and message.
        failures: Reasons of the restarts.
        recovery_s: Seconds from the end of each pause until the server was healthy.
    """

    trials: Counter[str] = field(default_factory=Counter)
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
            f"trials          {sum(self.trials.values())} ({dict(self.trials)})",
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


REPEATABLE = {
    "ModelLoadingError",
    "ModelUnavailableError",
    "OverloadedError",
    "ServerUnavailableError",
}
"""Errors after which a client may ask the same or another server again."""


def list_unrepeatable(outcome: Outcome) -> list[str]:
    """Return the errors after which a client does not ask again.

    Args:
        outcome: What callers saw.
    """
    return [text for text in outcome.errors if text.split(":")[0] not in REPEATABLE]


def list_stubs(server: TritonServer) -> list[int]:
    """Return the Python processes of a server."""
    return [p.pid for p in list_session(server.pid) if p.pid != server.pid]


def make_server(
    repository: Path | None,
    cores: int,
    *,
    models: Sequence[str] = (ENSEMBLE,),
    log: Path | None = None,
    http: bool = False,
) -> TritonServer:
    """Return a server, not started.

    Args:
        repository: Model repository; None for the one of this checkout.
        cores: Instances of each model.
        models: What it serves, as far as it is built; the first one must be.
        log: File for the server's log.
        http: Whether it takes HTTP, too.
    """
    folder = Repository(repository) if repository else Repository()
    built = [models[0]]
    for model in models[1:]:
        with suppress(ServeError):
            built += choose_models(folder, "cpu", [model])[0]
    return TritonServer(
        folder,
        models=built,
        ports=Ports.free(),
        cores=cores,
        log=log,
        http=http,
    )


@contextmanager
def calling(
    server: TritonServer,
    count: int,
    log: Callable[[str], None],
    *,
    supervised: bool = True,
) -> Iterator[tuple[Outcome, Callers, Supervisor]]:
    """Have callers use a running server until the block ends.

    Args:
        server: The server, with the models of ENSEMBLE.
        count: Number of callers.
        log: Called with the supervisor's lines.
        supervised: Whether the supervisor runs.
    """
    outcome, stop = Outcome(), threading.Event()
    supervisor = Supervisor(server, log)
    callers = Callers(server, outcome, count)
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    if supervised:
        thread.start()
    try:
        yield outcome, callers, supervisor
    finally:
        callers.stop()
        stop.set()
        if supervised:
            thread.join()
        outcome.failures += supervisor.failures
