"""Kill, end and restart servers behind a proxy under load, and count failed calls.

    python -m tests.deploy.chaos_proxy --way envoy --calls 10000

Three `serve` processes are behind one name (tests/deploy/fleet.py). Callers share ONE
client, thus one channel. First nothing happens, and the share of each server is
counted. Then one more caller sends over a stream, a server gets SIGKILL, another
SIGTERM, and all are restarted in turn. Every answer is compared with the known one.
`--way dns` has no proxy in front: the client resolves the name.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from typing_extensions import Self

from builders.build.build import build
from builders.build.source import BuildOptions
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.spec.catalogue import models
from builders.weights import StandIn
from personserve import Client, PersonServeError
from tests.deploy.fleet import MODEL, Fleet, open_envoy, open_fleet, open_nginx

CALLERS = 4
EVEN_SHARE = 0.3
"""Share of the calls before the first event."""

SETTLING_S = 2.0
"""Time between two events."""


@dataclass
class Outcome:
    """Outcome of the calls.

    Attributes:
        calls: Number of calls by outcome: "right", "WRONG", or the error.
        shares: Share of each server in the calls before the first event.
        times_s: Duration of each call.
        events: What was done to the servers.
    """

    calls: Counter[str] = field(default_factory=Counter)
    shares: list[float] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Calls without a right answer."""
        return sum(self.calls.values()) - self.calls["right"]

    def text(self) -> str:
        """Return a summary."""
        shares = ", ".join(f"{100 * each:.1f} %" for each in self.shares)
        p50, p99 = np.percentile(self.times_s, (50, 99)) * 1e3
        return (
            f"{sum(self.calls.values()):,} calls, {self.failed} failed "
            f"{dict(self.calls)}; shares {shares}; p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
            f"slowest {max(self.times_s):.2f} s; {', '.join(self.events)}"
        )


def embeddings() -> dict[str, np.ndarray]:
    """Return the inputs of a call: two embeddings of unit length."""
    rows = np.random.default_rng(0).normal(size=(2, 1, 256)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return {"embedding_a": rows[0], "embedding_b": rows[1]}


class Load:
    """Callers that share a client, until they are told to stop.

    Args:
        client: The client.
        callers: Number of threads. The last one sends over a stream, which stays with
            one server, and begins with start_stream.
    """

    def __init__(self, client: Client, callers: int = CALLERS) -> None:
        self.outcome = Outcome()
        self._client = client
        self._inputs = embeddings()
        self._expected = client.infer(MODEL, self._inputs)["related_probability"]
        self._stop, self._may_stream = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(i == callers - 1,))
            for i in range(callers)
        ]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.start_stream()
        for each in self._threads:
            each.join()

    @property
    def count(self) -> int:
        """Number of calls so far."""
        return sum(self.outcome.calls.values())

    def start_stream(self) -> None:
        """Let the last caller begin."""
        self._may_stream.set()

    def wait_for(self, count: int) -> None:
        """Wait until so many calls have been made in all."""
        while self.count < count:
            time.sleep(0.02)

    def _call(self, over_stream: bool) -> None:
        dispatcher, streams = self._client._parts.dispatcher, []
        if over_stream:
            self._may_stream.wait()
            dispatcher, streams = dispatcher.with_streams()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                call = self._client._calls.inference.infer(MODEL, self._inputs)
                answer = self._client._run(call, None, dispatcher)
                got = answer["related_probability"]
                result = "right" if np.allclose(got, self._expected) else "WRONG"
            except PersonServeError as exc:
                result = f"{type(exc).__name__}: {exc}"
            self.outcome.times_s.append(time.monotonic() - began)
            self.outcome.calls[result] += 1
        for each in streams:
            each.close()


def kill_one(fleet: Fleet) -> str:
    """Kill the tritonserver of the first server; its supervisor starts it again."""
    server = fleet.servers[0]
    for pid in server.triton_pids():
        os.kill(pid, signal.SIGKILL)
    time.sleep(SETTLING_S)
    server.wait_until_ready()
    return "kill -9"


def terminate_one(fleet: Fleet) -> str:
    """Send SIGTERM to the second server, and start it again."""
    code = fleet.restart(fleet.servers[1])
    return f"SIGTERM (exit code {code})"


def restart_all(fleet: Fleet) -> str:
    """End each server by SIGTERM and start it again, one after the other."""
    for server in fleet.servers:
        fleet.restart(server)
        time.sleep(SETTLING_S)
    return "rolling restart"


EVENTS = (kill_one, terminate_one, restart_all)


def run_chaos(
    fleet: Fleet,
    address: str,
    calls: int,
    log: Callable[[str], None],
) -> Outcome:
    """Send calls while events happen to the servers.

    Args:
        fleet: The servers.
        address: The address that clients use.
        calls: Number of calls, and more until every event has happened.
        log: Called with a summary after each event.
    """
    with fleet.open_client(address) as client:
        before = np.array(fleet.count_answers())
        with Load(client) as load:
            load.wait_for(int(calls * EVEN_SHARE))
            answered = np.array(fleet.count_answers()) - before
            load.outcome.shares = list(answered / answered.sum())
            load.start_stream()
            for event in EVENTS:
                load.outcome.events.append(event(fleet))
                log(load.outcome.text())
                time.sleep(SETTLING_S)
            load.wait_for(calls)
    return load.outcome


@contextmanager
def open_way(fleet: Fleet, way: str) -> Iterator[str]:
    """Start what is in front of the servers; yield the address for clients.

    Args:
        fleet: The servers.
        way: "envoy", "nginx" or "dns".
    """
    if way == "dns":
        yield fleet.dns_address
    elif way == "nginx":
        with open_nginx(fleet) as address:
            yield address
    else:
        with open_envoy(fleet) as (address, _):
            yield address


def build_model(folder: Path) -> Repository:
    """Build MODEL into a repository, if it is not there.

    Args:
        folder: Folder of the repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    repository = Repository(folder)
    render_repository(repository)
    for model in models([MODEL]):
        build("cpu", model, StandIn(), repository, BuildOptions())
    return repository


def main(
    ways: Annotated[list[str], typer.Option("--way", help="envoy, nginx or dns.")],
    repository: Annotated[Path, typer.Option(help="Folder to build into.")],
    calls: Annotated[int, typer.Option(min=100, help="Number of calls.")] = 10_000,
) -> None:
    """Count failed calls while servers are killed, ended and restarted."""
    failed = 0
    with open_fleet(build_model(repository)) as fleet:
        for way in ways:
            with open_way(fleet, way) as address:
                outcome = run_chaos(fleet, address, calls, typer.echo)
            typer.echo(f"{way}: {outcome.text()}")
            failed += outcome.failed
    raise typer.Exit(code=1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
