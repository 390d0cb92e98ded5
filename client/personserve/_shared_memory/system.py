"""Segments of system shared memory: files in /dev/shm, mapped by both sides."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from personserve._errors import InvalidInputError
from personserve._shared_memory.segment import is_orphan, new_segment_name
from personserve._wire.requests import Array, DeviceArray, RegisterMemory, SharedTensor

FOLDER = Path("/dev/shm")


@dataclass(eq=False)
class SystemSegment:
    """A Segment in /dev/shm, unmapped when it is garbage-collected."""

    region: str
    size_bytes: int
    mapping: mmap.mmap
    registered: bool = False

    @classmethod
    def create(cls, size_bytes: int) -> SystemSegment:
        """Create a segment.

        Args:
            size_bytes: Size in bytes.

        Returns:
            The segment, not yet registered.

        Raises:
            OSError: If there is not enough space in /dev/shm.
        """
        region = new_segment_name()
        path = FOLDER / region
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            # reserve the space now; a write without it would end in SIGBUS
            os.posix_fallocate(descriptor, 0, size_bytes)
            mapping = mmap.mmap(descriptor, size_bytes)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        return cls(region, size_bytes, mapping)

    def registration(self) -> RegisterMemory:
        """Return the request that makes the server map the segment."""
        return RegisterMemory(self.region, f"/{self.region}", self.size_bytes)

    def unlink(self) -> None:
        """Remove the file; mappings stay."""
        with suppress(FileNotFoundError):
            (FOLDER / self.region).unlink()

    def write(self, array: Array | DeviceArray, offset: int) -> SharedTensor:
        """Copy an array into the segment."""
        if isinstance(array, DeviceArray):
            raise InvalidInputError(array.refusal)
        view: Array = np.ndarray(array.shape, array.dtype, self.mapping, offset)
        np.copyto(view, array)
        return SharedTensor(self.region, offset, array.nbytes, array.dtype, array.shape)


def remove_orphan_files() -> None:
    """Remove the files of segments whose process has ended."""
    for path in FOLDER.glob("personserve-*"):
        if is_orphan(path.name):
            with suppress(OSError):
                path.unlink()
