"""Turns on the cores: as many as there are cores, in order, and none is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from builders.repository.runtimes import core_slots
from builders.repository.runtimes.core_slots import IPC_RMID, KNOWN_SETS, CoreSlots

CORES = 2
GETVAL, GETNCNT = 12, 14
"""Commands of semctl: the number of free slots, and of those who wait for one."""

HOLDER = """
import sys
from builders.repository.runtimes.core_slots import CoreSlots
with CoreSlots(server=int(sys.argv[1])).take():
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def slots() -> Iterator[CoreSlots]:
    slots = CoreSlots(server=os.getpid(), cores=CORES)
    assert _ask(slots, GETVAL) == CORES
    yield slots
    core_slots._LIBC.semctl(slots.set, 0, IPC_RMID)


def _ask(slots: CoreSlots, command: int) -> int:
    return int(core_slots._LIBC.semctl(slots.set, 0, command))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_work_waits_in_order_while_every_core_is_taken(
    slots: CoreSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_slots, "LIMIT_S", 60)
    order: list[int] = []

    def work(number: int) -> None:
        with slots.take():
            order.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    with ExitStack() as held:
        for _ in range(CORES - 1):
            held.enter_context(slots.take())
        with slots.take():
            for number, thread in enumerate(threads):
                thread.start()
                _wait_until(lambda n=number: _ask(slots, GETNCNT) == n + 1)
            assert order == []
        for thread in threads:
            thread.join(60)
    assert order == [0, 1, 2]
    assert _ask(slots, GETVAL) == CORES


def test_a_process_that_is_killed_gives_its_slot_back(slots: CoreSlots) -> None:
    command = [sys.executable, "-c", HOLDER, str(os.getpid())]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        assert _ask(slots, GETVAL) == CORES - 1
        holder.kill()
    _wait_until(lambda: _ask(slots, GETVAL) == CORES)


def test_work_continues_if_no_slot_becomes_free(
    slots: CoreSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_slots, "LIMIT_S", 0)
    with slots.take(), slots.take(), slots.take():
        assert _ask(slots, GETVAL) == 0
    assert _ask(slots, GETVAL) == CORES


def test_work_continues_without_semaphores(slots: CoreSlots) -> None:
    core_slots._LIBC.semctl(slots.set, 0, IPC_RMID)
    with slots.take():
        pass


def test_the_slots_of_ended_servers_are_removed() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    left = CoreSlots(server=int(ended.stdout))
    assert left.set >= 0
    lines = KNOWN_SETS.read_text().splitlines()
    assert any(line.split()[1] == str(left.set) for line in lines[1:])
    other = CoreSlots(server=os.getpid())
    lines = KNOWN_SETS.read_text().splitlines()
    assert not any(line.split()[1] == str(left.set) for line in lines[1:])
    core_slots._LIBC.semctl(other.set, 0, IPC_RMID)
