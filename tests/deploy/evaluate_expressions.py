"""Evaluate every expression of deploy/ on a real server under load, and print a table.

    python -m tests.deploy.evaluate_expressions --repository FOLDER --seconds 90

`python -m builders serve` runs under a closed loop of callers, and Debian's Prometheus
scrapes it. Each value is compared with what the callers saw themselves: people per
second within 15 %, and the time of a request between half and twice theirs. Exit code 1
for an expression without a value or of a wrong size.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from builders.deployment.rules import PEOPLE_RATE, SCALING_SIGNAL
from builders.repository.layout import REPOSITORY, Repository
from personserve import Client
from tests.deploy.prometheus import Prometheus, list_expressions, scraping
from tests.serve_command import serving

MODEL = "person_attributes"
BOXES = [(10, 10, 200, 300), (210, 10, 400, 300)]
MAX_PEOPLE_ERROR = 0.15
WINDOW_S = 60
"""Range of the rates in the expressions."""


@dataclass
class Calls:
    """What the callers saw.

    Attributes:
        ended: Time of each answer, monotonic.
        seconds: Duration of each request.
    """

    ended: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def people_per_s(self) -> float:
        """Return the rate over the last WINDOW_S."""
        since = time.monotonic() - WINDOW_S
        return len(BOXES) * sum(each > since for each in self.ended) / WINDOW_S


def _ask(address: str, calls: Calls, stop: threading.Event) -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    with Client(address, timeout_s=300) as client:
        while not stop.is_set():
            began = time.monotonic()
            client.attributes(frame, BOXES, model=MODEL)
            calls.ended.append(time.monotonic())
            calls.seconds.append(calls.ended[-1] - began)


def _judge(place: str, values: list[float], calls: Calls) -> str:
    """Return what is wrong with the values of an expression; "" if nothing is."""
    if any(not 0 <= value < 1e7 for value in values):
        return "out of range"
    expected = calls.people_per_s()
    if PEOPLE_RATE in place or "People per second" in place:
        if abs(values[0] - expected) > MAX_PEOPLE_ERROR * expected:
            return f"callers counted {expected:.2f}"
    elif place.startswith("panel Time of a request"):
        seen_ms = 1e3 * median(calls.seconds)
        # p99 of the server may exceed the callers' median, and nothing is faster
        if not seen_ms / 2 <= values[0] <= 1.1e3 * max(calls.seconds):
            return f"callers' median is {seen_ms:.0f} ms"
    return ""


def _report(prometheus: Prometheus, calls: Calls) -> int:
    wrong = 0
    for place, expression in list_expressions("gpu").items():
        values = [value for _, value in prometheus.wait_for(expression)]
        fault = _judge(place, values, calls)
        wrong += bool(fault)
        shown = ", ".join(f"{value:.4g}" for value in values[:4])
        typer.echo(f"{place:70} {len(values):3} values: {shown} {fault}")
    return wrong


def main(
    repository: Annotated[
        Path, typer.Option(help="Model repository with built networks.")
    ] = REPOSITORY,
    seconds: Annotated[
        float, typer.Option(help="Seconds of load before the first query.")
    ] = 90,
    callers: Annotated[int, typer.Option(help="Number of concurrent callers.")] = 4,
) -> None:
    """Evaluate every expression on a server under load."""
    calls, stop = Calls(), threading.Event()
    options = ("--model", MODEL, "--metrics-config=summary_latencies=true")
    with (
        TemporaryDirectory() as folder,
        serving(Repository(repository), *options) as served,
        scraping([f"127.0.0.1:{served.health_port}"], Path(folder)) as prometheus,
    ):
        address = f"127.0.0.1:{served.ports.grpc}"
        arguments = (address, calls, stop)
        threads = [
            threading.Thread(target=_ask, args=arguments) for _ in range(callers)
        ]
        for thread in threads:
            thread.start()
        try:
            time.sleep(seconds)
            wrong = _report(prometheus, calls)
            (_, loaded), *_ = prometheus.query(SCALING_SIGNAL)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        time.sleep(WINDOW_S + 5)
        (_, idle), *_ = prometheus.query(SCALING_SIGNAL)
    typer.echo(
        f"signal with {callers} callers: {loaded:.2f}, a minute later: {idle:.2f}"
    )
    raise typer.Exit(int(wrong > 0 or not idle < loaded))


if __name__ == "__main__":
    typer.run(main)
