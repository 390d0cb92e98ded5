"""The verdict about a server under too much load."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from loadtest.overload import Outcome, tabulate

GOOD = Outcome(
    answered_s=[9.0] * 60,
    refused_s=[0.1] * 180,
    memory_mib=[100.0] * 5 + [900.0] * 10,
    seconds=10.0,
    offered=240,
)


def test_a_bounded_server_passes() -> None:
    table, passes = tabulate(GOOD, sustained=6.0, queue_limit_s=15.0)
    assert passes
    assert ["answers, frames/s", "6.00", ">= 4.80", "yes"] in table.rows


@pytest.mark.parametrize(
    ("failing", "name"),
    [
        (replace(GOOD, answered_s=[9.0] * 40), "answers, frames/s"),
        (replace(GOOD, answered_s=[9.0] * 58 + [31.0] * 2), "answers, p99 in s"),
        (replace(GOOD, refused_s=[0.1] * 100 + [14.0] * 80), "refusals, p99 in s"),
        (replace(GOOD, errors=Counter({"ServerError": 1})), "other errors"),
        (replace(GOOD, memory_mib=list(range(100, 130))), "growth of memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_limit_counts(failing: Outcome, name: str) -> None:
    table, passes = tabulate(failing, sustained=6.0, queue_limit_s=15.0)
    assert not passes
    assert [row[0] for row in table.rows if row[3] == "NO"] == [name]
