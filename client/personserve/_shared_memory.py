"""Tensors in memory that client and server share, instead of on the wire.

A pool of segments (/dev/shm), each registered with one server. A segment's file is
removed as soon as the server has mapped it: both sides keep their mapping, so whichever
is killed leaves no file. What a killed client leaves registered is swept by the next
one on the machine. Where the server cannot map our memory (another host, another user)
the wire is used.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from personserve._delivery import Call
from personserve._errors import (
    InvalidInputError,
    PersonServeError,
    RequestTimeoutError,
    ServerError,
    ServerUnavailableError,
)
from personserve._requests import (
    Array,
    Infer,
    ListMemory,
    Region,
    RegisterMemory,
    Request,
    UnregisterMemory,
)

log = logging.getLogger("personserve")

FOLDER = Path("/dev/shm")

SMALLEST_TENSOR_BYTES = 64 << 10
"""Below this the wire is as fast."""

SMALLEST_SEGMENT_BYTES = 1 << 20
LARGEST_POOL_BYTES = 1 << 30

ALIGNMENT_BYTES = 64

LOST_REGION = re.compile(
    r"unable to find (system )?shared memory region", re.IGNORECASE
)
"""What Triton says where it was restarted since the region was registered."""

NAME = re.compile(r"personserve-(\d+)-(\d+)-(\d+)-\d+")


@dataclass(eq=False)
class Segment:
    """Memory of our own, perhaps known to the server as `region`."""

    region: str
    size: int
    memory: mmap.mmap
    registered: bool = False

    @classmethod
    def create(cls, size: int) -> Segment:
        """Raises OSError where there is no room."""
        region = f"personserve-{_owner()}-{next(_numbers)}"
        path = FOLDER / region
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            # now, and not as SIGBUS when it is written to
            os.posix_fallocate(descriptor, 0, size)
            memory = mmap.mmap(descriptor, size)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        return cls(region, size, memory)

    def unlink(self) -> None:
        """Remove the file; mappings stay."""
        with suppress(FileNotFoundError):
            (FOLDER / self.region).unlink()

    def put(self, array: Array, offset: int) -> Region:
        """Copy `array` to `offset`."""
        view: Array = np.ndarray(array.shape, array.dtype, self.memory, offset)
        np.copyto(view, array)
        return Region(self.region, offset, array.nbytes, array.dtype, array.shape)


_numbers = itertools.count()


@dataclass(eq=False)
class Pool:
    """The segments of one server, in classes of size that double; a segment serves one
    request at a time. `exchange` is what Delivery asks for each request.
    """

    usable: bool = True
    _free: dict[int, list[Segment]] = field(default_factory=lambda: defaultdict(list))
    _all: set[Segment] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)
    _swept: bool = False

    def exchange(self, request: Request) -> Call[Any]:
        """Send `request` with its large tensors in shared memory."""
        large = _large(request)
        if not large or not self.usable or not isinstance(request, Infer):
            return (yield request)
        try:
            segment = self._borrow(sum(_room(array) for array in large.values()))
        except OSError as exc:
            log.warning("no shared memory for this request, using the wire: %s", exc)
            return (yield request)
        if not segment.registered and not (yield from self._registered(segment)):
            return (yield request)
        try:
            reply = yield _placed(request, large, segment)
        except (RequestTimeoutError, ServerUnavailableError):
            # the server may still be reading it
            self._drop(segment)
            raise
        except InvalidInputError as exc:
            if not LOST_REGION.search(str(exc)):
                self._give_back(segment)
                raise
            log.info("the server was restarted; registering shared memory again")
            self._forget()
            return (yield from self.exchange(request))
        except BaseException:
            self._drop(segment)
            raise
        self._give_back(segment)
        return reply

    def regions(self) -> list[str]:
        """What the server holds for us, and forget it all."""
        with self._lock:
            found = [segment.region for segment in self._all if segment.registered]
        self._forget()
        return found

    def _registered(self, segment: Segment) -> Call[bool]:
        """Whether the server maps `segment` now; otherwise the pool is of no use."""
        try:
            if not self._swept:
                self._swept = True
                yield from _sweep()
            yield RegisterMemory(segment.region, f"/{segment.region}", segment.size)
        except (InvalidInputError, ServerError) as exc:
            self.usable = False
            self._drop(segment)
            log.warning("the server does not take shared memory, using wires: %s", exc)
            return False
        except BaseException:
            self._drop(segment)
            raise
        segment.registered = True
        segment.unlink()
        return True

    def _borrow(self, size: int) -> Segment:
        size = max(SMALLEST_SEGMENT_BYTES, 1 << (size - 1).bit_length())
        with self._lock:
            if self._free[size]:
                return self._free[size].pop()
            if sum(segment.size for segment in self._all) + size > LARGEST_POOL_BYTES:
                raise OSError(f"the pool's {LARGEST_POOL_BYTES >> 20} MiB are in use")
            segment = Segment.create(size)
            self._all.add(segment)
            return segment

    def _give_back(self, segment: Segment) -> None:
        with self._lock:
            if segment in self._all:
                self._free[segment.size].append(segment)

    def _drop(self, segment: Segment) -> None:
        """Never use `segment` again."""
        segment.unlink()
        with self._lock:
            self._all.discard(segment)

    def _forget(self) -> None:
        """Drop every segment."""
        with self._lock:
            for segment in self._all:
                segment.unlink()
            self._all.clear()
            self._free.clear()


def _large(request: Request) -> dict[str, Array]:
    if not isinstance(request, Infer):
        return {}
    return {
        name: value
        for name, value in request.inputs.items()
        if not isinstance(value, Region)
        and value.nbytes >= SMALLEST_TENSOR_BYTES
        and value.dtype.kind not in "OSU"
    }


def _room(array: Array) -> int:
    return -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _placed(request: Infer, large: dict[str, Array], segment: Segment) -> Infer:
    """`request` with the `large` tensors in `segment`."""
    places: dict[str, Region] = {}
    offset = 0
    for name, array in large.items():
        places[name] = segment.put(array, offset)
        offset += _room(array)
    return replace(request, inputs={**request.inputs, **places})


def _sweep() -> Call[None]:
    """Remove what clients that are gone have left, here and on the server."""
    for path in FOLDER.glob("personserve-*"):
        if _is_orphan(path.name):
            with suppress(OSError):
                path.unlink()
    regions: tuple[str, ...] = yield ListMemory()
    for region in filter(_is_orphan, regions):
        with suppress(PersonServeError):
            yield UnregisterMemory(region)


def _owner() -> str:
    """This process in the names of segments: PID namespace, PID, and start, because
    PIDs come again.
    """
    namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    return f"{namespace}-{os.getpid()}-{_started(os.getpid())}"


def _is_orphan(name: str) -> bool:
    """Whether `name` is of a process in our PID namespace that has ended."""
    found = NAME.fullmatch(name)
    if found is None:
        return False
    namespace, pid, started = found.groups()
    return _owner().startswith(f"{namespace}-") and _started(int(pid)) != started


def _started(pid: int) -> str | None:
    """When `pid` started, in clock ticks since boot; None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return fields.rpartition(")")[2].split()[19]
