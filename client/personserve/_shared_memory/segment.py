"""The Segment protocol, and segment names that identify the owning process."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Protocol

from personserve._wire.requests import Array, DeviceArray, RegisterMemory, SharedTensor

NAME = re.compile(r"personserve-(\d+)-(\d+)-(\d+)-\d+")
"""PID namespace, PID and start time of the owner, and a running number."""


class Segment(Protocol):
    """A piece of memory that a server can map.

    Attributes:
        region: Name under which the server knows the segment, once it is registered.
        size_bytes: Size in bytes.
        registered: Whether the server has mapped the segment.
    """

    region: str
    size_bytes: int
    registered: bool

    def registration(self) -> RegisterMemory:
        """Return the request that makes the server map the segment."""
        ...

    def unlink(self) -> None:
        """Remove the name by which others can find the segment; mappings stay."""
        ...

    def write(self, array: Array | DeviceArray, offset: int) -> SharedTensor:
        """Copy an array into the segment.

        Args:
            array: Values to copy.
            offset: Position of the first value in the segment, in bytes.

        Returns:
            Where the server finds the tensor.
        """
        ...


def new_segment_name() -> str:
    """Return a new segment name that identifies this process."""
    return f"personserve-{_process_identity()}-{next(_numbers)}"


def is_orphan(name: str) -> bool:
    """Return whether a segment's process has ended.

    Args:
        name: Any name; those that are no segment names are no orphans.

    Returns:
        True if the name is that of a process in this PID namespace that has ended.
    """
    match = NAME.fullmatch(name)
    if match is None:
        return False
    namespace, pid, start_ticks = match.groups()
    in_our_namespace = _process_identity().startswith(f"{namespace}-")
    return in_our_namespace and _process_start(int(pid)) != start_ticks


_numbers = itertools.count()


def _process_identity() -> str:
    """Return PID namespace, PID and start time, because PIDs are reused."""
    namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    return f"{namespace}-{os.getpid()}-{_process_start(os.getpid())}"


def _process_start(pid: int) -> str | None:
    """Return a process's start in clock ticks since boot, None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return fields.rpartition(")")[2].split()[19]
