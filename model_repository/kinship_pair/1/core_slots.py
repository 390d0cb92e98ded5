# Rendered by `python -m builders render` from builders/repository/runtimes/core_slots.py; edit that file.
"""Turns on the CPU's cores, shared by the network processes of one server.

Each network has a process for each core, so there can be more processes with work than
cores. If the kernel divides the cores among them by time, the faster network of an
ensemble runs ahead of the slower one, for frames that are answered last, and the oldest
frames wait longer than their turn (loadtest/BENCHMARKS.md has the figures). Therefore a
process takes one of as many slots as there are cores for each run of its network, and
waits in line between two runs. The networks of a frame then advance at the same rate,
and no core switches between two computations.

The slots are a System V semaphore: the kernel serves processes in the order in which
they began to wait, and gives back the slot of a process that ends. Slots only save
time. Where there is no semaphore, or no slot becomes free in time, work continues
without one.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIMIT_S = 2
"""Longest wait for a slot. A run of a network that is declared here takes up to 0.5 s;
one of an imported network may take longer."""

KEY_PREFIX = 0x153 << 22
"""Upper bits of a semaphore's key; the lower 22 bits are the server's process id, which
Linux keeps below 2 ** 22."""

PROCESS_ID_BITS = (1 << 22) - 1
KNOWN_SETS = Path("/proc/sysvipc/sem")

# constants of <sys/ipc.h> and <sys/sem.h>
IPC_CREAT, IPC_EXCL, IPC_RMID = 0o1000, 0o2000, 0
SEM_UNDO = 0x1000
OWNER_ONLY = 0o600

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Operation(ctypes.Structure):
    """`struct sembuf`."""

    _fields_ = (
        ("number", ctypes.c_ushort),
        ("change", ctypes.c_short),
        ("flags", ctypes.c_short),
    )


class _Duration(ctypes.Structure):
    """`struct timespec`."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class CoreSlots:
    """The slots of one server: of the process that started this one.

    Args:
        server: Process id of the server; None for the parent process.
        cores: Number of slots; None for the cores that this process may use.
    """

    def __init__(self, server: int | None = None, cores: int | None = None) -> None:
        _remove_sets_of_ended_servers()
        key = KEY_PREFIX | (server or os.getppid())
        self.set = _LIBC.semget(key, 1, IPC_CREAT | IPC_EXCL | OWNER_ONLY)
        if self.set >= 0:
            # processes that open the set before this line wait for it
            self._change(cores or len(os.sched_getaffinity(0)), 0)
        elif ctypes.get_errno() == errno.EEXIST:
            self.set = _LIBC.semget(key, 1, OWNER_ONLY)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a slot during a block; wait for it in line, at most LIMIT_S."""
        has_slot = self._change(-1, SEM_UNDO)
        try:
            yield
        finally:
            if has_slot:
                self._change(1, SEM_UNDO)

    def _change(self, change: int, flags: int) -> bool:
        """Change the number of free slots, and return whether that was possible."""
        if self.set < 0:
            return False
        operation, limit = _Operation(0, change, flags), _Duration(LIMIT_S, 0)
        # ctypes releases Python's lock meanwhile, so the pause watchdog runs
        status = _LIBC.semtimedop(
            self.set, ctypes.byref(operation), ctypes.c_size_t(1), ctypes.byref(limit)
        )
        return bool(status == 0)


def _remove_sets_of_ended_servers() -> None:
    with suppress(OSError):  # a kernel without System V semaphores
        for line in KNOWN_SETS.read_text().splitlines()[1:]:
            key, semaphore_set = (int(field) for field in line.split()[:2])
            server = key & PROCESS_ID_BITS
            is_ours = key & ~PROCESS_ID_BITS == KEY_PREFIX
            if is_ours and not Path(f"/proc/{server}").exists():
                _LIBC.semctl(semaphore_set, 0, IPC_RMID)
