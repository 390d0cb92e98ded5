"""Load as callers make it who ask again as soon as they are answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def closed_loop(
    ask: Callable[[], Any], callers: int, seconds: float, least: int = 1
) -> tuple[list[float], float]:
    """(seconds of each call, seconds in all) of so many `callers` at once, each of whom
    asks `least` times even where that takes longer.
    """
    began = time.perf_counter()

    def asked(_caller: int) -> list[float]:
        found: list[float] = []
        while (start := time.perf_counter()) - began < seconds or len(found) < least:
            ask()
            found.append(time.perf_counter() - start)
        return found

    with ThreadPoolExecutor(callers) as pool:
        each = list(pool.map(asked, range(callers)))
    return [t for times in each for t in times], time.perf_counter() - began
