"""The end of servers: what is unloaded, and what is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builders.serve.draining import (
    list_python_processes,
    unload_models,
    wait_for_exit,
)
from builders.serve.launching import start_process

PATIENCE_S = 300.0
"""Time after which a wait counts as endless, on the slowest machine."""

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-ISc", "input()"], stdin=subprocess.PIPE)
print("started", flush=True)
input()
child.communicate(b"\\n")
time.sleep(3600)
"""
"""A server that never exits, with a Python process that ends after a line of input."""

NO_ABORT = threading.Event()


class FakeProbe:
    """Control of a server that keeps unloading until `is_done`."""

    def __init__(self, accepts: bool = True) -> None:
        self.unloaded: list[str] = []
        self.polls = 0
        self.is_done = threading.Event()
        self._accepts = accepts

    def ask(self, call: str, timeout_s: float) -> bool:
        raise NotImplementedError

    def unload(self, model: str, timeout_s: float) -> bool:
        assert timeout_s > 0
        self.unloaded.append(model)
        return self._accepts

    def is_unloading(self, timeout_s: float) -> bool | None:
        assert timeout_s > 0
        self.polls += 1
        return not self.is_done.is_set()

    def close(self) -> None:
        raise NotImplementedError


@contextmanager
def _session(program: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-ISc", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"started\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _seconds(function: Callable[[], object]) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


def test_a_server_whose_python_processes_have_ended_is_not_waited_for() -> None:
    with _session(STUBBORN) as process:
        assert process.stdin is not None
        assert len(list_python_processes(process.pid)) == 1
        seconds = _seconds(
            lambda: wait_for_exit(process, 2.5, NO_ABORT, had_python=True)
        )
        assert seconds >= 2.5, "one is running"
        process.stdin.write(b"\n")
        process.stdin.flush()
        seconds = _seconds(
            lambda: wait_for_exit(process, 3600, NO_ABORT, had_python=True)
        )
        assert seconds < PATIENCE_S
        assert process.poll() is None, "it is left to SIGKILL"
        assert list_python_processes(process.pid) == []
        seconds = _seconds(
            lambda: wait_for_exit(process, 2.5, NO_ABORT, had_python=False)
        )
        assert seconds >= 2.5, "it may compute in its own process"


def test_a_wait_is_aborted() -> None:
    abort = threading.Event()
    abort.set()
    with _session(STUBBORN) as process:
        wait_for_exit(process, 3600, abort, had_python=True)
        assert process.poll() is None, "it is left to SIGKILL"
        unload_models(FakeProbe(), ["a"], process.pid, 3600, abort)


def test_an_exit_is_noticed() -> None:
    with _session("print('started', flush=True); input()") as process:
        process.communicate(b"\n")
        seconds = _seconds(
            lambda: wait_for_exit(process, 3600, NO_ABORT, had_python=False)
        )
        assert seconds < PATIENCE_S


def test_a_busy_server_is_waited_for_and_an_idle_one_is_not() -> None:
    busy = FakeProbe()
    with _session("print('started', flush=True)\nwhile True: pass") as process:
        seconds = _seconds(
            lambda: unload_models(busy, ["a", "b"], process.pid, 2, NO_ABORT)
        )
        assert seconds >= 2, "its requests in flight hold the model"
    assert busy.unloaded == ["a", "b"]
    idle = FakeProbe()
    with _session("print('started', flush=True); input()") as process:
        assert _seconds(
            lambda: unload_models(idle, ["a"], process.pid, 3600, NO_ABORT)
        ) < (PATIENCE_S), "an open stream holds the model"


def test_unloaded_and_refused_models_are_not_waited_for() -> None:
    done, deaf = FakeProbe(), FakeProbe(accepts=False)
    done.is_done.set()
    unload_models(done, ["a"], os.getpid(), 3600, NO_ABORT)
    assert done.polls == 1
    unload_models(deaf, ["a"], os.getpid(), 3600, NO_ABORT)
    unload_models(deaf, [], os.getpid(), 3600, NO_ABORT)
    assert deaf.polls == 0, "a server that refuses the call, and one without ensembles"


PARENT = """
import sys, tempfile
from builders.serve.launching import start_process
command = [sys.executable, "-ISc", "import time; time.sleep(3600)"]
child = start_process(command, {}, tempfile.TemporaryFile())
print(child.pid, flush=True)
"""


def test_a_process_ends_with_the_one_that_started_it() -> None:
    output = subprocess.check_output([sys.executable, "-c", PARENT], text=True)
    deadline = time.monotonic() + PATIENCE_S
    while _is_running(int(output)):
        assert time.monotonic() < deadline, "SIGTERM came from the kernel"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_started_process_leads_a_session(tmp_path: Path) -> None:
    program = "import os; print(os.getsid(0) == os.getpid(), os.environ['NAME'])"
    path = tmp_path / "log"
    with path.open("wb") as log:
        process = start_process([sys.executable, "-c", program], {"NAME": "x"}, log)
    assert process.wait() == 0
    assert path.read_text() == "True x\n"
