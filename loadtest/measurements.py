"""Measured loads: points with their rounds, whole runs, and comparing two runs.

A difference counts only if all rounds of one run lie beyond those of the other: with
five rounds each, chance alone does that once in 126 times; with three, once in ten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.errors import LoadTestError

PROTOCOLS = {"grpc": "gRPC", "http": "HTTP"}
SHARED_MEMORY = {
    "system": "system shared memory",
    "cuda": "CUDA shared memory",
}


def transport_name(protocol: str, shared_memory: str | None) -> str:
    """Return a transport's name in reports, for example "gRPC, CUDA shared memory".

    Args:
        protocol: "grpc" or "http".
        shared_memory: "system", "cuda", or None where tensors travel in the message.
    """
    name = PROTOCOLS.get(protocol, protocol)
    return f"{name}, {SHARED_MEMORY[shared_memory]}" if shared_memory else name


def count_noun(count: int, singular: str, plural: str) -> str:
    """Return a count with its noun, for example "1 person" or "8 people".

    Args:
        count: How many.
        singular: The noun for one.
        plural: The noun for any other count.
    """
    return f"{count} {singular if count == 1 else plural}"


@dataclass(frozen=True)
class Point:
    """One measured load on one model.

    Attributes:
        model: Name of the model or of the job.
        transport: How tensors travel (transport_name).
        people: Number of people in a request.
        concurrency: Number of requests in flight.
        people_per_s: Throughput of each round.
        p50_ms: Median latency of the median round, in ms.
        p99_ms: 99th percentile of latency of the median round, in ms.
        queue_ms: Mean time in the server's queues; None if not measured, as all below.
        compute_ms: Mean time in the server's backends.
        network_ms: Mean time outside the server.
        cpu_use: CPU utilisation of the server's machine, 0 to 1.
        gpu_use: GPU utilisation of the server's machine, 0 to 1.
        memory_mib: Memory of the server's processes, in MiB (PSS).
        system: Name of the server in a comparison of several; else empty.
        runtime: Library that executes the model; empty where unknown.
        precision: Precision of the model; empty where unknown.
    """

    model: str
    transport: str
    people: int
    concurrency: int
    people_per_s: Sequence[float]
    p50_ms: float
    p99_ms: float
    queue_ms: float | None = None
    compute_ms: float | None = None
    network_ms: float | None = None
    cpu_use: float | None = None
    gpu_use: float | None = None
    memory_mib: float | None = None
    system: str = ""
    runtime: str = ""
    precision: str = ""

    @property
    def series(self) -> str:
        """The server and the transport, as one name."""
        return f"{self.system}, {self.transport}" if self.system else self.transport

    @property
    def key(self) -> str:
        """What identifies the load in another run."""
        people = count_noun(self.people, "person", "people")
        return f"{self.model}, {people}, {self.series}, x{self.concurrency}"

    @property
    def rate(self) -> float:
        """Throughput of the median round, in people/s."""
        return float(np.median(self.people_per_s))


def merge_rounds(rounds: Sequence[Point]) -> Point:
    """Return one point for all rounds of a load, with the median round's times.

    Args:
        rounds: At least one point of the same load.
    """
    ordered = sorted(rounds, key=lambda point: point.rate)
    median = ordered[len(ordered) // 2]
    return replace(median, people_per_s=[point.rate for point in rounds])


def rounds_differ(rates: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether the rounds of two loads do not overlap.

    Args:
        rates: Throughput of each round of one load.
        others: Throughput of each round of the other load.
    """
    return min(rates) > max(others) or max(rates) < min(others)


@dataclass(frozen=True)
class Run:
    """All points of one load test.

    Attributes:
        facts: Where and with what it was measured.
        points: The measured loads.
    """

    facts: Mapping[str, str]
    points: Sequence[Point]

    def to_record(self) -> dict[str, Any]:
        """Return the run as a value for JSON."""
        return {
            "facts": dict(self.facts),
            "points": [asdict(point) for point in self.points],
        }

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read the JSON file of an earlier report.

        Args:
            path: The report.json.

        Raises:
            LoadTestError: If the file cannot be read or is not such a report.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return cls(record["facts"], [Point(**row) for row in record["points"]])
        except OSError as exc:
            raise LoadTestError(f"cannot read {path}: {exc.strerror}") from exc
        except (KeyError, TypeError, ValueError) as exc:
            raise LoadTestError(f"{path}: not a load test's report ({exc})") from exc


@dataclass(frozen=True)
class Change:
    """The throughput of one load in two runs.

    Attributes:
        key: The load (Point.key).
        before: People/s of the earlier run.
        after: People/s of the later run.
        exceeds_spread: Whether the rounds of the two runs do not overlap.
    """

    key: str
    before: float
    after: float
    exceeds_spread: bool

    @property
    def ratio(self) -> float:
        """Throughput of the later run relative to the earlier one."""
        return self.after / self.before

    def __str__(self) -> str:
        return f"{self.key}: {self.ratio:.2f} of the earlier throughput"


def compare_runs(run: Run, earlier: Run) -> list[Change]:
    """Return the change of every load that both runs have.

    Args:
        run: The later run.
        earlier: The run to compare with.
    """
    before = {point.key: point for point in earlier.points}
    return [
        Change(
            point.key,
            before[point.key].rate,
            point.rate,
            rounds_differ(point.people_per_s, before[point.key].people_per_s),
        )
        for point in run.points
        if point.key in before
    ]
