"""This machine, and the processes and memory of a server on it."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

from loadtest.errors import LoadTestError
from personserve.internal.machine import cpu_name, gpu_names

MIB = 1 << 20


def machine_name() -> str:
    """Return the CPU, the number of cores, and the GPUs."""
    return ", ".join([cpu_name(), *gpu_names()])


def find_listening_process(address: str) -> psutil.Process:
    """Return the process of this machine that listens at an address.

    Args:
        address: host:port; only the port counts.

    Raises:
        LoadTestError: If the address has no port, or no process listens there.
    """
    _, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise LoadTestError(f"{address!r}: expected an address such as 127.0.0.1:8001")
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr
        if listens and listens.port == int(port) and connection.pid:
            return psutil.Process(connection.pid)
    raise LoadTestError(
        f"no server listens at {address} on this machine; start one with "
        "python -m builders serve"
    )


def process_tree(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants.

    Args:
        process: The root of the tree.
    """
    return [process, *process.children(recursive=True)]


def memory_mib(processes: Iterable[psutil.Process]) -> float:
    """Return the proportional set size (PSS) of processes, in MiB.

    A page that several of them share counts once in all.

    Args:
        processes: The processes to add up.
    """
    return sum(process.memory_full_info().pss for process in processes) / MIB


def mapped_shared_files(processes: Iterable[psutil.Process]) -> set[str]:
    """Return the paths in /dev/shm that processes have mapped.

    Args:
        processes: The processes to look at.
    """
    maps = (each.path for process in processes for each in process.memory_maps())
    return {path for path in maps if path.startswith("/dev/shm/")}
