"""The pool of shared-memory segments of one server.

Each segment is registered with the server once and then reused. Its file is removed as
soon as the server has mapped it: both sides keep their mapping, and no file is left if
either of them is killed. The regions of a killed client stay registered until the next
client on the machine removes them. If the server cannot map the memory (other host,
other user), tensors are sent over the wire.
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

from personserve._errors import (
    AccessDeniedError,
    InvalidInputError,
    PersonServeError,
    RequestTimeoutError,
    ServerError,
    ServerUnavailableError,
)
from personserve._retry import Call
from personserve._shared_memory.cuda import CudaSegment
from personserve._shared_memory.segment import Segment, is_orphan
from personserve._shared_memory.system import SystemSegment, remove_orphan_files
from personserve._wire.requests import (
    Array,
    DeviceArray,
    Infer,
    ListMemory,
    MemoryKind,
    Request,
    SharedTensor,
    UnregisterMemory,
)

log = logging.getLogger("personserve")

SEGMENT_TYPES: dict[MemoryKind, type[SystemSegment | CudaSegment]] = {
    "system": SystemSegment,
    "cuda": CudaSegment,
}

MIN_TENSOR_BYTES = 64 << 10
"""Smallest tensor for shared memory; below this the wire is as fast."""

MIN_SEGMENT_BYTES = 1 << 20
MAX_POOL_BYTES = 1 << 30

ALIGNMENT_BYTES = 64

QUARANTINE_S = 60.0
"""Time for which a segment is not reused after an unanswered request, in seconds."""

LOST_REGION = re.compile(
    r"unable to find (system |cuda )?shared memory region", re.IGNORECASE
)
"""Triton's message if it was restarted after the region was registered."""


@dataclass(eq=False)
class SegmentPool:
    """The segments of one server, in size classes that are powers of two.

    A segment serves one request at a time.

    Attributes:
        memory: The kind of memory.
        usable: Whether the server can map the memory; otherwise the wire is used.
    """

    memory: MemoryKind = "system"
    usable: bool = True
    _free: dict[int, list[Segment]] = field(default_factory=lambda: defaultdict(list))
    _all: set[Segment] = field(default_factory=set)
    _quarantine: deque[tuple[float, Segment]] = field(default_factory=deque)
    _uncertain: deque[Segment] = field(default_factory=deque)
    _lock: Lock = field(default_factory=Lock)
    _orphans_removed: bool = False

    def exchange(self, request: Request, *, repeated: bool = False) -> Call[Any]:
        """Send a request with its large tensors in shared memory.

        Args:
            request: Any request; only inferences with large tensors use the pool.
            repeated: Whether the server has lost this request's region before.

        Returns:
            A call, which returns the reply.
        """
        large = _select_large_tensors(request)
        if not large or not self.usable or not isinstance(request, Infer):
            return (yield request)
        try:
            segment = self._acquire(sum(_aligned_size(each) for each in large.values()))
        except OSError as exc:
            log.warning("no shared memory for this request, using the wire: %s", exc)
            return (yield request)
        if not segment.registered and not (yield from self._register(segment)):
            return (yield request)
        try:
            reply = yield _move_to_segment(request, large, segment)
        except (RequestTimeoutError, ServerUnavailableError):
            self._set_aside(segment)
            raise
        except PersonServeError as exc:
            if not LOST_REGION.search(str(exc)):
                self._release(segment)
                raise
            self._forget_lost(segment)
            if repeated:
                self.usable = False
                log.warning("the server loses its shared memory, using wires: %s", exc)
                return (yield request)
            log.info("the server was restarted; registering shared memory again")
            return (yield from self.exchange(request, repeated=True))
        except BaseException:  # the caller was cancelled
            self._set_aside(segment)
            raise
        self._release(segment)
        return reply

    def take_registered(self) -> list[Segment]:
        """Empty the pool and return the segments that the server still has mapped.

        Returns:
            The segments; the caller unregisters them, and only then may they be
            garbage-collected.
        """
        with self._lock:
            registered = [segment for segment in self._all if segment.registered]
        self._drop_all()
        return registered

    def _register(self, segment: Segment) -> Call[bool]:
        """Register a segment; on refusal mark the pool unusable and return False."""
        is_sent = False
        try:
            if not self._orphans_removed:
                self._orphans_removed = True
                yield from _remove_orphans(self.memory)
            yield from self._unregister_uncertain()
            is_sent = True
            yield segment.registration()
        except (AccessDeniedError, InvalidInputError, ServerError) as exc:
            self.usable = False
            self._drop(segment)
            log.warning("the server does not take shared memory, using wires: %s", exc)
            return False
        except BaseException:  # no answer, or the caller was cancelled
            if is_sent:  # the server may have mapped it
                self._set_registered(segment)
                self._uncertain.append(segment)
            else:
                self._drop(segment)
            raise
        self._set_registered(segment)
        return True

    def _unregister_uncertain(self) -> Call[None]:
        """Unregister segments whose registration was not answered."""
        while self._uncertain:
            segment = self._uncertain.popleft()
            try:
                yield UnregisterMemory(segment.region, self.memory)
            except (AccessDeniedError, InvalidInputError, ServerError) as exc:
                log.info("%s: %s", segment.region, exc)  # it was not registered
            except BaseException:
                self._uncertain.append(segment)
                raise
            self._drop(segment)

    def _set_registered(self, segment: Segment) -> None:
        segment.registered = True
        segment.unlink()

    def _acquire(self, size_bytes: int) -> Segment:
        size_bytes = max(MIN_SEGMENT_BYTES, 1 << (size_bytes - 1).bit_length())
        with self._lock:
            self._end_quarantines()
            if self._free[size_bytes]:
                return self._free[size_bytes].pop()
            pool_bytes = sum(segment.size_bytes for segment in self._all)
            if pool_bytes + size_bytes > MAX_POOL_BYTES:
                raise OSError(f"the pool's {MAX_POOL_BYTES >> 20} MiB are in use")
            segment = SEGMENT_TYPES[self.memory].create(size_bytes)
            self._all.add(segment)
            return segment

    def _end_quarantines(self) -> None:
        while self._quarantine and self._quarantine[0][0] < time.monotonic():
            _, segment = self._quarantine.popleft()
            if segment in self._all:
                self._free[segment.size_bytes].append(segment)

    def _release(self, segment: Segment) -> None:
        with self._lock:
            if segment in self._all:
                self._free[segment.size_bytes].append(segment)

    def _set_aside(self, segment: Segment) -> None:
        """Quarantine a segment: its request is given up, but may still be executed."""
        with self._lock:
            self._quarantine.append((time.monotonic() + QUARANTINE_S, segment))

    def _drop(self, segment: Segment) -> None:
        """Remove a segment that the server has not mapped."""
        segment.unlink()
        with self._lock:
            self._all.discard(segment)

    def _forget_lost(self, segment: Segment) -> None:
        """Forget all segments, unless another request has already done that."""
        if segment in self._all:
            self._drop_all()

    def _drop_all(self) -> None:
        with self._lock:
            for segment in self._all:
                segment.unlink()
            self._all.clear()
            self._free.clear()
            self._quarantine.clear()
            self._uncertain.clear()


def _select_large_tensors(request: Request) -> dict[str, Array | DeviceArray]:
    if not isinstance(request, Infer):
        return {}
    return {
        name: value
        for name, value in request.inputs.items()
        if not isinstance(value, SharedTensor)
        and value.dtype.kind not in "OSU"
        and (isinstance(value, DeviceArray) or value.nbytes >= MIN_TENSOR_BYTES)
    }


def _aligned_size(array: Array | DeviceArray) -> int:
    return -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _move_to_segment(
    request: Infer, large: dict[str, Array | DeviceArray], segment: Segment
) -> Infer:
    """Return the request with its large tensors copied into the segment."""
    shared: dict[str, SharedTensor] = {}
    offset = 0
    for name, array in large.items():
        shared[name] = segment.write(array, offset)
        offset += _aligned_size(array)
    return replace(request, inputs={**request.inputs, **shared})


def _remove_orphans(memory: MemoryKind) -> Call[None]:
    """Remove files and registered regions of clients that have ended."""
    remove_orphan_files()
    regions: tuple[str, ...] = yield ListMemory(memory)
    for region in filter(is_orphan, regions):
        with suppress(PersonServeError):
            yield UnregisterMemory(region, memory)
