"""Durations are measured on the monotonic clock, which nobody sets."""

from __future__ import annotations

import ast
from pathlib import Path

from builders.repository.layout import ROOT

WALL_CLOCK = {
    "builders/build/build.py": "date in a record",
    "builders/evaluation/report.py": "date in a report",
    "builders/quantisation/cache.py": "date in a table",
    "builders/quantisation/calibration.py": "date in a table",
    "builders/quantisation/finetuning.py": "date in a table",
    "builders/repository/built_files.py": "age of a file, in a table",
    "builders/repository/runtimes/pause_watchdog.py": "Triton waits on this clock",
    "builders/verify/verification.py": "date in a record",
    "client/personserve/cli/filters.py": "age of people in a gallery, by their dates",
    "client/personserve/gallery/qdrant_points.py": "order of adding, in a listing",
    "loadtest/locust_report.py": "Locust counts requests by second of this clock",
}
"""Files that read the wall clock, and why a jump of it does no harm there."""

READERS = {"time", "time_ns", "ctime", "localtime", "CLOCK_REALTIME"}
FOLDERS = ("builders", "client/personserve", "ensembles", "loadtest")


def _reads_wall_clock(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            if READERS & {alias.name for alias in node.names}:
                return True
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = node.value.id
            if (owner == "time" and node.attr in READERS) or (
                owner in {"date", "datetime"}
                and node.attr in {"now", "today", "utcnow"}
            ):
                return True
    return False


def test_only_dates_come_from_the_wall_clock() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if _reads_wall_clock(path)
    }
    assert readers == set(WALL_CLOCK)
