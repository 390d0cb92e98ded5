"""Thresholds that decide a Locust run's exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from locust.env import Environment
from locust.runners import WorkerRunner
from locust.stats import RequestStats, StatsEntry

from loadtest.camera_series import BEHIND, DUE, count_of, is_series


@dataclass(frozen=True)
class Thresholds:
    """Limits of a run.

        Thresholds(max_p99_ms=800).judge(environment)  # in a listener of `quitting`

    Attributes:
        max_p99_ms: Limit of each entry's 99th percentile in ms; 0 for none.
        max_error_rate: Limit of the share of requests that fail.
        max_behind: Limit of the share of camera frames that start late; 1 for none.
    """

    max_p99_ms: float = 0.0
    max_error_rate: float = 0.01
    max_behind: float = 1.0

    def judge(self, environment: Environment) -> None:
        """Print exceeded thresholds, and set the exit code: 1 if there are any, else 0.

        Args:
            environment: Locust's environment at the end of a run; of several
                processes, the master judges.
        """
        if isinstance(environment.runner, WorkerRunner):
            environment.process_exit_code = 0
            return
        exceeded = list(self.find_exceeded(environment.stats))
        for message in exceeded:
            # flushed, because a process that ends at once would lose it
            print(f"threshold: {message}", flush=True)  # noqa: T201 - as Locust's
        environment.process_exit_code = 1 if exceeded else 0

    def find_exceeded(self, stats: RequestStats) -> Iterator[str]:
        """Return a message for each exceeded threshold.

        Args:
            stats: Locust's statistics at the end of the run.
        """
        entries = [each for each in stats.entries.values() if not is_series(each)]
        requests = sum(entry.num_requests for entry in entries)
        due, behind = count_of(stats, DUE), count_of(stats, BEHIND)
        if not requests:
            yield "no request was made"
            return
        yield from self._check_errors(entries, requests)
        for entry in entries:
            p99_ms = entry.get_response_time_percentile(0.99)
            if self.max_p99_ms and p99_ms > self.max_p99_ms:
                yield f"{entry.name}: p99 {p99_ms:.0f} ms, over {self.max_p99_ms:.0f}"
        if due and behind / due > self.max_behind:
            share = f"{behind / due:.1%} of {due} frames behind"
            yield f"{share}, over {self.max_behind:.1%}"

    def _check_errors(
        self, entries: Sequence[StatsEntry], requests: int
    ) -> Iterator[str]:
        failures = sum(entry.num_failures for entry in entries)
        if failures / requests > self.max_error_rate:
            yield (
                f"error rate {failures / requests:.2%} of {requests}, over "
                f"{self.max_error_rate:.2%}"
            )
