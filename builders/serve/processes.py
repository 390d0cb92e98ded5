"""Processes of a server: their states, their ends, and their demand for CPU time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

PROC = Path("/proc")
STUB = "triton_python_backend_stub"

CANDIDATE = ".candidate"
"""Part of the names of models that a rollout loads to try a version."""

RESCAN_INTERVAL_S = 2.0
"""Time between two looks at all processes of the machine."""

DISK_WAIT = "D"
"""State in /proc/PID/stat of a thread that waits for a disk or for swapped memory."""


@dataclass(frozen=True)
class ServerProcess:
    """A process of the server's session.

    Attributes:
        pid: Process id.
        state: State as in /proc/PID/stat, for example "S" or "Z".
        wait_status: Wait status of an ended process, as os.waitstatus_to_exitcode
            reads it; 0 while it runs.
    """

    pid: int
    state: str
    wait_status: int


@dataclass(frozen=True)
class CpuDemand:
    """CPU time that the threads of a process have asked for since they began.

    Attributes:
        seconds: Time on a core and time in the queue for one. It grows in a process
            that works and in one that other processes starve, and hardly in one that
            waits for a lock.
        waits_for_disk: Whether a thread waits for a disk or for swapped memory.
    """

    seconds: float
    waits_for_disk: bool


class Session:
    """The processes of a server's session, cheap to look at often.

    Args:
        leader: Process id of the session's leader; None for no process at all.
    """

    def __init__(self, leader: int | None) -> None:
        self._leader = leader
        self._pids: list[int] = []
        self._scanned_at = -inf

    def look(self) -> list[ServerProcess]:
        """Return the processes, ended ones included.

        All processes of the machine are read every RESCAN_INTERVAL_S only, so that new
        ones appear with that delay.
        """
        now = time.monotonic()
        if now - self._scanned_at < RESCAN_INTERVAL_S:
            processes = _read_processes(self._pids, self._leader)
        else:
            self._scanned_at = now
            processes = list_session(self._leader)
        self._pids = [process.pid for process in processes]
        return processes


def list_session(session: int | None) -> list[ServerProcess]:
    """Return the processes of a session, ended ones included.

    Args:
        session: Process id of the session's leader; None for no process at all.
    """
    names = [entry.name for entry in os.scandir(PROC) if entry.name.isdecimal()]
    return _read_processes(map(int, names), session)


def _read_processes(pids: Iterable[int], session: int | None) -> list[ServerProcess]:
    processes = []
    for pid in pids:
        with suppress(OSError):
            fields = _stat_fields(PROC / str(pid))
            if int(fields[3]) == session:
                processes.append(ServerProcess(pid, fields[0], int(fields[49])))
    return processes


def read_cpu_demand(pids: Sequence[int]) -> CpuDemand:
    """Return what all threads of some processes have asked for.

    Args:
        pids: Process ids; those that have ended count as 0.
    """
    nanoseconds, waits = 0, False
    for pid in pids:
        with suppress(OSError):
            for thread in (PROC / str(pid) / "task").iterdir():
                with suppress(OSError):
                    running, queued, *_ = (thread / "schedstat").read_text().split()
                    nanoseconds += int(running) + int(queued)
                    waits |= _stat_fields(thread)[0] == DISK_WAIT
    return CpuDemand(nanoseconds / 1e9, waits)


def _stat_fields(folder: Path) -> list[str]:
    with (folder / "stat").open("rb", buffering=0) as file:
        # the command in parentheses may contain spaces and parentheses
        return file.read().rpartition(b")")[2].decode("ascii").split()


def exit_code(wait_status: int) -> int:
    """Return a wait status as subprocess does: exit code, or minus the signal.

    Args:
        wait_status: Wait status of an ended process.
    """
    number = wait_status & 0x7F
    return -number if number else wait_status >> 8


def describe_exit(code: int) -> str:
    """Describe how a process ended, for example "was ended by SIGSEGV".

    Args:
        code: Its exit code, or minus the number of the signal.
    """
    if code >= 0:
        return f"ended with code {code}"
    name = f"signal {-code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        name += " (paused too long, out of memory, or killed by hand)"
    return f"was ended by {name}"


def name_stubs(pids: Sequence[int]) -> Mapping[int, str]:
    """Return the model instance of each Python-backend process, by process id.

    Args:
        pids: Process ids; those of other processes are left out.
    """
    names = {}
    for pid in pids:
        with suppress(OSError):
            words = (PROC / str(pid) / "cmdline").read_bytes().decode().split("\0")
            if words[0].endswith(STUB) and len(words) > 1:
                model = Path(words[1]).parent.parent.name
                # the files of a candidate are in a temporary folder of another name
                instances = (
                    word
                    for word in words[2:]
                    if word.startswith(f"{model}_") or CANDIDATE in word
                )
                names[pid] = next(instances, model)
    return names
