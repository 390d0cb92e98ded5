"""Supervision of a server: symptoms, reports and restarts."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.serve import probes
from builders.serve import supervisor as module
from builders.serve.errors import ServeError
from builders.serve.health import Health
from builders.serve.probes import Canaries, canary_inputs
from builders.serve.processes import (
    STUB,
    CpuDemand,
    describe_exit,
    exit_code,
    list_session,
)
from builders.serve.supervisor import Supervisor
from builders.spec.catalogue import catalogue
from personserve import (
    InvalidInputError,
    RequestTimeoutError,
    ServerUnavailableError,
)

PATIENCE_S = 120.0
"""Time for what takes a second on an idle machine."""

WAIT_INTERVAL_S = 0.01

LATE_FACTOR = 10
"""Delay of a supervisor, which has several threads and calls, for one late sleep."""


class FakeServer:
    """A session of shells in place of a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder / "log"
        self.live, self.failing_starts = True, 0
        self.canaries: Any = None
        self.process: subprocess.Popen[bytes] | None = None
        self.starts: list[float] = []
        self.shell = "wait; sleep 9"
        # a stub's arguments are its model file and, later, the name of the instance
        (folder / STUB).symlink_to(shutil.which("tail") or "")
        self.model_file = folder / "m" / "1" / "model.py"
        self.model_file.parent.mkdir(parents=True)
        self.model_file.touch()
        (folder / "m_0_0").touch()

    pid = property(lambda self: self.process.pid)
    exit_code = property(lambda self: self.process.poll())

    def start(self, cancel: threading.Event | None = None) -> None:  # noqa: ARG002
        self.starts.append(time.monotonic())
        if len(self.starts) <= self.failing_starts + 1 and len(self.starts) > 1:
            raise ServeError("a port is taken")
        self.live = True
        command = f"{self.folder / STUB} {self.model_file} m_0_0 -f & {self.shell}"
        self.process = subprocess.Popen(
            ["sh", "-c", command], start_new_session=True, cwd=self.folder
        )
        stub = str(self.folder / STUB)
        while not any(_command(p.pid)[0] == stub for p in list_session(self.pid)):
            time.sleep(0.01)

    def stop(self, timeout_s: float = 0) -> None:  # noqa: ARG002
        assert self.process is not None
        for each in list_session(self.pid):
            if each.state != "Z":
                subprocess.run(["kill", "-9", str(each.pid)], check=False)
        self.process.wait()

    def stub(self) -> int:
        (pid,) = (p.pid for p in list_session(self.pid) if p.pid != self.pid)
        return pid

    def open_probe(self) -> Any:
        return self

    def ask(self, call: str, timeout_s: float) -> bool:  # noqa: ARG002
        return self.live

    def close(self) -> None:
        pass

    def open_canaries(self) -> Any:
        return self.canaries

    def describe_failure(self) -> str:
        return "the last words"


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    server = FakeServer(tmp_path)
    server.start()
    yield server
    server.stop()


def _wait_for_failure(supervisor: Supervisor) -> str:
    texts: list[str] = []

    def is_certain() -> bool:
        symptom = supervisor.find_symptom()
        texts[:] = [symptom.text] if symptom else []
        return symptom is not None and symptom.is_certain

    _wait_until(is_certain)
    return texts[0]


def _wait_for_state(pid: int, states: str) -> None:
    """Wait until a process is in one of the states of /proc/PID/stat; "" for none."""

    def is_reached() -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return states == ""
        return stat.rpartition(")")[2].split()[0] in states if states else False

    _wait_until(is_reached)


def _kill(signal_name: str, pid: int) -> None:
    subprocess.run(["kill", f"-{signal_name}", str(pid)], check=True)


def test_a_healthy_server_has_no_symptom(server: Any) -> None:
    supervisor = Supervisor(server, print)
    assert [supervisor.find_symptom() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("signal_name", ["KILL", "SEGV"])
def test_a_dead_process_is_named_with_its_signal(server: Any, signal_name: str) -> None:
    supervisor = Supervisor(server, print)
    # its parent, the shell, is stopped and cannot collect it: a zombie as Triton leaves
    _kill("STOP", server.pid)
    _wait_for_state(server.pid, "T")
    stub = server.stub()
    _kill(signal_name, stub)
    _wait_for_state(stub, "Z")
    first = supervisor.find_symptom()
    assert first is not None
    assert not first.is_certain
    failure = _wait_for_failure(supervisor)
    assert failure.startswith("the Python process of m_0_0")
    assert f"was ended by SIG{signal_name}" in failure
    _kill("CONT", server.pid)


def test_a_process_that_was_collected_belongs_to_an_unloaded_model(server: Any) -> None:
    supervisor = Supervisor(server, print)
    assert supervisor.find_symptom() is None
    stub = server.stub()
    _kill("TERM", stub)
    _wait_for_state(stub, "")
    assert [supervisor.find_symptom() for _ in range(3)] == [None] * 3


def test_a_process_that_ended_by_itself_may_be_of_an_unloaded_model(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(server, print)
    assert supervisor.find_symptom() is None
    monkeypatch.setattr(module, "exit_code", lambda _status: 0)
    _kill("STOP", server.pid)  # it collects late, as a busy Triton does
    _wait_for_state(server.pid, "T")
    stub = server.stub()
    _kill("KILL", stub)
    _wait_for_state(stub, "Z")
    monkeypatch.setattr(module, "COLLECT_GRACE_S", PATIENCE_S)
    symptoms = [supervisor.find_symptom() for _ in range(3)]
    assert all(each is None or each.kind == "stopped" for each in symptoms)
    monkeypatch.setattr(module, "COLLECT_GRACE_S", 0.0)
    failure = _wait_for_failure(supervisor)
    assert failure.endswith("ended with code 0"), "it was not unloaded after all"
    _kill("CONT", server.pid)


def test_a_stopped_process_is_a_failure(server: Any) -> None:
    supervisor = Supervisor(server, print)
    assert supervisor.find_symptom() is None
    _kill("STOP", server.stub())
    assert "is stopped" in _wait_for_failure(supervisor)


def test_a_stopped_server_is_unready_at_once_and_a_failure_if_it_lasts(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(server, print)
    _kill("STOP", server.pid)
    _wait_for_state(server.pid, "T")
    monkeypatch.setattr(module, "STOPPED_TIMEOUT_S", PATIENCE_S)
    symptom = supervisor.find_symptom()
    assert symptom is not None
    assert symptom.text == "tritonserver is stopped by a signal"
    assert not symptom.is_certain
    _kill("CONT", server.pid)
    _wait_for_state(server.pid, "RSD")
    assert supervisor.find_symptom() is None, "it may go on"
    _kill("STOP", server.pid)
    monkeypatch.setattr(module, "STOPPED_TIMEOUT_S", 0.1)
    assert _wait_for_failure(supervisor) == symptom.text


@contextmanager
def _running(
    supervisor: Supervisor, stop: threading.Event | None = None
) -> Iterator[None]:
    stop = stop or threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _wait_until(condition: Callable[[], object]) -> float:
    """Return the time until a condition holds, less LATE_FACTOR of the delays."""
    began, late_s = time.monotonic(), 0.0
    while not condition():
        slept_at = time.monotonic()
        assert slept_at - began < PATIENCE_S
        time.sleep(WAIT_INTERVAL_S)
        late_s += time.monotonic() - slept_at - WAIT_INTERVAL_S
    return time.monotonic() - began - LATE_FACTOR * late_s


@pytest.mark.parametrize("fault", ["stop the server", "stop a stub", "deadlock"])
def test_a_hung_server_is_unready_within_two_seconds(server: Any, fault: str) -> None:
    health = Health()
    supervisor = Supervisor(server, lambda _text: None, health)
    with _running(supervisor):
        _wait_until(lambda: health.is_ready)
        if fault == "deadlock":
            server.live = False
        else:
            _kill("STOP", server.pid if "server" in fault else server.stub())
        assert _wait_until(lambda: not health.is_ready) < 2
        _wait_until(lambda: health.is_ready)
    assert len(server.starts) == 2
    assert len(supervisor.failures) == 1
    page = health.metrics.render()
    kind = {"deadlock": "hung", "stop a stub": "stub-stopped"}.get(fault, "stopped")
    assert f'personserve_restarts_total{{reason="{kind}"}} 1' in page


def test_a_busy_server_is_not_restarted_for_being_late(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.shell = "while true; do true; done"
    server.stop()
    server.start()
    server.live = False
    supervisor = Supervisor(server, print)
    monkeypatch.setattr(module, "OBSERVED_SILENCE_S", 0.1)
    monkeypatch.setattr(module, "HANG_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "LATE_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", PATIENCE_S)
    assert [supervisor.find_symptom() for _ in range(50) if not time.sleep(0.02)] == [
        None
    ] * 50
    monkeypatch.setattr(module, "LATE_TIMEOUT_S", 0.5)
    late = supervisor.find_symptom()
    assert late is not None
    assert not late.is_certain, "unready, and left alone"
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.5)
    assert "has not answered for" in _wait_for_failure(supervisor)


def test_a_server_that_waits_for_a_disk_is_unready_and_left_alone(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = CpuDemand(1.0, waits_for_disk=True)
    monkeypatch.setattr(probes, "read_cpu_demand", lambda _pids: waiting)
    monkeypatch.setattr(module, "OBSERVED_SILENCE_S", 0.0)
    monkeypatch.setattr(module, "HANG_TIMEOUT_S", 0.1)
    server.live = False
    supervisor = Supervisor(server, print)
    supervisor.find_symptom()
    time.sleep(0.2)
    symptom = supervisor.find_symptom()
    assert symptom is not None
    assert symptom.text.endswith("waits for a disk")
    assert not symptom.is_certain


def test_a_supervisor_that_was_paused_itself_blames_nobody(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_POLL_GAP_S", 0.1)  # each poll comes too late
    server.live = False
    supervisor = Supervisor(server, print)
    with _running(supervisor):
        time.sleep(2.5)
    assert supervisor.failures == []


def test_a_dead_server_is_a_failure(server: Any) -> None:
    supervisor = Supervisor(server, print)
    server.stop()
    assert _wait_for_failure(supervisor).startswith("tritonserver was ended by SIGKILL")


class FakeClient:
    """Answers, or raises the error that it was given."""

    def __init__(self, *_args: object, **_settings: object) -> None:
        self.error: Exception | None = None
        self.models: list[str] = []
        self.inputs: dict[str, np.ndarray] = {}

    def infer(
        self, model: str, inputs: dict[str, np.ndarray], *, timeout_s: float
    ) -> None:
        self.models.append(model)
        self.inputs = inputs
        if isinstance(self.error, RequestTimeoutError):
            time.sleep(timeout_s)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        pass


@pytest.fixture
def canaries(server: Any, monkeypatch: pytest.MonkeyPatch) -> Canaries:
    monkeypatch.setattr(probes, "Client", FakeClient)
    models = [catalogue()[name] for name in ("person_gender", "person_preprocess")]
    return Canaries("grpc://127.0.0.1:1", lambda: models, {}, lambda: [server.pid])


def test_a_canary_that_fails_twice_is_a_failure(
    server: Any, canaries: Canaries
) -> None:
    client: Any = canaries._client
    supervisor = Supervisor(server, print)
    supervisor._canaries = canaries
    for _ in range(3):
        canaries.send(0.1)
    assert client.models == ["person_gender", "person_preprocess", "person_gender"]
    client.error = ServerUnavailableError("overloaded")
    canaries.send(0.1)
    assert supervisor.find_symptom() is None, "a refusal is an answer"
    dead = "Stub process 'person_gender_0_0' is not healthy."
    for error in (ServerUnavailableError(dead), RequestTimeoutError("late")):
        client.error = error
        canaries.send(0.2)
        symptom = supervisor.find_symptom()
        assert symptom is not None
        assert not symptom.is_certain
        canaries.send(0.2)
        assert "a canary of person_" in _wait_for_failure(supervisor)
        assert client.models[-1] == client.models[-2], "it is asked again"
        client.error = None
        canaries.send(0.1)
        assert supervisor.find_symptom() is None


def test_a_canary_in_a_full_queue_is_no_failure(
    server: Any, canaries: Canaries
) -> None:
    server.shell = "while true; do true; done"
    server.stop()
    server.start()
    client: Any = canaries._client
    client.error = RequestTimeoutError("late")
    for _ in range(3):
        canaries.send(0.2)
    assert canaries.failures == 0


def test_a_canary_follows_a_rollout_to_inputs_of_another_size(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "Client", FakeClient)
    name, crops = "person_reid_kd_r18", "crops"
    served = [catalogue()[name]]
    canaries = Canaries("grpc://127.0.0.1:1", lambda: served, {}, lambda: [server.pid])
    client: Any = canaries._client
    canaries.send(0.1)
    before = client.inputs[crops].shape
    served[0] = replace(catalogue()["person_gender"], name=name)  # type: ignore[type-var]
    client.error = InvalidInputError("another shape")
    canaries.send(0.1)
    client.error = None
    canaries.send(0.1)
    assert client.inputs[crops].shape == (1, 224, 224, 3) != before
    assert canaries.failures == 0


def test_canaries_are_the_smallest_requests() -> None:
    preprocess = canary_inputs(catalogue()["person_preprocess"])
    np.testing.assert_array_equal(preprocess["boxes"], [[0, 0, 32, 32]])
    assert set(preprocess) == {"raw_frame", "frame_size", "boxes"}
    assert preprocess["raw_frame"].shape == (32 * 32 * 3,)
    assert preprocess["frame_size"].tolist() == [32, 32]
    crops = canary_inputs(catalogue()["person_gender"])["crops"]
    assert (crops.shape, crops.dtype) == ((1, 224, 224, 3), np.uint8)
    assert not canary_inputs(catalogue()["person_attributes"])


def test_a_failed_server_is_restarted_until_it_starts(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.2)
    lines: list[str] = []
    server.failing_starts = 2
    supervisor = Supervisor(server, lines.append)
    with _running(supervisor):
        _kill("KILL", server.pid)
        _wait_until(lambda: any("ready again" in line for line in lines))
    _, first, second, third = server.starts
    assert second - first >= 0.2
    assert third - second >= 0.4, "pauses grow"
    assert "was ended by SIGKILL" in lines[0]
    assert "the last words" in lines[0]
    assert len(supervisor.failures) == 1


def test_ends_are_described() -> None:
    assert describe_exit(3) == "ended with code 3"
    assert describe_exit(-11) == "was ended by SIGSEGV"
    assert describe_exit(-40) == "was ended by signal 40"
    assert exit_code(3 << 8) == 3
    assert exit_code(signal.SIGABRT | 0x80) == -signal.SIGABRT
    assert list(list_session(None)) == []
