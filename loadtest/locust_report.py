"""A Locust run as the report that perf_analyzer's runs have, too.

Counts people a second, also those of workers, and takes the server's statistics over
the whole run. The fifths of the time are the rounds.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from locust.env import Environment
from locust.runners import WorkerRunner
from locust.stats import StatsEntry

from loadtest.report import Point, Run, changes, write_report
from loadtest.server import Spent, Statistics, facts, used

FIFTHS = 5

MODELS = {
    "person_gender": "person_gender",
    "person_reid_kd_r18": "person_reid_kd_r18",
    "frame": "person_attributes",
    "camera frame": "person_attributes",
}
"""The server's model of an entry, whose name may go on after a comma."""


class Recorder:
    """What one run's report is made of, and the report when Locust quits."""

    def __init__(self, environment: Environment) -> None:
        self._given: Any = environment.parsed_options
        self._people: dict[str, Counter[int]] = defaultdict(Counter)
        self._stack = ExitStack()
        self._statistics: Statistics | None = None
        self._uses: dict[str, list[float]] = {}
        events = environment.events
        events.request.add_listener(self._asked)
        if isinstance(environment.runner, WorkerRunner):
            events.report_to_master.add_listener(self._sent)
            return
        events.worker_report.add_listener(self._received)
        events.test_start.add_listener(self._begun)
        events.quitting.add_listener(self._finish)

    def _finish(self, environment: Environment, **_: Any) -> None:
        self._stack.close()
        given = self._given
        against = Run.load(Path(given.against)) if given.against else None
        entries = [
            entry
            for entry in environment.stats.entries.values()
            if entry.num_requests and _model(entry)
        ]
        where = facts(
            environment.host or "",
            given.http,
            sorted({_model(entry) for entry in entries}),
            ", ".join(filter(None, [f"{given.shape} load", given.label])),
        )
        run = Run(where, [self._point(entry) for entry in entries])
        said = [f"wrote {write_report(Path(given.report), run, against)}"]
        found = changes(run, against) if against else []
        said += [f"{c.key}: {c.ratio:.2f} of before" for c in found if c.exceeds]
        # flushed, because locustfile.py ends the process at once
        print("\n".join(said), flush=True)  # noqa: T201 - as Locust's own reports

    def _begun(self, **_: Any) -> None:
        self._uses = self._stack.enter_context(used(self._given.metrics))
        try:
            self._statistics = Statistics(self._given.http, set(MODELS.values()))
        except OSError as exc:
            print(f"no statistics: http://{self._given.http}: {exc}", flush=True)  # noqa: T201

    def _asked(
        self, name: str, context: Mapping[str, Any], exception: object, **_: Any
    ) -> None:
        if exception is None and "people" in context:
            self._people[name][int(time.time())] += int(context["people"])

    def _sent(self, data: dict[str, Any], **_: Any) -> None:
        data["people"] = {name: list(c.items()) for name, c in self._people.items()}
        self._people.clear()

    def _received(self, data: Mapping[str, Any], **_: Any) -> None:
        for name, counts in data.get("people", {}).items():
            for second, people in counts:
                self._people[name][second] += people

    def _point(self, entry: StatsEntry) -> Point:
        given, counts = self._given, self._people[entry.name]
        spent = None
        if self._statistics is not None:
            spent = self._statistics.spent(_model(entry))
        answered = max(1, entry.num_requests - entry.num_failures)
        uses = {name: float(np.mean(values)) for name, values in self._uses.items()}
        return Point(
            entry.name.partition(",")[0],
            f"{entry.method}, {'system' if given.shared_memory else 'wire'}",
            round(counts.total() / answered),
            given.num_users or 1,
            _rates(counts),
            float(entry.median_response_time),
            float(entry.get_response_time_percentile(0.99)),
            spent.queue_ms if spent else None,
            spent.compute_ms if spent else None,
            _network_ms(entry, spent),
            uses.get("nv_cpu_utilization"),
            uses.get("nv_gpu_utilization"),
        )


def _model(entry: StatsEntry) -> str:
    return MODELS.get(entry.name.partition(",")[0], "")


def _network_ms(entry: StatsEntry, spent: Spent | None) -> float | None:
    """What is left of the caller's time; None where others asked the model, too, or
    empty frames, which ask nothing, are among the entry's.
    """
    if spent is None or entry.avg_response_time < spent.total_ms:
        return None
    return float(entry.avg_response_time - spent.total_ms)


def _rates(counts: Counter[int]) -> list[float]:
    """People a second in each fifth of the time; the last second is not whole."""
    if not counts:
        return [0.0]
    first, last = min(counts), max(*counts, min(counts) + 1)
    seconds = np.array([counts[second] for second in range(first, last)], float)
    fifths = np.array_split(seconds, min(FIFTHS, len(seconds)))
    return [float(part.mean()) for part in fifths]
