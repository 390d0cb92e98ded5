"""Searching the best instances and batching of a model.

Instances are tried first, then batching with the best count. The winner is measured
against the declared settings again, because the best of many is partly luck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loadtest.measurements import rounds_differ
from loadtest.model_config import Settings

FINAL_ROUNDS = 5
QUEUE_DELAYS_US = (0, 2000)


@dataclass(frozen=True)
class Trial:
    """The rounds of one candidate.

    Attributes:
        rates: Throughput of each round, in people/s.
        p99s_ms: 99th percentile of latency of each round, in ms.
    """

    rates: Sequence[float]
    p99s_ms: Sequence[float]

    @property
    def rate(self) -> float:
        """Throughput of the median round, in people/s."""
        return float(np.median(self.rates))

    @property
    def p99_ms(self) -> float:
        """99th percentile of latency of the median round, in ms."""
        return float(np.median(self.p99s_ms))


RunTrials = Callable[[Sequence[Settings], int], dict[Settings, Trial]]
"""Measures candidates in turns, in a number of rounds."""


@dataclass(frozen=True)
class Tuning:
    """The result of a search for the best settings.

    Attributes:
        model: Name of the model.
        is_cpu: Whether its instances run on the CPU.
        limit_ms: The goal: a p99 of at most this many ms.
        declared: The settings of the declaration.
        best: The best settings; the declared ones if no others are better.
        trials: The trials of the first search.
        final: The declared and the best settings, measured again.
    """

    model: str
    is_cpu: bool
    limit_ms: float
    declared: Settings
    best: Settings
    trials: Mapping[Settings, Trial]
    final: Mapping[Settings, Trial]

    @property
    def is_better(self) -> bool:
        """Whether the best settings win by more than the spread of the rounds.

        They also win if they alone reach the goal.
        """
        if self.best == self.declared:
            return False
        before, after = self.final[self.declared], self.final[self.best]
        if before.p99_ms > self.limit_ms >= after.p99_ms:
            return True
        return after.rate > before.rate and rounds_differ(after.rates, before.rates)

    @property
    def chosen(self) -> Settings:
        """The settings to serve with."""
        return self.best if self.is_better else self.declared

    @property
    def reaches_goal(self) -> bool:
        """Whether the chosen settings reach the goal."""
        return self.final[self.chosen].p99_ms <= self.limit_ms


def find_best(
    model: str,
    declared: Settings,
    counts: Sequence[int],
    preferred: tuple[int, ...],
    run_trials: RunTrials,
    rounds: int,
    limit_ms: float,
    *,
    is_cpu: bool,
) -> Tuning:
    """Search instances, then batching, and measure the winner again.

    Args:
        model: Name of the model.
        declared: The settings to start from.
        counts: Instance counts to try.
        preferred: Preferred batch sizes to try; empty for none.
        run_trials: Measures candidates.
        rounds: Rounds per candidate.
        limit_ms: Highest p99 that is acceptable, in ms.
        is_cpu: Whether the model runs on the CPU, where requests may stay unmerged;
            declarations for GPUs always merge.
    """
    candidates = [declared, *(replace(declared, instances=count) for count in counts)]
    trials = run_trials(list(dict.fromkeys(candidates)), rounds)
    best = _choose(trials, limit_ms)
    unmerged = [replace(best, queue_delay_us=None, preferred=())] if is_cpu else []
    merged = [
        replace(best, queue_delay_us=delay, preferred=sizes)
        for sizes in dict.fromkeys([(), preferred])
        for delay in QUEUE_DELAYS_US
    ]
    untried = [each for each in [*unmerged, *merged] if each not in trials]
    trials |= run_trials(untried, rounds)
    best = _choose(trials, limit_ms)
    final = {declared: trials[declared]}
    if best != declared:
        final = run_trials([declared, best], FINAL_ROUNDS)
    return Tuning(model, is_cpu, limit_ms, declared, best, trials, final)


def _choose(trials: Mapping[Settings, Trial], limit_ms: float) -> Settings:
    """Return the highest throughput within the limit; if none is, the lowest p99."""
    within = [each for each, trial in trials.items() if trial.p99_ms <= limit_ms]
    if within:
        return max(within, key=lambda each: trials[each].rate)
    return min(trials, key=lambda each: trials[each].p99_ms)
