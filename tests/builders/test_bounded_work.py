"""Limits of queues, of people who wait, and of the time that a request is worth."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from builders.repository.config import render_configs
from builders.repository.layout import Repository
from builders.repository.queue_limits import TIMEOUT_S
from builders.repository.runtimes import deadlines
from builders.repository.runtimes.admission import Admission, OverloadError
from builders.repository.runtimes.deadlines import AbandonedError, Deadlines
from builders.serve import tritonserver
from builders.serve.resources import cuda_pool_bytes, instance_shm_bytes
from builders.serve.tritonserver import TritonServer
from builders.spec.catalogue import catalogue
from builders.spec.ensemble import Ensemble, PythonModel
from personserve import Client

CONFIGS = [
    (declaration, path, text)
    for declaration in catalogue().values()
    for path, text in render_configs(declaration, Repository())
]


def _parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_every_queue_has_a_limit_except_where_triton_would_lose_requests() -> None:
    steps = {
        step.model.name
        for declaration in catalogue().values()
        if isinstance(declaration, Ensemble) and Repository().is_deployed(declaration)
        for step in declaration.steps
    }
    for declaration, path, text in CONFIGS:
        config = _parse(text)
        policy = config.dynamic_batching.default_queue_policy
        if isinstance(declaration, Ensemble):
            continue
        if declaration.name in steps and not isinstance(declaration, PythonModel):
            assert policy.max_queue_size == 0, path
            assert config.parameters["step_of"].string_value, path
            continue
        assert policy.max_queue_size >= 48, path
        assert policy.timeout_action == policy.REJECT, path
        assert policy.default_timeout_microseconds == TIMEOUT_S * 1e6, path
        assert policy.allow_timeout_override, path
        assert "step_of" not in config.parameters, path


def test_requests_are_still_not_merged_on_the_cpu() -> None:
    merged = {
        declaration.name: list(_parse(text).dynamic_batching.preferred_batch_size)
        for declaration, path, text in CONFIGS
        if path.name == "cpu.pbtxt"
        and _parse(text).HasField("dynamic_batching")
        and _parse(text).max_batch_size > 0
    }
    assert merged
    assert all(sizes == [1] for sizes in merged.values()), merged


def test_a_refused_request_has_time_for_another_server() -> None:
    deadline_s = inspect.signature(Client).parameters["timeout_s"].default
    assert 7.2 < TIMEOUT_S <= deadline_s / 2


class FakeMetrics:
    """Triton's metrics with a number of pending requests."""

    def __init__(self) -> None:
        self.pending: dict[str, int] = {"a": 0, "b": 0, "other": 1000}
        self.finished: dict[str, float] = {"a": 0.0, "b": 0.0}
        self.fails = False

    def fetch(self) -> str:
        if self.fails:
            raise ConnectionRefusedError
        return "".join(
            f'nv_inference_pending_request_count{{model="{name}",version="1"}} {n}\n'
            for name, n in self.pending.items()
        ) + "".join(
            f'nv_inference_count{{model="{name}",version="1"}} {n}\n'
            for name, n in self.finished.items()
        )


@pytest.fixture
def gauge() -> FakeMetrics:
    return FakeMetrics()


@pytest.fixture
def admission(gauge: FakeMetrics) -> Admission:
    admission = Admission(["a", "b"], 100, instances=2, fetch=gauge.fetch)
    admission.read()
    return admission


def _count_admitted(admission: Admission, people: int, attempts: int) -> int:
    admitted = 0
    for _ in range(attempts):
        try:
            admission.admit(people)
        except OverloadError:
            continue
        admitted += 1
    return admitted


def _read_settled(admission: Admission) -> None:
    """Read twice: what was passed on during a reading counts until the next."""
    admission.read()
    admission.read()


def test_frames_are_admitted_until_enough_people_wait(
    admission: Admission, gauge: FakeMetrics
) -> None:
    assert _count_admitted(admission, 5, 40) == 10, "two instances pass on as many"
    gauge.pending["b"] = 30  # frames of five people
    _read_settled(admission)
    with pytest.raises(OverloadError, match=r"about 150 people wait.*at most 100"):
        admission.admit(1)
    gauge.pending["b"] = 10
    _read_settled(admission)
    assert 1 <= _count_admitted(admission, 5, 40) < 10
    gauge.pending["b"] = 0
    _read_settled(admission)
    assert _count_admitted(admission, 500, 3) == 1, "a large frame passes if none waits"


def test_frames_are_refused_that_a_slow_machine_would_answer_late(
    admission: Admission, gauge: FakeMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)

    def pass_time(seconds: int, people_per_s: float) -> None:
        nonlocal now_s
        for _ in range(4 * seconds):
            now_s += 0.25
            gauge.finished["b"] += people_per_s / 4
            _read_settled(admission)

    gauge.pending["b"] = 30  # frames of one person
    pass_time(12, people_per_s=10)
    assert _count_admitted(admission, 1, 1) == 1, "they wait for 3 s"
    pass_time(12, people_per_s=1)
    with pytest.raises(OverloadError, match=r"for 27 s at their present speed"):
        admission.admit(1)
    gauge.pending["b"] = 1
    pass_time(12, people_per_s=1)
    gauge.pending["b"] = 30
    pass_time(2, people_per_s=1)
    assert _count_admitted(admission, 1, 1) == 1, "one at a time told no speed of many"
    pass_time(12, people_per_s=0)
    assert _count_admitted(admission, 1, 1) == 0, "nothing moves"


def test_without_metrics_everything_is_admitted(
    admission: Admission, gauge: FakeMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge.pending["a"] = 1000
    admission.read()
    assert _count_admitted(admission, 1, 10) == 0
    gauge.fails = True
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert _count_admitted(admission, 1, 10) == 10


class Request:
    """Triton's request, as the Python backend gives it to a model."""

    def __init__(self, name: str, timeout_s: float = 0.0) -> None:
        self.name, self.timeout_s, self.cancelled = name, timeout_s, False

    def request_id(self) -> str:
        return self.name

    def timeout(self) -> int:
        return int(self.timeout_s * 1e6)

    def is_cancelled(self) -> bool:
        return self.cancelled


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(deadlines, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_step_knows_the_deadline_that_the_first_step_noted() -> None:
    first, step = Deadlines(os.getpid()), Deadlines(os.getpid())
    request = Request("r1", timeout_s=0.05)
    first.begin(request).check()
    step.find(request).check()
    time.sleep(0.06)
    # its own timeout begins anew at each step
    with pytest.raises(AbandonedError, match="deadline has passed"):
        step.find(request).check()
    step.find(Request("r2", timeout_s=0.05)).check()
    step.find(Request("")).check()
    request = Request("r1", timeout_s=60)  # the same request again
    first.begin(request).check()
    step.find(request).check()
    request.cancelled = True
    with pytest.raises(AbandonedError, match="cancelled"):
        step.find(request).check()


def test_an_entry_of_another_or_half_written_is_not_read(folder: Path) -> None:
    table = Deadlines(os.getpid())
    table.write("r1", 5)
    assert table.read("r1") == 5
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[next(i for i, byte in enumerate(data) if byte)] ^= 1
    path.write_bytes(data)
    assert table.read("r1") is None
    assert table.read("") is None


def test_tables_of_ended_servers_are_removed(folder: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    Deadlines(ended.pid)
    Deadlines(os.getpid())
    assert [path.suffix for path in folder.iterdir()] == [f".{os.getpid()}"]


@pytest.mark.usefixtures("folder")
def test_a_full_dev_shm_costs_the_table_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    table = Deadlines(os.getpid())
    table.begin(Request("r1", timeout_s=1)).check()
    assert table.read("r1") is None


def test_networks_reserve_shared_memory_for_their_largest_batch() -> None:
    known = catalogue()
    crops_bytes = 64 * 224 * 224 * 3
    reserved = instance_shm_bytes([known["person_gender"]], "cpu")
    assert 1.1 * crops_bytes < reserved < 1.3 * crops_bytes
    assert instance_shm_bytes(known.values(), "cpu") >= reserved
    assert instance_shm_bytes(known.values(), "tensorrt") == 1 << 20, "Triton's own"


def test_crops_on_a_gpu_have_a_pool(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = catalogue()
    crops = 8192 * (224 * 224 * 3 + 384 * 128 * 3)
    preprocess = known["person_preprocess"]
    assert cuda_pool_bytes([preprocess, known["person_gender"]], "tensorrt") == crops
    assert cuda_pool_bytes([known["person_gender"]], "tensorrt") == 0, "no crops cut"
    assert cuda_pool_bytes([preprocess], "cpu") == 0

    monkeypatch.setattr(tritonserver, "gpu_names", lambda: ["H100", "H100"])
    server = TritonServer(repository, models=["person_attributes"])
    option = "--cuda-memory-pool-byte-size"
    command, _ = server.command("k" * 32)
    assert not any(each.startswith(option) for each in command), "on the CPU"
    monkeypatch.setattr(tritonserver, "cuda_pool_bytes", lambda *_: crops)
    command, _ = server.command("k" * 32)
    assert {f"{option}=0:{crops}", f"{option}=1:{crops}"} <= set(command)
