"""The pool of shared-memory segments, with a server simulated in this process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from personserve import (
    Client,
    InvalidInputError,
    PersonServeError,
    RequestTimeoutError,
    ServerError,
    ServerUnavailableError,
)
from personserve import _factory as factory
from personserve._factory import ClientParts
from personserve._retry import Call
from personserve._shared_memory import cuda as cuda_segments
from personserve._shared_memory import pool as segment_pool
from personserve._shared_memory.pool import SegmentPool
from personserve._shared_memory.system import FOLDER
from personserve._wire.requests import (
    DeviceArray,
    Infer,
    ListMemory,
    RegisterMemory,
    SharedTensor,
    UnregisterMemory,
)
from personserve._wire.tensors import bytes_from_array
from personserve.internal.cuda import load_cuda_runtime

FRAME = np.arange(1 << 20, dtype=np.int64).astype(np.uint8).reshape(1024, 1024)
BOXES = np.float32([[1, 2, 3, 4]])
REQUEST = Infer("m", {"frame": FRAME, "boxes": BOXES}, "r")


class Server:
    """A simulated server: it maps segments, and reads them for an inference."""

    def __init__(self) -> None:
        self.regions: dict[str, np.memmap[Any, Any]] = {}
        self.wires = 0
        self.answers: list[Any] = []

    def run_call(self, call: Call[Any]) -> Any:
        reply, error = None, None
        while True:
            try:
                request = call.throw(error) if error else call.send(reply)
            except StopIteration as stop:
                return stop.value
            reply, error = None, None
            try:
                reply = self._reply(request)
            except PersonServeError as exc:
                error = exc

    def _reply(self, request: Any) -> Any:
        if isinstance(request, RegisterMemory):
            path = FOLDER / request.key.strip("/")
            self.regions[request.region] = np.memmap(path, np.uint8, "r+")
        elif isinstance(request, UnregisterMemory):
            del self.regions[request.region]
        elif isinstance(request, ListMemory):
            return tuple(self.regions)
        elif isinstance(request, Infer):
            if self.answers:
                raise self.answers.pop(0)
            return {
                name: self._read_tensor(value) for name, value in request.inputs.items()
            }
        return None

    def _read_tensor(self, value: Any) -> Any:
        if not isinstance(value, SharedTensor):
            self.wires += 1
            return value
        if value.region not in self.regions:
            raise InvalidInputError(
                f"Unable to find shared memory region: '{value.region}'"
            )
        memory = self.regions[value.region]
        data = memory[value.offset : value.offset + value.size_bytes]
        return np.array(data).view(value.dtype).reshape(value.shape)


class Driver:
    """A simulated CUDA runtime on host memory.

    It checks one rule: nothing is freed while a server has it open.
    """

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)  # noqa: N815

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.open: set[int] = set()

    def cudaMalloc(self, size: int) -> tuple[int, int]:  # noqa: N802
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, pointer: int) -> tuple[int]:  # noqa: N802
        assert pointer not in self.open
        del self.memory[pointer]
        return (0,)

    def cudaIpcGetMemHandle(self, pointer: int) -> tuple[int, Any]:  # noqa: N802
        handle = pointer.to_bytes(8, "little").ljust(64, b"\0")
        return 0, SimpleNamespace(reserved=handle)

    def cudaMemcpy(self, to: int, source: int, size: int, _: int) -> tuple[int]:  # noqa: N802
        ctypes.memmove(to, source, size)
        return (0,)

    def cudaGetDevice(self) -> tuple[int, int]:  # noqa: N802
        return 0, 3

    def cudaSetDevice(self, _gpu: int) -> tuple[int]:  # noqa: N802
        return (0,)

    cudaDeviceSynchronize = cudaGetDevice  # noqa: N815


class GpuServer(Server):
    """A simulated server for segments on the GPU."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver

    def _reply(self, request: Any) -> Any:
        if isinstance(request, RegisterMemory):
            assert (request.memory, request.gpu) == ("cuda", 0)
            assert isinstance(request.key, bytes)
            pointer = int.from_bytes(request.key, "little")
            block = self.driver.memory[pointer]
            self.driver.open.add(pointer)
            self.regions[request.region] = np.frombuffer(block, np.uint8)
            return None
        if isinstance(request, UnregisterMemory | ListMemory):
            assert request.memory == "cuda"
        return super()._reply(request)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(cuda_segments, "load_cuda_runtime", lambda: driver)
    return driver


def test_a_gpus_memory_is_shared_by_its_handle(driver: Driver) -> None:
    pool, server = SegmentPool("cuda"), GpuServer(driver)
    for _ in range(3):
        outputs = server.run_call(pool.exchange(REQUEST))
        np.testing.assert_array_equal(outputs["frame"], FRAME)
    assert len(driver.memory) == 1, "one segment, reused"
    segments = pool.take_registered()
    assert len(driver.memory) == 1, "not freed while the server has it open"
    driver.open.clear()
    del segments
    assert driver.memory == {}


def test_what_is_on_the_gpu_needs_no_copy_through_the_host(driver: Driver) -> None:
    block = driver.cudaMalloc(8)[1]
    ctypes.memmove(block, bytes(range(8)), 8)
    interface = {"data": (block, True), "shape": (2, 4), "typestr": "|u1"}
    on_gpu = SimpleNamespace(__cuda_array_interface__={**interface, "strides": None})
    array = DeviceArray.from_object(on_gpu)
    assert array is not None
    pool, server = SegmentPool("cuda"), GpuServer(driver)
    outputs = server.run_call(pool.exchange(Infer("m", {"x": array}, "r")))
    driver.open.clear()
    assert outputs["x"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(InvalidInputError, match='needs shared_memory="cuda"'):
        Server().run_call(SegmentPool().exchange(Infer("m", {"x": array}, "r")))
    with pytest.raises(InvalidInputError, match='needs shared_memory="cuda"'):
        bytes_from_array(array)
    with pytest.raises(ValueError, match="contiguous"):
        DeviceArray.from_object(
            SimpleNamespace(__cuda_array_interface__={"strides": (8, 2)})
        )


def test_cuda_memory_without_a_gpu_is_refused() -> None:
    with suppress(OSError):
        load_cuda_runtime()
        pytest.skip("there is a GPU")
    with pytest.raises(InvalidInputError, match="no NVIDIA GPU here"):
        Client(shared_memory="cuda")


def _files() -> list[str]:
    return [path.name for path in FOLDER.glob("personserve-*")]


def test_large_tensors_lie_in_memory_and_no_file_is_left() -> None:
    pool, server = SegmentPool(), Server()
    for _ in range(3):
        outputs = server.run_call(pool.exchange(REQUEST))
        np.testing.assert_array_equal(outputs["frame"], FRAME)
        np.testing.assert_array_equal(outputs["boxes"], BOXES)
    assert server.wires == 3, "the boxes"
    assert len(server.regions) == 1, "one segment, reused"
    assert _files() == []
    assert [segment.region for segment in pool.take_registered()] == list(
        server.regions
    )
    assert pool.take_registered() == []


def test_sizes_grow_in_classes_and_calls_at_once_do_not_share() -> None:
    pool, server = SegmentPool(), Server()
    small = Infer("m", {"x": FRAME[:600]}, "r")
    large = Infer("m", {"x": np.concatenate([FRAME] * 3), "y": FRAME}, "r")
    server.run_call(pool.exchange(small))
    server.run_call(pool.exchange(REQUEST))
    outputs = server.run_call(pool.exchange(large))
    np.testing.assert_array_equal(outputs["x"][-1], FRAME[-1])
    sizes = sorted(memory.size for memory in server.regions.values())
    assert sizes == [1 << 20, 4 << 20]
    first, second = pool.exchange(REQUEST), pool.exchange(REQUEST)
    requests = [next(call) for call in (first, second)]
    assert isinstance(requests[0], Infer), "the one that is free"
    assert isinstance(requests[1], RegisterMemory), "another of its own"


def test_a_restarted_server_is_told_again() -> None:
    pool, server = SegmentPool(), Server()
    server.run_call(pool.exchange(REQUEST))
    server.regions.clear()
    outputs = server.run_call(pool.exchange(REQUEST))
    np.testing.assert_array_equal(outputs["frame"], FRAME)
    assert len(server.regions) == 1
    assert _files() == []


def test_a_server_elsewhere_gets_the_wire() -> None:
    class Elsewhere(Server):
        def _reply(self, request: Any) -> Any:
            if isinstance(request, RegisterMemory):
                raise InvalidInputError("failed to open shared memory region")
            return super()._reply(request)

    pool, server = SegmentPool(), Elsewhere()
    for _ in range(2):
        outputs = server.run_call(pool.exchange(REQUEST))
        np.testing.assert_array_equal(outputs["frame"], FRAME)
    assert not pool.usable
    assert server.wires == 4
    assert _files() == []


def test_memory_that_may_still_be_read_is_not_used_again() -> None:
    pool, server = SegmentPool(), Server()
    server.run_call(pool.exchange(REQUEST))
    server.answers = [RequestTimeoutError("late")]
    with pytest.raises(RequestTimeoutError):
        server.run_call(pool.exchange(REQUEST))
    server.run_call(pool.exchange(REQUEST))
    assert len(server.regions) == 2
    assert {each.region for each in pool.take_registered()} == set(server.regions)


def test_it_is_used_again_when_nobody_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, server = SegmentPool(), Server()
    server.answers = [ServerError("out of memory")]
    with pytest.raises(ServerError):
        server.run_call(pool.exchange(REQUEST))
    server.run_call(pool.exchange(REQUEST))
    assert len(server.regions) == 1, "an error is an answer, too"
    monkeypatch.setattr(segment_pool, "QUARANTINE_S", -1.0)
    for _ in range(5):
        server.answers = [RequestTimeoutError("late")]
        with pytest.raises(RequestTimeoutError):
            server.run_call(pool.exchange(REQUEST))
    call = pool.exchange(REQUEST)
    next(call)
    call.close()  # cancelled
    server.run_call(pool.exchange(REQUEST))
    assert len(server.regions) == 1


def test_a_full_pool_uses_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_pool, "MAX_POOL_BYTES", 1 << 19)
    server = Server()
    outputs = server.run_call(SegmentPool().exchange(REQUEST))
    np.testing.assert_array_equal(outputs["frame"], FRAME)
    assert (server.regions, server.wires) == ({}, 2)


class LosesRegions(Server):
    """A server that accepts registrations and never finds the memory."""

    registrations = 0

    def _reply(self, request: Any) -> Any:
        if isinstance(request, RegisterMemory):
            self.registrations += 1
            return None
        return super()._reply(request)


def test_a_server_that_keeps_losing_memory_gets_the_wire() -> None:
    pool, server = SegmentPool(), LosesRegions()
    for _ in range(3):
        outputs = server.run_call(pool.exchange(REQUEST))
        np.testing.assert_array_equal(outputs["frame"], FRAME)
    assert server.registrations == 2
    assert not pool.usable
    assert _files() == []


def test_a_restart_is_noticed_once_by_calls_at_once() -> None:
    pool, server = SegmentPool(), Server()
    calls = [pool.exchange(REQUEST) for _ in range(2)]
    for call in calls:
        request = next(call)
        while not isinstance(request, Infer):
            request = call.send(server._reply(request))
    assert len(server.regions) == 2
    server.regions.clear()
    for call in calls:  # both requests are on their way when the server restarts
        lost = InvalidInputError("Unable to find shared memory region: 'x'")
        request = call.throw(lost)
        while not isinstance(request, Infer):
            request = call.send(server._reply(request))
    assert {each.region for each in pool.take_registered()} == set(server.regions)


@pytest.mark.parametrize("error", [RequestTimeoutError("late"), GeneratorExit()])
def test_a_registration_without_an_answer_is_undone(error: BaseException) -> None:
    pool, server = SegmentPool(), Server()
    call = pool.exchange(REQUEST)
    request = next(call)
    while not isinstance(request, RegisterMemory):
        request = call.send(server._reply(request))
    server._reply(request)  # the answer is late
    with pytest.raises(type(error)):
        call.throw(error)
    (uncertain,) = server.regions
    assert _files() == []
    assert [each.region for each in pool._all] == [uncertain], "for closing the client"
    server.run_call(pool.exchange(REQUEST))
    assert uncertain not in server.regions
    assert {each.region for each in pool.take_registered()} == set(server.regions)


class Registry:
    """A transport to a server that keeps some regions, and counts the requests."""

    def __init__(self, regions: set[str], errors: dict[str, list[PersonServeError]]):
        self.regions = regions
        self.errors = errors
        self.sent = 0

    def send(self, request: Any, timeout_s: float | None) -> None:
        assert timeout_s is not None
        assert 0 < timeout_s <= 2
        self.sent += 1
        if self.errors.get(request.region):
            raise self.errors[request.region].pop(0)
        self.regions.discard(request.region)

    def close(self) -> None:
        self.closed = True


def _release(
    monkeypatch: pytest.MonkeyPatch, errors: dict[str, list[PersonServeError]]
) -> Registry:
    segments = [SimpleNamespace(region=f"r{number}") for number in range(4)]
    registry = Registry({segment.region for segment in segments}, errors)
    monkeypatch.setattr(factory, "open_transport", lambda _: registry)
    pool = SimpleNamespace(memory="system", take_registered=lambda: segments)
    ClientParts(None, None, [(None, pool)]).release_memory()  # type: ignore[arg-type, list-item]
    assert registry.closed
    return registry


IN_USE = "Cannot unregister shared memory region 'r1', it is currently in use."


def test_clean_up_continues_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: dict[str, list[PersonServeError]] = {
        "r0": [ServerError("unable to find region")],
        "r1": [InvalidInputError(IN_USE), InvalidInputError(IN_USE)],
        "r2": [RequestTimeoutError("late")],
    }
    registry = _release(monkeypatch, errors)
    assert registry.regions == {"r0", "r2"}, "those in use were tried again"
    assert registry.sent == 6


def test_clean_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "RELEASE_TIMEOUT_S", 0.2)
    stuck = {"r1": [InvalidInputError(IN_USE) for _ in range(1000)]}
    assert _release(monkeypatch, stuck).regions == {"r1"}, "errors remain at the end"
    gone = {"r0": [ServerUnavailableError("gone")]}
    assert _release(monkeypatch, gone).sent == 1, "a server that is gone has no regions"


def test_what_dead_clients_left_is_swept() -> None:
    program = (
        "import os, signal;"
        "from personserve._shared_memory.system import SystemSegment;"
        "print(SystemSegment.create(1 << 20).region, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    left = done.stdout.strip()
    assert (FOLDER / left).is_file()
    theirs = f"personserve-1-{os.getpid()}-1-0"  # of another PID namespace
    (FOLDER / theirs).touch()
    try:
        server = Server()
        server.regions = {left: np.zeros(1), theirs: np.zeros(1)}  # type: ignore[dict-item]
        server.run_call(SegmentPool().exchange(REQUEST))
        assert not (FOLDER / left).exists()
        assert (FOLDER / theirs).exists()
        assert left not in server.regions
        assert theirs in server.regions
    finally:
        Path(FOLDER / theirs).unlink()
