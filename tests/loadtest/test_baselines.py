"""Servers to compare with that do not start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtest.baselines import systems
from loadtest.baselines.in_process import GENDER, Networks
from loadtest.baselines.requests import RequestError
from loadtest.errors import LoadTestError


def _refuse(_address: str) -> systems.Send:
    def send(_job: object) -> Any:
        raise RequestError("connection refused")

    return send


def test_a_baseline_that_ends_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a minute per attempt would be too long for the test's own limit of time
    monkeypatch.setattr(systems, "START_TIMEOUT_S", 1e9)
    monkeypatch.setattr(systems, "environment_from_networks", lambda _: {})
    monkeypatch.setattr(systems, "make_jobs", lambda *_: [None])
    broken = systems.Baseline("no_such_module", "broken", _refuse)
    monkeypatch.setitem(systems.BASELINES, "broken", broken)
    networks = SimpleNamespace(specs={GENDER: SimpleNamespace(model="person_gender")})
    opening = systems.running_system(
        "broken", cast("Networks", networks), "", "", {}, "person_attributes"
    )
    with pytest.raises(LoadTestError, match="broken does not start"), opening:
        pass
