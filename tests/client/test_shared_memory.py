"""The pool of shared memory, with scripted replies in place of a server."""

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
    _segments,
    _shared_memory,
)
from personserve._delivery import Call
from personserve._requests import (
    DeviceArray,
    Infer,
    ListMemory,
    Region,
    RegisterMemory,
    UnregisterMemory,
)
from personserve._segments import FOLDER
from personserve._shared_memory import Pool
from personserve._tensors import data_of

FRAME = np.arange(1 << 20, dtype=np.int64).astype(np.uint8).reshape(1024, 1024)
BOXES = np.float32([[1, 2, 3, 4]])
ASKED = Infer("m", {"frame": FRAME, "boxes": BOXES}, "r")


class Server:
    """What a server does with memory: maps it, and reads it when it is asked."""

    def __init__(self) -> None:
        self.regions: dict[str, np.memmap[Any, Any]] = {}
        self.wires = 0
        self.answers: list[Any] = []

    def replies_to(self, call: Call[Any]) -> Any:
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
            return {name: self._read(value) for name, value in request.inputs.items()}
        return None

    def _read(self, value: Any) -> Any:
        if not isinstance(value, Region):
            self.wires += 1
            return value
        if value.region not in self.regions:
            raise InvalidInputError(
                f"Unable to find shared memory region: '{value.region}'"
            )
        memory = self.regions[value.region]
        data = memory[value.offset : value.offset + value.byte_size]
        return np.array(data).view(value.data_type).reshape(value.shape)


class Driver:
    """CUDA's runtime with the host's memory in place of a GPU's, and one rule checked:
    nothing is freed that a server has open.
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
    """The same with memory on the GPU."""

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
    monkeypatch.setattr(_segments, "cuda_runtime", lambda: driver)
    return driver


def test_a_gpus_memory_is_shared_by_its_handle(driver: Driver) -> None:
    pool, server = Pool("cuda"), GpuServer(driver)
    for _ in range(3):
        found = server.replies_to(pool.exchange(ASKED))
        np.testing.assert_array_equal(found["frame"], FRAME)
    assert len(driver.memory) == 1, "one segment, reused"
    taken = pool.taken()
    assert len(driver.memory) == 1, "not freed while the server has it open"
    driver.open.clear()
    del taken
    assert driver.memory == {}


def test_what_is_on_the_gpu_needs_no_copy_through_the_host(driver: Driver) -> None:
    block = driver.cudaMalloc(8)[1]
    ctypes.memmove(block, bytes(range(8)), 8)
    interface = {"data": (block, True), "shape": (2, 4), "typestr": "|u1"}
    on_gpu = SimpleNamespace(__cuda_array_interface__={**interface, "strides": None})
    array = DeviceArray.of(on_gpu)
    assert array is not None
    pool, server = Pool("cuda"), GpuServer(driver)
    found = server.replies_to(pool.exchange(Infer("m", {"x": array}, "r")))
    driver.open.clear()
    assert found["x"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(InvalidInputError, match='needs shared_memory="cuda"'):
        Server().replies_to(Pool().exchange(Infer("m", {"x": array}, "r")))
    with pytest.raises(InvalidInputError, match='needs shared_memory="cuda"'):
        data_of(array)
    with pytest.raises(ValueError, match="contiguous"):
        DeviceArray.of(SimpleNamespace(__cuda_array_interface__={"strides": (8, 2)}))


def test_cuda_memory_without_a_gpu_is_refused() -> None:
    with suppress(OSError):
        _segments.cuda_runtime()
        pytest.skip("there is a GPU")
    with pytest.raises(InvalidInputError, match="no NVIDIA GPU here"):
        Client(shared_memory="cuda")


def _files() -> list[str]:
    return [path.name for path in FOLDER.glob("personserve-*")]


def test_large_tensors_lie_in_memory_and_no_file_is_left() -> None:
    pool, server = Pool(), Server()
    for _ in range(3):
        found = server.replies_to(pool.exchange(ASKED))
        np.testing.assert_array_equal(found["frame"], FRAME)
        np.testing.assert_array_equal(found["boxes"], BOXES)
    assert server.wires == 3, "the boxes"
    assert len(server.regions) == 1, "one segment, reused"
    assert _files() == []
    assert [segment.region for segment in pool.taken()] == list(server.regions)
    assert pool.taken() == []


def test_sizes_grow_in_classes_and_calls_at_once_do_not_share() -> None:
    pool, server = Pool(), Server()
    small = Infer("m", {"x": FRAME[:600]}, "r")
    large = Infer("m", {"x": np.concatenate([FRAME] * 3), "y": FRAME}, "r")
    server.replies_to(pool.exchange(small))
    server.replies_to(pool.exchange(ASKED))
    found = server.replies_to(pool.exchange(large))
    np.testing.assert_array_equal(found["x"][-1], FRAME[-1])
    sizes = sorted(memory.size for memory in server.regions.values())
    assert sizes == [1 << 20, 4 << 20]
    first, second = pool.exchange(ASKED), pool.exchange(ASKED)
    taken = [next(call) for call in (first, second)]
    assert isinstance(taken[0], Infer), "the one that is free"
    assert isinstance(taken[1], RegisterMemory), "another of its own"


def test_a_restarted_server_is_told_again() -> None:
    pool, server = Pool(), Server()
    server.replies_to(pool.exchange(ASKED))
    server.regions.clear()
    found = server.replies_to(pool.exchange(ASKED))
    np.testing.assert_array_equal(found["frame"], FRAME)
    assert len(server.regions) == 1
    assert _files() == []


def test_a_server_elsewhere_gets_the_wire() -> None:
    class Elsewhere(Server):
        def _reply(self, request: Any) -> Any:
            if isinstance(request, RegisterMemory):
                raise InvalidInputError("failed to open shared memory region")
            return super()._reply(request)

    pool, server = Pool(), Elsewhere()
    for _ in range(2):
        found = server.replies_to(pool.exchange(ASKED))
        np.testing.assert_array_equal(found["frame"], FRAME)
    assert not pool.usable
    assert server.wires == 4
    assert _files() == []


def test_memory_that_may_still_be_read_is_not_used_again() -> None:
    pool, server = Pool(), Server()
    server.replies_to(pool.exchange(ASKED))
    server.answers = [RequestTimeoutError("late")]
    with pytest.raises(RequestTimeoutError):
        server.replies_to(pool.exchange(ASKED))
    server.replies_to(pool.exchange(ASKED))
    assert len(server.regions) == 2
    assert {each.region for each in pool.taken()} == set(server.regions)


def test_it_is_used_again_when_nobody_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, server = Pool(), Server()
    server.answers = [ServerError("out of memory")]
    with pytest.raises(ServerError):
        server.replies_to(pool.exchange(ASKED))
    server.replies_to(pool.exchange(ASKED))
    assert len(server.regions) == 1, "an error is an answer, too"
    monkeypatch.setattr(_shared_memory, "REST_S", -1.0)
    for _ in range(5):
        server.answers = [RequestTimeoutError("late")]
        with pytest.raises(RequestTimeoutError):
            server.replies_to(pool.exchange(ASKED))
    call = pool.exchange(ASKED)
    next(call)
    call.close()  # cancelled
    server.replies_to(pool.exchange(ASKED))
    assert len(server.regions) == 1


def test_a_full_pool_uses_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared_memory, "LARGEST_POOL_BYTES", 1 << 19)
    server = Server()
    found = server.replies_to(Pool().exchange(ASKED))
    np.testing.assert_array_equal(found["frame"], FRAME)
    assert (server.regions, server.wires) == ({}, 2)


def test_what_dead_clients_left_is_swept() -> None:
    program = (
        "import os, signal; from personserve._segments import SystemSegment;"
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
        server.replies_to(Pool().exchange(ASKED))
        assert not (FOLDER / left).exists()
        assert (FOLDER / theirs).exists()
        assert left not in server.regions
        assert theirs in server.regions
    finally:
        Path(FOLDER / theirs).unlink()
