"""Restart two servers in turn under load, and count the calls that fail.

    python -m tests.chaos_restarts --calls 10000

Callers send numbered crops through one client that knows both servers. Meanwhile each
server in turn is stopped as SIGTERM stops it, started again, and given some time. Every
answer is compared with the known one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from builders.repository.layout import Repository
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.weights.standin import noise_crops
from personserve import Client, PersonServeError, Retry

(GENDER,) = models(["person_gender"])
CROPS = 8
ROUNDING = 2e-6
"""Difference that the other crops of a batch make."""

TIMEOUT_S = 120.0
SETTLING_S = 2.0
"""Time between two restarts, in which the client finds the server again."""


@dataclass
class RestartOutcome:
    """Outcome of the calls.

    Attributes:
        calls: Number of calls by outcome: "right", "WRONG", or the error.
        restarts: Number of restarts.
        slowest_s: Time of the slowest call.
    """

    calls: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    slowest_s: float = 0.0

    @property
    def failed(self) -> int:
        """Calls without a right answer."""
        return sum(self.calls.values()) - self.calls["right"]

    def text(self) -> str:
        """Return a summary."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.calls.items())
        return (
            f"{counts}; {self.restarts} restarts, slowest call {self.slowest_s:.1f} s"
        )


def run_restarts(
    servers: Sequence[TritonServer],
    calls: int,
    *,
    callers: int = 4,
    log: Callable[[str], None] = print,
) -> RestartOutcome:
    """Send calls to servers that are restarted in turn.

    Args:
        servers: Running servers with the model GENDER.
        calls: Number of calls, and more until each server was restarted once.
        callers: Threads that send them.
        log: Called with one line for each restart.
    """
    crops = [crop[None] for crop in noise_crops(GENDER.images[0], CROPS, seed=2)]
    outcome, lock = RestartOutcome(), threading.Lock()
    numbers = itertools.count()
    retry = Retry(attempts=30)
    addresses = [server.grpc_address for server in servers]

    with Client(addresses, timeout_s=TIMEOUT_S, retry=retry) as client:

        def infer(number: int) -> float:
            answer = client.infer(GENDER.name, {"crops": crops[number % CROPS]})
            return float(answer["female_probability"].item())

        expected = [infer(number) for number in range(CROPS)]

        def call() -> None:
            while True:
                number = next(numbers)
                if number >= calls and outcome.restarts >= len(servers):
                    return
                began = time.monotonic()
                try:
                    difference = abs(infer(number) - expected[number % CROPS])
                    kind = "right" if difference < ROUNDING else "WRONG"
                except PersonServeError as exc:
                    kind = f"{type(exc).__name__}: {str(exc)[:200]}"
                with lock:
                    outcome.calls[kind] += 1
                    seconds = time.monotonic() - began
                    outcome.slowest_s = max(outcome.slowest_s, seconds)

        with ThreadPoolExecutor(callers) as pool:
            futures = [pool.submit(call) for _ in range(callers)]
            for server in itertools.cycle(servers):
                time.sleep(SETTLING_S)
                began = time.monotonic()
                server.stop()
                server.start()
                outcome.restarts += 1
                log(
                    f"restarted {server.grpc_address} in "
                    f"{time.monotonic() - began:.1f} s; {outcome.text()}"
                )
                if outcome.restarts >= len(servers) and sum(outcome.calls.values()) >= (
                    calls
                ):
                    break
            for future in futures:
                future.result()
    return outcome


def main(
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository. Default: the one of this checkout."),
    ] = None,
    calls: Annotated[int, typer.Option(help="Number of calls.")] = 10_000,
    callers: Annotated[int, typer.Option(help="Threads that send calls.")] = 4,
) -> None:
    """Restart two servers in turn under load; exit with 1 if a call failed."""
    chosen = Repository(repository) if repository else Repository()
    servers = [
        TritonServer(chosen, models=[GENDER.name], ports=Ports.free(), cores=1)
        for _ in range(2)
    ]
    with servers[0], servers[1]:
        outcome = run_restarts(servers, calls, callers=callers)
    typer.echo(outcome.text())
    raise typer.Exit(bool(outcome.failed))


if __name__ == "__main__":
    typer.run(main)
