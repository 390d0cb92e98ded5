"""Tensors in memory that client and server share, instead of on the wire.

A pool of segments, each registered with one server. A segment's file is removed as soon
as the server has mapped it: both sides keep their mapping, so whichever is killed
leaves no file. What a killed client leaves registered is swept by the next one on the
machine. Where the server cannot map our memory (another host, another user) the wire is
used.
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

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
    DeviceArray,
    Infer,
    ListMemory,
    Memory,
    Region,
    Request,
    UnregisterMemory,
)
from personserve._segments import KINDS, Segment, is_orphan, sweep_files

log = logging.getLogger("personserve")

SMALLEST_TENSOR_BYTES = 64 << 10
"""Below this the wire is as fast."""

SMALLEST_SEGMENT_BYTES = 1 << 20
LARGEST_POOL_BYTES = 1 << 30

ALIGNMENT_BYTES = 64

REST_S = 60.0
"""How long a segment is not used after a request that nobody waited for."""

LOST_REGION = re.compile(
    r"unable to find (system |cuda )?shared memory region", re.IGNORECASE
)
"""What Triton says where it was restarted since the region was registered."""


@dataclass(eq=False)
class Pool:
    """The segments of one server, in classes of size that double; a segment serves one
    request at a time. `exchange` is what Delivery asks for each request.
    """

    memory: Memory = "system"
    usable: bool = True
    _free: dict[int, list[Segment]] = field(default_factory=lambda: defaultdict(list))
    _all: set[Segment] = field(default_factory=set)
    _resting: deque[tuple[float, Segment]] = field(default_factory=deque)
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
            self._rest(segment)
            raise
        except PersonServeError as exc:
            if not LOST_REGION.search(str(exc)):
                self._give_back(segment)
                raise
            log.info("the server was restarted; registering shared memory again")
            self._forget()
            return (yield from self.exchange(request))
        except BaseException:  # the caller was cancelled
            self._rest(segment)
            raise
        self._give_back(segment)
        return reply

    def taken(self) -> list[Segment]:
        """What the server holds for us, which the pool forgets; to be unregistered
        before it is collected.
        """
        with self._lock:
            found = [segment for segment in self._all if segment.registered]
        self._forget()
        return found

    def _registered(self, segment: Segment) -> Call[bool]:
        """Whether the server maps `segment` now; otherwise the pool is of no use."""
        try:
            if not self._swept:
                self._swept = True
                yield from _sweep(self.memory)
            yield segment.registration()
        except (InvalidInputError, ServerError) as exc:
            self.usable = False
            self._drop(segment)
            log.warning("the server does not take shared memory, using wires: %s", exc)
            return False
        except BaseException:
            self._drop(segment)
            raise
        segment.registered = True
        segment.hide()
        return True

    def _borrow(self, size: int) -> Segment:
        size = max(SMALLEST_SEGMENT_BYTES, 1 << (size - 1).bit_length())
        with self._lock:
            while self._resting and self._resting[0][0] < time.monotonic():
                _, rested = self._resting.popleft()
                if rested in self._all:
                    self._free[rested.size].append(rested)
            if self._free[size]:
                return self._free[size].pop()
            if sum(segment.size for segment in self._all) + size > LARGEST_POOL_BYTES:
                raise OSError(f"the pool's {LARGEST_POOL_BYTES >> 20} MiB are in use")
            segment = KINDS[self.memory].create(size)
            self._all.add(segment)
            return segment

    def _give_back(self, segment: Segment) -> None:
        with self._lock:
            if segment in self._all:
                self._free[segment.size].append(segment)

    def _rest(self, segment: Segment) -> None:
        """Nobody waits for its request any more, but the server may still read it."""
        with self._lock:
            self._resting.append((time.monotonic() + REST_S, segment))

    def _drop(self, segment: Segment) -> None:
        """Forget a segment that the server does not hold."""
        segment.hide()
        with self._lock:
            self._all.discard(segment)

    def _forget(self) -> None:
        """Drop every segment."""
        with self._lock:
            for segment in self._all:
                segment.hide()
            self._all.clear()
            self._free.clear()
            self._resting.clear()


def _large(request: Request) -> dict[str, Array | DeviceArray]:
    if not isinstance(request, Infer):
        return {}
    return {
        name: value
        for name, value in request.inputs.items()
        if not isinstance(value, Region)
        and value.dtype.kind not in "OSU"
        and (isinstance(value, DeviceArray) or value.nbytes >= SMALLEST_TENSOR_BYTES)
    }


def _room(array: Array | DeviceArray) -> int:
    return -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _placed(
    request: Infer, large: dict[str, Array | DeviceArray], segment: Segment
) -> Infer:
    """`request` with the `large` tensors in `segment`."""
    places: dict[str, Region] = {}
    offset = 0
    for name, array in large.items():
        places[name] = segment.put(array, offset)
        offset += _room(array)
    return replace(request, inputs={**request.inputs, **places})


def _sweep(memory: Memory) -> Call[None]:
    """Remove what clients that are gone have left, here and on the server."""
    sweep_files()
    regions: tuple[str, ...] = yield ListMemory(memory)
    for region in filter(is_orphan, regions):
        with suppress(PersonServeError):
            yield UnregisterMemory(region, memory)
