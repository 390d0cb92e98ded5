"""A server's processes, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

MIB = 1 << 20


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
