"""Resources of a server's processes over a run, read from /proc."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from builders.serve.processes import (
    ServerProcess,
    describe_exit,
    exit_code,
    list_session,
)
from builders.serve.tritonserver import TritonServer

MIB = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

ENDED = "ZX"
"""States in /proc/PID/stat of an ended process."""


@dataclass(frozen=True)
class Sample:
    """Resources of the server's processes at one time.

    Attributes:
        requests: Number of requests before it.
        processes: Number of processes.
        memory_mib: Their resident memory in MiB; shared memory counts in each.
        descriptors: Their open file descriptors.
        threads: Their threads.
        shm_mib: Used space of /dev/shm in MiB.
    """

    requests: int
    processes: int
    memory_mib: float
    descriptors: int
    threads: int
    shm_mib: float


class Monitor:
    """The processes of a server, their resources, and those that have ended.

    Args:
        server: The server, running.
    """

    def __init__(self, server: TritonServer) -> None:
        assert server.pid is not None
        self._server = server.pid
        self._pids = server.list_pids()

    def find_ended(self) -> list[str]:
        """Describe the processes that have ended, and how."""
        known = {each.pid: each for each in list_session(self._server)}
        running = {pid for pid, each in known.items() if each.state not in ENDED}
        return [
            f"process {pid} {self._describe(known.get(pid))}"
            for pid in self._pids
            if pid not in running
        ]

    def sample(self, requests: int) -> Sample:
        """Measure the processes that run.

        Args:
            requests: Number of requests before.
        """
        folders = [Path(f"/proc/{pid}") for pid in self._pids]
        folders = [folder for folder in folders if folder.is_dir()]
        pages = [int((each / "statm").read_text().split()[1]) for each in folders]
        return Sample(
            requests,
            len(folders),
            round(sum(pages) * PAGE_BYTES / MIB, 1),
            sum(len(list((each / "fd").iterdir())) for each in folders),
            sum(len(list((each / "task").iterdir())) for each in folders),
            round(shutil.disk_usage("/dev/shm").used / MIB, 1),
        )

    @staticmethod
    def _describe(process: ServerProcess | None) -> str:
        return describe_exit(exit_code(process.wait_status)) if process else ""
