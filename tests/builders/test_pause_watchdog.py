"""The watchdog kills a process that holds Python's lock, except for an answer."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from builders.repository.layout import ROOT
from builders.repository.runtimes.pause_watchdog import LIMIT_S

PROGRAM = f"""
import ctypes, sys, time
sys.path.insert(0, {str(ROOT)!r})
from builders.repository.runtimes.pause_watchdog import PauseWatchdog

hold_lock = ctypes.PyDLL(None).usleep  # unlike CDLL, it keeps Python's lock
watchdog = PauseWatchdog()
time.sleep(0.3)
for _ in range(int(sys.argv[2])):
    if sys.argv[1] == "hands over":
        watchdog.hand_over()
    time.sleep(0.04)  # the thread of the watchdog may run before the backend does
    hold_lock({int((LIMIT_S + 0.15) * 1e6)})
    time.sleep(0.3)
watchdog.stop()
"""


@pytest.mark.parametrize(
    ("conduct", "rounds", "code"), [("hangs", 1, -signal.SIGKILL), ("hands over", 8, 0)]
)
def test_only_an_answer_may_hold_the_lock(conduct: str, rounds: int, code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, conduct, str(rounds)]
    assert subprocess.run(command, check=False, timeout=600).returncode == code
