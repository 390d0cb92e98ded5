# Rendered by `python -m builders render` from builders/repository/runtimes/deadlines.py; edit that file.
"""Deadlines of requests, shared between the Python models of one server.

An ensemble tells its steps neither when a request arrived nor that it was cancelled
meanwhile. So the preprocessing model writes each request's deadline into a table in
/dev/shm, where the networks find it by the request's id. The table only saves work
that no client waits for: entries may be overwritten by those of other requests, and a
request without an id has none.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = Path("/dev/shm")
PREFIX = "personserve.deadlines."
SLOTS = 4096
KEY_BYTES = 16
ENTRY = struct.Struct(f"<{KEY_BYTES}sqI")
"""Key, deadline in nanoseconds of the monotonic clock, and the checksum of both, by
which a reader recognises an entry that is being written."""


def table_path(server: int) -> Path:
    """Return the file of a server's table.

    Args:
        server: Process id of the server.
    """
    return FOLDER / f"{PREFIX}{server}"


class AbandonedError(Exception):
    """The client has cancelled a request, or does not wait for its answer any more."""


class Deadlines:
    """The table of one server: of the process that started this one.

    Args:
        server: Process id of the server; None for the parent process.
    """

    def __init__(self, server: int | None = None) -> None:
        self._table: mmap.mmap | None = None
        _remove_tables_of_ended_servers()
        path = table_path(server or os.getppid())
        with suppress(OSError):  # a full /dev/shm: every request then is worth its work
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # without memory behind it, writing would end the process
                os.posix_fallocate(descriptor, 0, SLOTS * ENTRY.size)
                self._table = mmap.mmap(descriptor, SLOTS * ENTRY.size)
            finally:
                os.close(descriptor)

    def begin(self, request: Any) -> Deadline:
        """Return the deadline of a request, and note it for the steps that follow.

        Args:
            request: Triton's request to the first step of an ensemble.
        """
        deadline = Deadline(request, _latest_ns(request))
        self.write(request.request_id(), deadline.at_ns)
        return deadline

    def find(self, request: Any) -> Deadline:
        """Return the deadline of a request, as an earlier step noted it.

        Args:
            request: Triton's request.
        """
        candidates_ns = (_latest_ns(request), self.read(request.request_id()))
        known_ns = [each for each in candidates_ns if each is not None]
        return Deadline(request, min(known_ns, default=None))

    def write(self, request_id: str, at_ns: int | None) -> None:
        """Note a deadline.

        Args:
            request_id: Id of the request; without one nothing is noted.
            at_ns: Nanoseconds of the monotonic clock; None for no deadline.
        """
        if self._table is None or not request_id or at_ns is None:
            return
        # of two requests with one id, such as a repeated one, the later deadline counts
        at_ns = max(at_ns, self.read(request_id) or 0)
        key = _key(request_id)
        ENTRY.pack_into(self._table, _offset(key), key, at_ns, _checksum(key, at_ns))

    def read(self, request_id: str) -> int | None:
        """Return a noted deadline in nanoseconds of the monotonic clock, or None.

        Args:
            request_id: Id of the request.
        """
        if self._table is None or not request_id:
            return None
        key = _key(request_id)
        noted_key, at_ns, checksum = ENTRY.unpack_from(self._table, _offset(key))
        if noted_key != key or checksum != _checksum(key, at_ns):
            return None
        return int(at_ns)


class Deadline:
    """The time until which a request is worth its work.

    Args:
        request: Triton's request.
        at_ns: Nanoseconds of the monotonic clock; None for no limit.
    """

    def __init__(self, request: Any, at_ns: int | None) -> None:
        self._request = request
        self.at_ns = at_ns

    def check(self) -> None:
        """Check that the client still waits; call it before and between parts of work.

        To learn of a cancellation costs 0.2 to 0.4 ms, a round trip to Triton.

        Raises:
            AbandonedError: The client has given up.
        """
        self.check_time()
        if self._request.is_cancelled():
            raise AbandonedError("the client has cancelled the request")

    def check_time(self) -> None:
        """Check that the deadline has not passed, which costs nothing.

        Raises:
            AbandonedError: The client does not wait any more.
        """
        if self.at_ns is not None and time.monotonic_ns() > self.at_ns:
            raise AbandonedError("the client's deadline has passed")


def _latest_ns(request: Any) -> int | None:
    """Return a deadline from the request alone: later than the true one by its wait."""
    timeout_us: int = request.timeout()
    return time.monotonic_ns() + timeout_us * 1000 if timeout_us else None


def _checksum(key: bytes, at_ns: int) -> int:
    return zlib.crc32(key + struct.pack("<q", at_ns))


def _key(request_id: str) -> bytes:
    return hashlib.blake2b(request_id.encode(), digest_size=KEY_BYTES).digest()


def _offset(key: bytes) -> int:
    return int.from_bytes(key[:4], "little") % SLOTS * ENTRY.size


def _remove_tables_of_ended_servers() -> None:
    for path in FOLDER.glob(f"{PREFIX}*"):
        with suppress(OSError, ValueError):
            if not Path(f"/proc/{int(path.suffix[1:])}").exists():
                path.unlink()
