"""The machine that a load test runs on, and what a server's processes hold of it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import psutil

MIB = 1 << 20


def machine_name() -> str:
    """What kind of CPU, how many cores, and the GPUs."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return ", ".join([f"{name}, {os.cpu_count()} cores", *_gpus()])


def _gpus() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.splitlines()


def listening_at(address: str) -> psutil.Process:
    """The process of this machine that listens at host:port. Raises LookupError."""
    port = int(address.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        here = connection.status == psutil.CONN_LISTEN and connection.laddr
        if here and here.port == port:
            return psutil.Process(connection.pid)
    raise LookupError(f"nothing listens at {address} on this machine")


def family(process: psutil.Process) -> list[psutil.Process]:
    """`process` and all that it started."""
    return [process, *process.children(recursive=True)]


def memory_mib(processes: Iterable[psutil.Process]) -> float:
    """MiB that they hold; pages that several share count once in all."""
    return sum(process.memory_full_info().pss for process in processes) / MIB


def shared_files(processes: Iterable[psutil.Process]) -> set[str]:
    """What they have mapped of /dev/shm."""
    maps = (each.path for process in processes for each in process.memory_maps())
    return {path for path in maps if path.startswith("/dev/shm/")}
