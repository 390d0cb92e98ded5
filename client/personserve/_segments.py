"""Pieces of memory that a server can be told to map, of two kinds, and their names.

A segment in /dev/shm has a file until the server has mapped it; one on the GPU is known
by its CUDA IPC handle and has none.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from personserve._errors import InvalidInputError
from personserve._requests import (
    Array,
    DeviceArray,
    Memory,
    Region,
    RegisterMemory,
)

FOLDER = Path("/dev/shm")

NAME = re.compile(r"personserve-(\d+)-(\d+)-(\d+)-\d+")

GPU = 0
"""The one that CUDA segments are on, by the numbers of both client and server."""


class Segment(Protocol):
    """Memory of our own, perhaps known to the server as `region`."""

    region: str
    size: int
    registered: bool

    def registration(self) -> RegisterMemory:
        """What tells the server."""
        ...

    def hide(self) -> None:
        """Remove what others could find it by; mappings stay."""
        ...

    def put(self, array: Array | DeviceArray, offset: int) -> Region:
        """Copy `array` to `offset`."""
        ...


@dataclass(eq=False)
class SystemSegment:
    """A Segment in /dev/shm. Given back when it is collected."""

    region: str
    size: int
    memory: mmap.mmap
    registered: bool = False

    @classmethod
    def create(cls, size: int) -> SystemSegment:
        """Raises OSError where there is no room."""
        region = new_name()
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

    def registration(self) -> RegisterMemory:
        return RegisterMemory(self.region, f"/{self.region}", self.size)

    def hide(self) -> None:
        with suppress(FileNotFoundError):
            (FOLDER / self.region).unlink()

    def put(self, array: Array | DeviceArray, offset: int) -> Region:
        if isinstance(array, DeviceArray):
            raise InvalidInputError(array.needs_cuda())
        view: Array = np.ndarray(array.shape, array.dtype, self.memory, offset)
        np.copyto(view, array)
        return Region(self.region, offset, array.nbytes, array.dtype, array.shape)


@dataclass(eq=False)
class CudaSegment:
    """A Segment on the first GPU. Given back when it is collected, which must be after
    the server has let go of it (CUDA's rule for memory that others have open).
    """

    region: str
    size: int
    pointer: int
    handle: bytes
    registered: bool = False

    @classmethod
    def create(cls, size: int) -> CudaSegment:
        """Raises OSError where there is no room, or no GPU."""
        cuda = cuda_runtime()
        with _on_gpu(cuda):
            pointer = int(_checked(cuda.cudaMalloc(size)))
            try:
                handle = _checked(cuda.cudaIpcGetMemHandle(pointer))
            except OSError:
                cuda.cudaFree(pointer)
                raise
        segment = cls(new_name(), size, pointer, bytes(handle.reserved))
        weakref.finalize(segment, cuda.cudaFree, pointer)
        return segment

    def registration(self) -> RegisterMemory:
        return RegisterMemory(self.region, self.handle, self.size, GPU)

    def hide(self) -> None:
        """Its handle is with the server alone."""

    def put(self, array: Array | DeviceArray, offset: int) -> Region:
        cuda = cuda_runtime()
        if isinstance(array, DeviceArray):
            source = array.pointer
        else:
            array = np.ascontiguousarray(array)
            source = array.ctypes.data
        with _on_gpu(cuda):
            _checked(
                cuda.cudaMemcpy(
                    self.pointer + offset,
                    source,
                    array.nbytes,
                    cuda.cudaMemcpyKind.cudaMemcpyDefault,
                )
            )
            # the server reads it on a stream of its own, and the copy may return early
            _checked(cuda.cudaDeviceSynchronize())
        return Region(self.region, offset, array.nbytes, array.dtype, array.shape)


KINDS: dict[Memory, type[SystemSegment | CudaSegment]] = {
    "system": SystemSegment,
    "cuda": CudaSegment,
}


def cuda_runtime() -> Any:
    """CUDA's runtime. Raises OSError where there is none, or no GPU."""
    try:
        from cuda.bindings import runtime
    except ImportError as exc:
        raise OSError(
            'cuda-bindings is not installed: pip install "personserve[cuda]"'
        ) from exc
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0 or count == 0:
        raise OSError(f"no NVIDIA GPU here ({status.name})")
    return runtime


def sweep_files() -> None:
    """Remove the files of clients that are gone."""
    for path in FOLDER.glob("personserve-*"):
        if is_orphan(path.name):
            with suppress(OSError):
                path.unlink()


def new_name() -> str:
    """A segment's name, which says whose it is."""
    return f"personserve-{_owner()}-{next(_numbers)}"


def is_orphan(name: str) -> bool:
    """Whether `name` is of a process in our PID namespace that has ended."""
    found = NAME.fullmatch(name)
    if found is None:
        return False
    namespace, pid, started = found.groups()
    return _owner().startswith(f"{namespace}-") and _started(int(pid)) != started


_numbers = itertools.count()


def _owner() -> str:
    """This process in the names of segments: PID namespace, PID, and start, because
    PIDs come again.
    """
    namespace = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    return f"{namespace}-{os.getpid()}-{_started(os.getpid())}"


def _started(pid: int) -> str | None:
    """When `pid` started, in clock ticks since boot; None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return fields.rpartition(")")[2].split()[19]


@contextmanager
def _on_gpu(cuda: Any) -> Iterator[None]:
    """With GPU as this thread's, which has its own back afterwards."""
    before = _checked(cuda.cudaGetDevice())
    _checked(cuda.cudaSetDevice(GPU))
    try:
        yield
    finally:
        cuda.cudaSetDevice(before)


def _checked(returned: Any) -> Any:
    """The value of a CUDA call. Raises OSError."""
    status, *values = returned
    if int(status) != 0:
        raise OSError(f"CUDA: {status.name}")
    return values[0] if values else None
