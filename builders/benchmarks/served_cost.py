"""Served people per second and latency of two checkouts, in alternating rounds.

    python -m builders.benchmarks.served_cost --before ../old --after .

Each checkout's own `python -m builders serve` and its own client are used, each in
processes of their own, so that protocols may differ. One server runs at a time. Install
each checkout into its own `.venv` and build `person_gender` and `person_reid_kd_r18` in
both first. Frames are 1080p JPEGs with 10 people, crops come in tens. One machine runs
callers and server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from builders.benchmarks import served_cost_caller
from builders.errors import BuildersError
from builders.serve.endpoints import Ports
from builders.serve.probes import GrpcProbe
from personserve.internal import markdown
from personserve.internal.machine import describe_machine

JOBS = ("person_attributes", "person_attributes_crops")
PORT_OPTIONS = ("--grpc-port", "--http-port", "--metrics-port", "--health-port")
"""Options of `serve`, as far as a checkout has them."""

START_TIMEOUT_S, STOP_TIMEOUT_S = 300.0, 60.0
SETTLE_S = 2.0
"""Time of load before the first measurement of a server."""

Task = tuple[str, int]
"""A model of JOBS, and the number of callers."""


class BenchmarkError(BuildersError, RuntimeError):
    """A checkout cannot be measured; the message says why."""


@dataclass
class Checkout:
    """A checkout of this repository, with its models built.

    Attributes:
        name: "before" or "after".
        path: Its folder.
        results: Measured people per second and median latency in ms, by task.
    """

    name: str
    path: Path
    results: dict[Task, list[dict[str, float]]] = field(default_factory=dict)

    @property
    def python(self) -> str:
        """The interpreter of this checkout's environment."""
        return str(self.path / ".venv/bin/python")

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which Python imports this checkout's packages."""
        folders = (self.path, self.path / "client")
        return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}

    def run(self, *arguments: str) -> str:
        """Return the output of a command in this checkout, "" if it fails.

        Args:
            arguments: Words of the command.
        """
        done = subprocess.run(
            arguments,
            cwd=self.path,
            env=self.environment | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def measure(self, tasks: Sequence[Task], seconds: float, log: IO[bytes]) -> None:
        """Measure all tasks on a server that is started for it.

        Args:
            tasks: Models and numbers of callers.
            seconds: Time of each task.
            log: File for what the server prints.
        """
        with self._serving(log) as address, self._calling(address) as caller:
            caller.ask(*tasks[-1], SETTLE_S)
            for task in tasks:
                result = caller.ask(*task, seconds)
                self.results.setdefault(task, []).append(result)

    @contextmanager
    def _serving(self, log: IO[bytes]) -> Iterator[str]:
        serve = [self.python, "-m", "builders", "serve"]
        options = self.run(*serve, "--help")
        ports = Ports.free()
        numbers = (ports.grpc, ports.http, ports.metrics, Ports.free().grpc)
        for option, number in zip(PORT_OPTIONS, numbers, strict=True):
            serve += [option, str(number)] if option in options else []
        for job in JOBS:
            serve += ["--model", job]
        address = f"127.0.0.1:{ports.grpc}"
        process = subprocess.Popen(
            serve,
            cwd=self.path,
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_until_ready(process, address, log)
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _wait_until_ready(
        self, process: subprocess.Popen[bytes], address: str, log: IO[bytes]
    ) -> None:
        probe, deadline = GrpcProbe(address, {}), time.monotonic() + START_TIMEOUT_S
        while not probe.ask("ready", 1.0):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{self.path}: its server does not start; see {log.name}"
                )
            time.sleep(0.2)
        probe.close()

    @contextmanager
    def _calling(self, address: str) -> Iterator[_Caller]:
        command = [self.python, served_cost_caller.__file__, f"grpc://{address}"]
        with subprocess.Popen(
            command,
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            caller = _Caller(process)
            client = Path(caller.read_result()["client"])
            if self.path not in client.parents:
                raise BenchmarkError(f"{self.path}: measured the client {client}")
            yield caller


@dataclass(frozen=True)
class _Caller:
    """The process with the client."""

    process: subprocess.Popen[str]

    def ask(self, job: str, callers: int, seconds: float) -> dict[str, float]:
        """Run a task, and return its result."""
        task = {"job": job, "callers": callers, "seconds": seconds}
        assert self.process.stdin is not None  # noqa: S101 - opened as a pipe
        print(json.dumps(task), file=self.process.stdin, flush=True)
        return self.read_result()

    def read_result(self) -> dict[str, Any]:
        """Return the next result."""
        assert self.process.stdout is not None  # noqa: S101 - opened as a pipe
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError("the callers have ended; see their message above")
        result: dict[str, Any] = json.loads(line)
        return result


def format_rows(before: Checkout, after: Checkout) -> list[list[str]]:
    """Return a table row for each task and value.

    Args:
        before: The baseline.
        after: What is compared with it.
    """
    rows = []
    for task in before.results:
        for key, unit in (("people_per_s", "people/s"), ("p50_ms", "p50 in ms")):
            pairs = [
                np.array([result[key] for result in each.results[task]])
                for each in (before, after)
            ]
            ratios = pairs[1] / pairs[0]
            rows.append(
                [
                    *(task[0], str(task[1]), unit),
                    *(_format_spread(values, ".1f") for values in pairs),
                    _format_spread(ratios, ".3f"),
                ]
            )
    return rows


def _format_spread(values: NDArray[np.float64], form: str) -> str:
    low, middle, high = values.min(), np.median(values), values.max()
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


app = typer.Typer(add_completion=False)


@app.command()
def main(
    before: Annotated[Path, typer.Option(help="Checkout that is the baseline.")],
    after: Annotated[Path, typer.Option(help="Checkout that is compared.")],
    callers: Annotated[str, typer.Option(help="Numbers of callers.")] = "1,8,16",
    rounds: Annotated[int, typer.Option(help="Rounds of both checkouts.")] = 4,
    seconds: Annotated[float, typer.Option(help="Time of each measurement.")] = 5.0,
    report: Annotated[Path | None, typer.Option(help="File for the results.")] = None,
) -> None:
    """Print a table: median, minimum and maximum over the rounds, and their ratio."""
    console = Console()
    checkouts = [
        Checkout("before", before.resolve()),
        Checkout("after", after.resolve()),
    ]
    tasks = [(job, int(count)) for job in JOBS for count in callers.split(",")]
    with tempfile.NamedTemporaryFile(
        prefix="serve-", suffix=".log", delete=False
    ) as log:
        for number in range(rounds):
            # the first of a round takes turns, against a drift of the machine
            for checkout in checkouts[:: 1 if number % 2 == 0 else -1]:
                console.print(f"round {number + 1} of {rounds}: {checkout.name}")
                checkout.measure(tasks, seconds, log)
    head = ["model", "callers", "value", "before", "after", "after / before"]
    console.print(markdown.format_table(head, format_rows(*checkouts)), soft_wrap=True)
    facts = _describe(checkouts) | {"rounds": rounds, "seconds": seconds}
    console.print(facts, soft_wrap=True)
    if report is not None:
        results = {
            each.name: [
                {"model": job, "callers": count, "rounds": values}
                for (job, count), values in each.results.items()
            ]
            for each in checkouts
        }
        record = {"facts": facts, "results": results}
        report.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _describe(checkouts: Sequence[Checkout]) -> dict[str, Any]:
    commits = {
        each.name: each.run("git", "rev-parse", "--short", "HEAD") or "unknown"
        for each in checkouts
    }
    date = time.strftime("%Y-%m-%d %H:%M")
    return {**describe_machine(), "commits": commits, "date": date}


if __name__ == "__main__":
    app()
