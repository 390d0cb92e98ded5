# Rendered by `python -m builders render` from ensembles/person_preprocess/gpu_crops.py; edit that file.
"""Crops cut on a GPU: the kernel of cut_crops.cu, and the memory that it works in.

CUDA is reached through cuda-core, NVIDIA's own binding: it compiles the kernel with
NVRTC for the present GPU when the model is loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime
from cuda.core import (
    Buffer,
    Device,
    EventOptions,
    LaunchConfig,
    LegacyPinnedMemoryResource,
    Program,
    ProgramOptions,
    StreamOptions,
    launch,
)
from cuda.core.utils import StridedMemoryView

from crops import CropShape, IntBoxes, Pixels

SOURCE = Path(__file__).with_name("cut_crops.cu")
KERNEL = "cut_crops"
KERNEL_INTERPOLATIONS = {"linear": 0, "cubic": 1}

THREADS = 256
PIXELS_PER_THREAD = 4
ALIGNMENT_BYTES = 512
CHANNELS = 3

JOB = np.dtype(
    [
        ("frame", "u8"),
        ("crop", "u8"),
        ("row_bytes", "i4"),
        ("is_bgr", "i4"),
        ("left", "i4"),
        ("top", "i4"),
        ("box_width", "i4"),
        ("box_height", "i4"),
        ("crop_width", "i4"),
        ("crop_height", "i4"),
        ("is_cubic", "i4"),
        ("padding", "i4"),
    ]
)
"""`struct Job` of cut_crops.cu."""


@dataclass(frozen=True)
class GpuFrame:
    """A decoded frame in the memory of a GPU.

    Attributes:
        address: Address of its first pixel.
        row_bytes: Bytes from one row to the next.
        is_bgr: Whether its channel order is BGR; RGB otherwise.
        owner: Keeps the memory alive.
    """

    address: int
    row_bytes: int
    is_bgr: bool
    owner: Any = None


def fill_jobs(
    jobs: npt.NDArray[Any],
    frame: GpuFrame,
    boxes: IntBoxes,
    shape: CropShape,
    crops_address: int,
) -> None:
    """Describe the crops of one frame for one network to the kernel.

    Args:
        jobs: JOB [N], written.
        frame: The frame.
        boxes: Integers [N, 4] inside the frame, as pixel_boxes returns.
        shape: Size and interpolation of the crops.
        crops_address: Address of the UINT8 crops [N, height, width, 3].
    """
    jobs["frame"] = frame.address
    jobs["row_bytes"] = frame.row_bytes
    jobs["is_bgr"] = frame.is_bgr
    crop_bytes = shape.height * shape.width * CHANNELS
    jobs["crop"] = crops_address + np.arange(len(boxes), dtype=np.uint64) * crop_bytes
    jobs["left"], jobs["top"] = boxes[:, 0], boxes[:, 1]
    jobs["box_width"] = boxes[:, 2] - boxes[:, 0]
    jobs["box_height"] = boxes[:, 3] - boxes[:, 1]
    jobs["crop_width"], jobs["crop_height"] = shape.width, shape.height
    jobs["is_cubic"] = KERNEL_INTERPOLATIONS[shape.interpolation]


class CropKernel:
    """The kernel, compiled for one GPU.

    Args:
        device: The GPU.
    """

    def __init__(self, device: Device) -> None:
        options = ProgramOptions(arch=f"sm_{device.arch}", fma=False)
        program = Program(SOURCE.read_text(encoding="utf-8"), "c++", options)
        self._kernel = program.compile("cubin").get_kernel(KERNEL)

    def launch(self, stream: Any, jobs_address: int, count: int, pixels: int) -> None:
        """Cut crops.

        Args:
            stream: Stream of the GPU.
            jobs_address: Address of the JOB [count] in the GPU's memory.
            count: Number of crops.
            pixels: Pixels of the largest crop.
        """
        blocks = -(-pixels // (THREADS * PIXELS_PER_THREAD))
        config = LaunchConfig(grid=(blocks, count), block=THREADS)
        launch(stream, config, self._kernel, jobs_address)


class DeviceMemory:
    """A piece of a GPU's memory that grows when more is needed.

    It comes from cudaMalloc, because Triton's Python backend passes tensors between
    processes by handles that memory of CUDA's asynchronous allocator does not have.
    """

    def __init__(self) -> None:
        self.address, self._size = 0, 0

    def reserve(self, size: int) -> int:
        """Return the address of at least `size` bytes; what was in them is lost.

        Args:
            size: Number of bytes.

        Raises:
            MemoryError: The GPU has no memory left.
        """
        if size > self._size:
            self.close()
            status, self.address = runtime.cudaMalloc(size)
            if status != runtime.cudaError_t.cudaSuccess:
                self.address = 0
                raise MemoryError(
                    f"the GPU has no {size >> 20} MiB left: {status.name}"
                )
            self._size = size
        return self.address

    def close(self) -> None:
        """Free the memory."""
        if self._size:
            runtime.cudaFree(self.address)
        self.address, self._size = 0, 0


class GpuCutter:
    """Cuts the boxes of a batch of frames; one thread at a time.

    Args:
        device: The GPU.
        kernel: The kernel, compiled for it.
        shapes: Crop shape of each network.
    """

    def __init__(
        self, device: Device, kernel: CropKernel, shapes: Sequence[CropShape]
    ) -> None:
        self._kernel = kernel
        self._shapes = shapes
        # the networks' kernels are long; those of a frame should not wait for them
        self.stream = device.create_stream(options=StreamOptions(priority=-1))
        self._done = EventOptions(blocking_sync=True)
        self._crops, self._pixels, self._jobs = (DeviceMemory() for _ in range(3))
        self._pinned = LegacyPinnedMemoryResource()
        self._staging: Buffer | None = None

    def upload(self, frames: Sequence[Pixels]) -> list[GpuFrame]:
        """Copy frames to the GPU, once for all boxes.

        Args:
            frames: Contiguous UINT8 [H, W, 3] in BGR order.

        Returns:
            The frames, valid until the next call.
        """
        offsets = _offsets([frame.nbytes for frame in frames])
        base = self._pixels.reserve(offsets[-1])
        for frame, offset in zip(frames, offsets, strict=False):
            self._copy(base + offset, frame.ctypes.data, frame.nbytes)
        return [
            GpuFrame(base + offset, frame.strides[0], is_bgr=True)
            for frame, offset in zip(frames, offsets, strict=False)
        ]

    def cut(
        self, frames: Sequence[GpuFrame], boxes: Sequence[IntBoxes]
    ) -> list[list[StridedMemoryView]]:
        """Cut the boxes of frames for all networks with one launch.

        Args:
            frames: The frames.
            boxes: The boxes of each frame, integers [N, 4] inside it.

        Returns:
            For each frame and each crop shape RGB crops UINT8 [N, height, width, 3] on
            the GPU, complete, and valid until the next call.
        """
        sizes = [
            len(each) * shape.height * shape.width * CHANNELS
            for each in boxes
            for shape in self._shapes
        ]
        offsets = _offsets(sizes)
        base = self._crops.reserve(offsets[-1])
        count = sum(map(len, boxes)) * len(self._shapes)
        jobs = self._stage(count)
        views: list[list[StridedMemoryView]] = []
        number, part = 0, 0
        for frame, each in zip(frames, boxes, strict=True):
            views.append([])
            for shape in self._shapes:
                address = base + offsets[part]
                fill_jobs(
                    jobs[number : number + len(each)], frame, each, shape, address
                )
                views[-1].append(self._view(address, sizes[part], len(each), shape))
                number, part = number + len(each), part + 1
        self._launch(jobs)
        return views

    def close(self) -> None:
        """Free the memory on the GPU."""
        self.stream.sync()
        for memory in (self._crops, self._pixels, self._jobs):
            memory.close()

    def _launch(self, jobs: npt.NDArray[Any]) -> None:
        address = self._jobs.reserve(jobs.nbytes)
        self._copy(address, jobs.ctypes.data, jobs.nbytes)
        pixels = max(shape.height * shape.width for shape in self._shapes)
        self._kernel.launch(self.stream, address, len(jobs), pixels)
        # waiting without a spin leaves the core to others
        self.stream.record(options=self._done).sync()

    def _stage(self, count: int) -> npt.NDArray[Any]:
        size = count * JOB.itemsize
        if self._staging is None or self._staging.size < size:
            self._staging = self._pinned.allocate(max(size, 64 * JOB.itemsize))
        # through ctypes, because np.from_dlpack returns arrays that cannot be written
        memory = (ctypes.c_uint8 * size).from_address(int(self._staging.handle))
        return np.frombuffer(memoryview(memory).cast("B"), JOB)

    def _view(
        self, address: int, size: int, count: int, shape: CropShape
    ) -> StridedMemoryView:
        buffer = Buffer.from_handle(address, size, owner=self._crops)
        return StridedMemoryView.from_buffer(
            buffer, (count, shape.height, shape.width, CHANNELS), dtype=np.dtype("u1")
        )

    def _copy(self, target: int, source: int, size: int) -> None:
        (status,) = runtime.cudaMemcpyAsync(
            target,
            source,
            size,
            runtime.cudaMemcpyKind.cudaMemcpyHostToDevice,
            int(self.stream.handle),
        )
        if status != runtime.cudaError_t.cudaSuccess:
            raise RuntimeError(
                f"a copy of {size:,} bytes to the GPU failed: {status.name}"
            )


def _offsets(sizes: Sequence[int]) -> list[int]:
    """Return where pieces of memory begin, aligned, and at last where all end."""
    aligned = [-(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for size in sizes]
    return [0, *np.cumsum(aligned).tolist()]
