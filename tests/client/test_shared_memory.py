"""The pool of shared memory, with scripted replies in place of a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personserve import InvalidInputError, RequestTimeoutError, _shared_memory
from personserve._delivery import Call
from personserve._requests import (
    Infer,
    ListMemory,
    Region,
    RegisterMemory,
    UnregisterMemory,
)
from personserve._shared_memory import FOLDER, Pool

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
            except (InvalidInputError, RequestTimeoutError) as exc:
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
    assert pool.regions() == list(server.regions)
    assert pool.regions() == []


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


def test_a_full_pool_uses_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared_memory, "LARGEST_POOL_BYTES", 1 << 19)
    server = Server()
    found = server.replies_to(Pool().exchange(ASKED))
    np.testing.assert_array_equal(found["frame"], FRAME)
    assert (server.regions, server.wires) == ({}, 2)


def test_what_dead_clients_left_is_swept() -> None:
    program = (
        "import os, signal; from personserve._shared_memory import Segment;"
        "print(Segment.create(1 << 20).region, flush=True);"
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
