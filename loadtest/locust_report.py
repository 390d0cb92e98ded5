"""The report of a Locust run, in the same form as that of `python -m loadtest perf`.

Counts people per second, of worker processes too, and takes the server's statistics
over the whole run. Each fifth of the run time is a round.
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
from locust.stats import RequestStats, StatsEntry

from loadtest.camera_series import BEHIND, DUE, EMPTY, count_of
from loadtest.errors import LoadTestError
from loadtest.facts import (
    ServedModel,
    describe_models,
    describe_server,
    describe_session,
    describe_weights,
)
from loadtest.load_report import write_load_report
from loadtest.measurements import Point, Run, compare_runs, transport_name
from loadtest.server import (
    CPU_METRIC,
    GPU_METRIC,
    ServerTimes,
    Statistics,
    sample_utilisation,
)
from loadtest.users import PersonServeUser
from personserve.internal.report import page_link
from personserve.internal.sections import Table

ROUNDS = 5


class Recorder:
    """Collector of a run's counts, which writes the report when Locust quits."""

    def __init__(self, environment: Environment) -> None:
        """Listen to Locust's events.

        Args:
            environment: Locust's environment.
        """
        self._environment = environment
        self._options: Any = environment.parsed_options
        self._people: dict[str, Counter[int]] = defaultdict(Counter)
        self._models: dict[str, str] = {}
        self._stack = ExitStack()
        self._statistics: Statistics | None = None
        self._utilisation: dict[str, list[float]] = {}
        events = environment.events
        events.request.add_listener(self._count_people)
        if isinstance(environment.runner, WorkerRunner):
            events.report_to_master.add_listener(self._send_counts)
            return
        events.worker_report.add_listener(self._add_counts)
        events.test_start.add_listener(self._start)
        events.quitting.add_listener(self._finish)

    def _start(self, **_: Any) -> None:
        """Begin sampling, or warn that the report will lack server-side figures."""
        models = {
            user.model
            for user in self._environment.user_classes
            if issubclass(user, PersonServeUser) and user.model
        }
        try:
            self._statistics = Statistics(self._options.http, models)
            self._utilisation = self._stack.enter_context(
                sample_utilisation(self._options.metrics)
            )
        except LoadTestError as exc:
            _print(f"report without all server statistics: {exc}")

    def _finish(self, environment: Environment, **_: Any) -> None:
        self._stack.close()
        options = self._options
        entries = [
            entry
            for entry in environment.stats.entries.values()
            if entry.num_requests and entry.name in self._models
        ]
        names = sorted({self._models[entry.name] for entry in entries})
        served = describe_models(options.http, names)
        label = ", ".join(filter(None, [f"{options.shape} load", options.label]))
        facts = describe_session(label)
        facts |= describe_server(environment.host or "", options.http, served)
        facts |= describe_weights(served.values())
        run = Run(facts, [self._make_point(entry, served) for entry in entries])
        earlier = Run.load(Path(options.against)) if options.against else None
        tables = tabulate_cameras(environment.stats)
        page = write_load_report(Path(options.report), run, earlier, tables)
        _print(f"wrote {page_link(page)}")
        for change in compare_runs(run, earlier) if earlier else []:
            if change.exceeds_spread:
                _print(str(change))

    def _count_people(
        self, name: str, context: Mapping[str, Any], exception: object, **_: Any
    ) -> None:
        if context.get("model"):
            self._models[name] = context["model"]
            if exception is None:
                self._people[name][int(time.time())] += int(context["people"])

    def _send_counts(self, data: dict[str, Any], **_: Any) -> None:
        """Add this worker's counts to its message to the master."""
        data["people"] = {name: list(c.items()) for name, c in self._people.items()}
        data["models"] = dict(self._models)
        self._people.clear()

    def _add_counts(self, data: Mapping[str, Any], **_: Any) -> None:
        """Add a worker's counts to the master's."""
        self._models.update(data.get("models", {}))
        for name, counts in data.get("people", {}).items():
            for second, people in counts:
                self._people[name][second] += people

    def _make_point(
        self, entry: StatsEntry, served: Mapping[str, ServedModel]
    ) -> Point:
        options, counts = self._options, self._people[entry.name]
        model = self._models[entry.name]
        times = self._statistics.times(model) if self._statistics is not None else None
        successes = max(1, entry.num_requests - entry.num_failures)
        mean_use = {name: float(np.mean(v)) for name, v in self._utilisation.items()}
        runs_as = served.get(model, ServedModel(""))
        memory = "system" if options.shared_memory else None
        return Point(
            entry.name.partition(",")[0],
            transport_name(entry.method, memory),
            round(counts.total() / successes),
            options.num_users or 1,
            _round_rates(counts),
            float(entry.median_response_time),
            float(entry.get_response_time_percentile(0.99)),
            times.queue_ms if times else None,
            times.compute_ms if times else None,
            _network_ms(entry, times),
            mean_use.get(CPU_METRIC),
            mean_use.get(GPU_METRIC),
            runtime=runs_as.runtime,
            precision=runs_as.precision,
        )


def _network_ms(entry: StatsEntry, times: ServerTimes | None) -> float | None:
    """Return the mean time outside the server, in ms, or None if it is not known.

    It is not known if other users load the same model with smaller requests.
    """
    if times is None or entry.avg_response_time < times.total_ms:
        return None
    return float(entry.avg_response_time - times.total_ms)


def tabulate_cameras(stats: RequestStats) -> list[Table]:
    """Return a table of the camera frames that are no requests; none without cameras.

    Args:
        stats: Locust's statistics at the end of the run.
    """
    due = count_of(stats, DUE)
    rows = [
        [name, str(count_of(stats, name)), f"{count_of(stats, name) / max(1, due):.1%}"]
        for name in (DUE, BEHIND, EMPTY)
    ]
    return [Table("Camera frames", ["series", "frames", "share"], rows)] if due else []


def _round_rates(counts: Counter[int]) -> list[float]:
    """Return the people/s of each fifth of the time, the last second excluded."""
    if not counts:
        return [0.0]
    first, last = min(counts), max(*counts, min(counts) + 1)
    seconds = np.array([counts[second] for second in range(first, last)], float)
    rounds = np.array_split(seconds, min(ROUNDS, len(seconds)))
    return [float(part.mean()) for part in rounds]


def _print(line: str) -> None:
    # flushed, because exit_at_once ends the process without doing so
    print(line, flush=True)  # noqa: T201 - as Locust's own reports
