"""Closed-loop load: each caller sends its next request when the last one returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_closed_loop(
    send: Callable[[], Any], callers: int, seconds: float, minimum_calls: int = 1
) -> tuple[list[float], float]:
    """Call a function from several threads for a given time.

    Args:
        send: Function to call; it returns when the request is answered.
        callers: Number of threads.
        seconds: Duration, after which no new calls are started.
        minimum_calls: Calls of each thread, even if they take longer than `seconds`.

    Returns:
        Durations of all calls in seconds, and the duration of the whole run in seconds.
    """
    start = time.perf_counter()

    def run_caller(_caller: int) -> list[float]:
        durations: list[float] = []
        while (call_start := time.perf_counter()) - start < seconds or len(
            durations
        ) < minimum_calls:
            send()
            durations.append(time.perf_counter() - call_start)
        return durations

    with ThreadPoolExecutor(callers) as pool:
        durations_by_caller = list(pool.map(run_caller, range(callers)))
    durations = [duration for each in durations_by_caller for duration in each]
    return durations, time.perf_counter() - start
