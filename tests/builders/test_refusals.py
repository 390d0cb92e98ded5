"""Refused requests: their counters and their lines in the log."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from builders.repository.layout import ROOT

REFUSALS = "builders.repository.runtimes.refusals"


class _Metric:
    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.value = 0

    def increment(self, value: int) -> None:
        self.value += value


class _Family:
    COUNTER = "counter"

    def __init__(self, **_: str) -> None:
        self.metrics: list[_Metric] = []

    def Metric(self, labels: dict[str, str]) -> _Metric:  # noqa: N802 - Triton's name
        self.metrics.append(_Metric(labels))
        return self.metrics[-1]


class _Error(Exception):
    INVALID_ARG, INTERNAL, CANCELLED = "invalid", "internal", "cancelled"
    UNAVAILABLE = "unavailable"

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


@pytest.fixture
def lines() -> list[str]:
    """Lines that the module under test has logged."""
    return []


@pytest.fixture
def refusals(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with a stand-in for Triton's module."""
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.MetricFamily = _Family
    utils.TritonError = _Error
    utils.TritonModelException = RuntimeError
    utils.Logger = SimpleNamespace(log_warn=lines.append)
    utils.InferenceResponse = lambda error: SimpleNamespace(error=error)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    monkeypatch.delitem(sys.modules, REFUSALS, raising=False)
    yield importlib.import_module(REFUSALS)
    sys.modules.pop(REFUSALS)


def _request(request_id: str) -> Any:
    return SimpleNamespace(request_id=lambda: request_id)


def test_an_error_is_counted_and_has_a_line(refusals: Any, lines: list[str]) -> None:
    log = refusals.RefusalLog({"model_name": "m"}, list(refusals.Reason))
    response = log.respond(_request("r1"), refusals.Reason.IMAGE, "not an image")
    assert str(response.error) == "not an image"
    assert response.error.code == _Error.INVALID_ARG
    assert lines == [
        "refused reason=image model=m request=r1 unlogged=0 text=not an image"
    ]
    counts = {m.labels["reason"]: m.value for m in log._family.metrics}
    assert counts == {r.value: int(r.value == "image") for r in refusals.Reason}


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("CANCELLED", _Error.CANCELLED),
        ("FAILED", _Error.INTERNAL),
        ("OVERLOADED", _Error.UNAVAILABLE),
    ],
)
def test_a_fault_of_the_server_has_its_own_status(
    refusals: Any, reason: str, code: str
) -> None:
    log = refusals.RefusalLog({"model_name": "m"})
    response = log.respond(_request(""), refusals.Reason[reason], "text")
    assert response.error.code == code


def test_many_errors_write_few_lines(
    refusals: Any, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(
        refusals, "time", SimpleNamespace(monotonic=lambda: next(clock) / 1000)
    )
    log = refusals.RefusalLog({"model_name": "m"})
    for _ in range(60_000):  # in a minute
        log.respond(_request("r"), refusals.Reason.FAILED, "x" * 10_000)
    assert len(lines) <= refusals.BURST + 60 * refusals.LINES_PER_S + 1
    assert sum(len(line) for line in lines) < 60_000
    unlogged = [int(line.split("unlogged=")[1].split()[0]) for line in lines]
    assert len(lines) + sum(unlogged) + log._limiter._unlogged == 60_000
    (failed,) = (m for m in log._family.metrics if m.labels["reason"] == "failed")
    assert failed.value == 60_000


def test_a_sender_cannot_forge_a_line_or_a_field(refusals: Any) -> None:
    line = refusals.format_line(
        refusals.Reason.BOXES, "m", 'a b\nW1124 "x=1"' + "y" * 999, 0, "two\nlines\0"
    )
    assert "\n" not in line
    assert "\0" not in line
    assert line.count("=") == 5
    assert "request=a_b_W1124__x_1_yyy" in line


def test_a_server_without_metrics_still_has_lines(
    refusals: Any, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: str) -> None:
        raise RuntimeError("metrics are disabled")

    refuse.COUNTER = 1  # type: ignore[attr-defined]
    monkeypatch.setattr(
        sys.modules["triton_python_backend_utils"], "MetricFamily", refuse
    )
    log = refusals.RefusalLog({"model_name": "m"})
    log.respond(_request("r"), refusals.Reason.FAILED, "text")
    log.close()
    assert len(lines) == 2


def test_the_readme_lists_every_reason(refusals: Any) -> None:
    text = (ROOT / "model_repository" / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Refused requests")[2].partition("\n## ")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert rows == [reason.value for reason in refusals.Reason]
    assert refusals.COUNTER in table
