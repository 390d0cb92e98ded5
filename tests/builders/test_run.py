"""The signals of a server in the foreground."""

from __future__ import annotations

import signal

from builders.serve.health import Health
from builders.serve.run import _draining_on_sigterm

TIMEOUT_S = 60.0


def test_the_first_signal_drains_and_the_second_aborts() -> None:
    health, printed = Health(), list[str]()
    before = signal.getsignal(signal.SIGTERM)
    with _draining_on_sigterm(health, printed.append) as (stop, abort):
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(TIMEOUT_S)
        assert not abort.wait(0.1)
        signal.raise_signal(signal.SIGTERM)
        assert abort.wait(TIMEOUT_S)
    assert "draining" in health.reason
    assert len(printed) == 1, printed
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_signals_at_once_are_two() -> None:
    with _draining_on_sigterm(Health(), lambda _line: None) as (_, abort):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert abort.wait(TIMEOUT_S)
