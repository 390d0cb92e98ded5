"""Segments of CUDA shared memory: device memory, found by its CUDA IPC handle."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from personserve._shared_memory.segment import new_segment_name
from personserve._wire.requests import Array, DeviceArray, RegisterMemory, SharedTensor
from personserve.internal.cuda import load_cuda_runtime

GPU = 0
"""Number of the GPU for CUDA segments, the same for client and server."""


@dataclass(eq=False)
class CudaSegment:
    """A Segment on the first GPU, freed when it is garbage-collected.

    It must be collected after the server has unmapped it: CUDA does not allow freeing
    memory that another process has open.
    """

    region: str
    size_bytes: int
    pointer: int
    handle: bytes
    registered: bool = False

    @classmethod
    def create(cls, size_bytes: int) -> CudaSegment:
        """Create a segment.

        Args:
            size_bytes: Size in bytes.

        Returns:
            The segment, not yet registered.

        Raises:
            OSError: If there is no GPU, or not enough memory on it.
        """
        cuda = load_cuda_runtime()
        with _current_gpu(cuda):
            pointer = int(_check_status(cuda.cudaMalloc(size_bytes)))
            try:
                handle = _check_status(cuda.cudaIpcGetMemHandle(pointer))
            except OSError:
                cuda.cudaFree(pointer)
                raise
        segment = cls(new_segment_name(), size_bytes, pointer, bytes(handle.reserved))
        weakref.finalize(segment, cuda.cudaFree, pointer)
        return segment

    def registration(self) -> RegisterMemory:
        """Return the request that makes the server map the segment."""
        return RegisterMemory(self.region, self.handle, self.size_bytes, GPU)

    def unlink(self) -> None:
        """Do nothing: only the server receives the handle."""

    def write(self, array: Array | DeviceArray, offset: int) -> SharedTensor:
        """Copy an array into the segment, from the host or the same GPU."""
        cuda = load_cuda_runtime()
        if isinstance(array, DeviceArray):
            source = array.pointer
        else:
            array = np.ascontiguousarray(array)
            source = array.ctypes.data
        with _current_gpu(cuda):
            _check_status(
                cuda.cudaMemcpy(
                    self.pointer + offset,
                    source,
                    array.nbytes,
                    cuda.cudaMemcpyKind.cudaMemcpyDefault,
                )
            )
            # the server reads on its own stream, and the copy may return early
            _check_status(cuda.cudaDeviceSynchronize())
        return SharedTensor(self.region, offset, array.nbytes, array.dtype, array.shape)


@contextmanager
def _current_gpu(cuda: Any) -> Iterator[None]:
    """Make GPU the thread's current device for the duration of the block."""
    previous = _check_status(cuda.cudaGetDevice())
    _check_status(cuda.cudaSetDevice(GPU))
    try:
        yield
    finally:
        cuda.cudaSetDevice(previous)


def _check_status(returned: Any) -> Any:
    """Return the value of a CUDA call; raise OSError if it failed."""
    status, *values = returned
    if int(status) != 0:
        raise OSError(f"CUDA: {status.name}")
    return values[0] if values else None
