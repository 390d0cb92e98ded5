"""Durations are measured on the monotonic clock, which cannot be set."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builders.repository.layout import ROOT
from tests.chaos_clocks import COMPILER, Clocks

PATIENCE_S = 300.0
"""Time for what takes a second on an idle machine."""

WALL_CLOCK = {
    "builders/benchmarks/training_vtest.py": "date in a report",
    "builders/build/build.py": "date in a record",
    "builders/evaluation/report.py": "date in a report",
    "builders/quantisation/cache.py": "date in a table",
    "builders/quantisation/calibration.py": "date in a table",
    "builders/quantisation/finetuning.py": "date in a table",
    "builders/repository/built_files.py": "age of a file, in a table",
    "builders/repository/runtimes/pause_watchdog.py": "Triton waits on this clock",
    "builders/training/training.py": "date in a record",
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


PROGRAM = """
import os, socket, sys, threading, time
from pathlib import Path
from types import SimpleNamespace

from builders.repository.runtimes.admission import Admission
from builders.repository.runtimes.deadlines import Deadline
from builders.serve.health import Health
from builders.serve.probes import Repeated, Silence
from personserve import Client, RequestTimeoutError, Retry
from tests.chaos_clocks import VARIABLE, Clocks

clocks = Clocks(Path(os.environ[VARIABLE]).parent)
before = time.time()
request = SimpleNamespace(is_cancelled=lambda: False)
deadline = Deadline(request, time.monotonic_ns() + 600 * 10**9)
admission = Admission(["a"], 10, 1, fetch=lambda: "")
admission.read()
silence = Silence(lambda: [])
calls = []
repeated = Repeated(lambda: calls.append(0), 0.01, "repeated")
listener = socket.create_server(("127.0.0.1", 0))
host, port = listener.getsockname()
client = Client(f"http://{host}:{port}", retry=Retry(attempts=1))
for seconds in (3600, -7200, 3600, 120, -120):
    timer = threading.Timer(0.1, clocks.step, ("callers", seconds))
    timer.start()
    try:
        client.describe("m", timeout_s=0.4)  # nobody answers
    except RequestTimeoutError:
        pass
    timer.join()
    count = len(calls)
    while len(calls) < count + 3:  # for ever if it waits for a time of the wall clock
        time.sleep(0.01)
    deadline.check()
    assert silence.seconds < 600
    admission.admit(1)
repeated.stop()
print("done", round(time.time() - before) < 600)
"""

WATCHDOG = """
import time
from tests.chaos_clocks import VARIABLE, Clocks
import os
from pathlib import Path
from builders.repository.runtimes.pause_watchdog import PauseWatchdog

clocks = Clocks(Path(os.environ[VARIABLE]).parent)
watchdog = PauseWatchdog()
for seconds in (-3600, 0.2, -60):
    clocks.step("callers", seconds)
    time.sleep(0.3)
print("alive", flush=True)
clocks.step("callers", 3600)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Clocks:
    if COMPILER is None:
        pytest.skip("no C compiler (gcc or clang)")
    clocks = Clocks(tmp_path_factory.mktemp("clocks"))
    clocks.prepare()
    return clocks


def _run(program: str, clocks: Clocks) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | clocks.environment("callers"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_no_wait_follows_a_wall_clock_that_is_set(clocks: Clocks) -> None:
    done = _run(PROGRAM, clocks)
    assert done.stdout == "done True\n", done.stderr


def test_a_clock_set_forward_ends_a_python_process_like_a_pause(clocks: Clocks) -> None:
    """Triton gives up on the process at that moment, and would take its late answer."""
    done = _run(WATCHDOG, clocks)
    assert (done.stdout, done.returncode) == ("alive\n", -signal.SIGKILL), done.stderr
