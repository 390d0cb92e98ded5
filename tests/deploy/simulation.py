"""Discrete-event simulation of a frame ensemble on a CPU under closed-loop load.

Each model has one process per core, with one thread and one queue in front of all its
processes. Preprocessing comes first, then both networks in parallel. Processes that
compute share the cores equally, as Linux divides them. Times vary from call to call by
a log-normal factor.

It checks the arithmetic of deploy/CAPACITY.md: with the times of one process alone it
must predict what the server does under load.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp

PREPROCESS, GENDER, REID = range(3)


@dataclass(frozen=True)
class Times:
    """CPU time of one process, in milliseconds.

    Attributes:
        frame: Decoding and cutting a frame, with what the server adds to a request.
        gender: The gender network, for one person.
        reid: The ReID network, for one person.
        spread: Standard deviation of the logarithm of a time.
    """

    frame: float
    gender: float
    reid: float
    spread: float = 0.05


@dataclass
class Request:
    """One frame on its way.

    Attributes:
        began_ms: When it was sent.
        pending: Networks that have not answered it.
    """

    began_ms: float
    pending: int = 2


@dataclass
class Machine:
    """Processes and queues of the three models.

    Attributes:
        cores: CPU cores, and so processes of each model.
        waiting: Queue of each model.
        running: Requests that are computed: model, request, remaining milliseconds.
    """

    cores: int
    waiting: tuple[deque[Request], ...] = field(
        default_factory=lambda: (deque(), deque(), deque())
    )
    running: list[tuple[int, Request, float]] = field(default_factory=list)

    def start_waiting(self, times_ms: Sequence[float], factor: random.Random) -> None:
        """Give waiting requests to idle processes.

        Args:
            times_ms: Time of each model, and the spread.
            factor: Source of the variation.
        """
        for model, queue in enumerate(self.waiting):
            busy = sum(each[0] == model for each in self.running)
            while queue and busy < self.cores:
                varied = times_ms[model] * exp(factor.gauss(0, times_ms[3]))
                self.running.append((model, queue.popleft(), varied))
                busy += 1

    def advance(self) -> tuple[float, int, Request]:
        """Run until the next process ends; return the time, its model and request."""
        share = min(1.0, self.cores / len(self.running))
        ended = min(self.running, key=lambda each: each[2])
        self.running.remove(ended)
        self.running = [(m, r, left - ended[2]) for m, r, left in self.running]
        return ended[2] / share, ended[0], ended[1]


def simulate(
    times: Times, cores: int, people: int, callers: int, answers: int = 400
) -> list[float]:
    """Return the durations of requests in milliseconds, without those of the start.

    Args:
        times: Times of one process.
        cores: CPU cores.
        people: People in each frame.
        callers: Callers, each of which sends its next frame after an answer.
        answers: Number of answers to simulate.
    """
    times_ms = (times.frame, times.gender * people, times.reid * people, times.spread)
    machine, factor = Machine(cores), random.Random(0)  # noqa: S311 - reproducible
    now_ms, durations = 0.0, []
    machine.waiting[PREPROCESS].extend(Request(0.0) for _ in range(callers))
    while len(durations) < answers + 4 * callers:
        machine.start_waiting(times_ms, factor)
        passed_ms, model, request = machine.advance()
        now_ms += passed_ms
        if model == PREPROCESS:
            machine.waiting[GENDER].append(request)
            machine.waiting[REID].append(request)
            continue
        request.pending -= 1
        if not request.pending:
            durations.append(now_ms - request.began_ms)
            machine.waiting[PREPROCESS].append(Request(now_ms))
    return durations[4 * callers :]
