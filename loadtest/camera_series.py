"""Series of camera frames in Locust's statistics, outside its totals.

Locust's totals, charts and failures count requests to the server. A frame that a camera
starts late is not a failed request, and a frame without people, for which the client
makes no request, is not one of 0 ms. So both are rows of type "camera", whose
times say how late the camera started a frame.
"""

from __future__ import annotations

from locust.stats import RequestStats, StatsEntry

CAMERA = "camera"
"""Type of the rows, where requests have their protocol."""

DUE = "frames due"
BEHIND = "frames behind"
"""Of the frames due, those that started late by a period or more, or were skipped."""

EMPTY = "empty frames"
"""Frames without people."""


def count_due_frame(stats: RequestStats, late_s: float, period_s: float) -> None:
    """Count a frame that is due, and whether the camera is behind.

    Args:
        stats: Locust's statistics.
        late_s: How late the frame starts, in seconds.
        period_s: Time between two frames of the camera, in seconds.
    """
    count_frame(stats, DUE, late_s)
    if late_s > period_s:
        count_frame(stats, BEHIND, late_s)


def count_frame(stats: RequestStats, name: str, late_s: float) -> None:
    """Count a frame in one series, and nowhere else.

    Args:
        stats: Locust's statistics.
        name: DUE, BEHIND or EMPTY.
        late_s: How late the frame starts, in seconds.
    """
    late_ms = max(0, round(late_s * 1e3))
    stats.get(name, CAMERA).log(late_ms, 0)


def is_series(entry: StatsEntry) -> bool:
    """Return whether an entry of Locust's statistics is a series of camera frames.

    Args:
        entry: The entry.
    """
    return entry.method == CAMERA


def count_of(stats: RequestStats, name: str) -> int:
    """Return the number of frames in a series.

    Args:
        stats: Locust's statistics.
        name: DUE, BEHIND or EMPTY.
    """
    entry = stats.entries.get((name, CAMERA))
    return 0 if entry is None else entry.num_requests
