# Rendered by `python -m builders render` from ensembles/person_preprocess/gpu_lane.py; edit that file.
"""Frames decoded and cut on a GPU, a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuda.core import Device

from frames import (
    DeviceError,
    FrameRequest,
    decode_frames,
)
from gpu_crops import (
    KERNEL_INTERPOLATIONS,
    CropKernel,
    GpuCutter,
    GpuFrame,
)
from gpu_decoding import GpuDecoder
from crops import (
    BoxError,
    CropShape,
    IntBoxes,
    Pixels,
    pixel_boxes,
)
from encoded import Encoded

ROTATED = frozenset((5, 6, 7, 8))
"""EXIF orientations whose height and width are exchanged when they are applied."""


@dataclass(frozen=True)
class Gpu:
    """A GPU with the kernel that was compiled for it."""

    device: Device
    kernel: CropKernel


def open_gpu(device_id: int, shapes: Sequence[CropShape]) -> Gpu:
    """Open a GPU for frames.

    Args:
        device_id: Ordinal of the GPU, among those that CUDA_VISIBLE_DEVICES leaves.
        shapes: Crop shape of each network.

    Raises:
        RuntimeError: CUDA finds no such GPU, or its compiler fails.
        ValueError: A network needs an interpolation that the kernel does not have.
    """
    missing = {shape.interpolation for shape in shapes} - KERNEL_INTERPOLATIONS.keys()
    if missing:
        raise ValueError(
            f"interpolation {', '.join(sorted(missing))}: the GPU has "
            f"{', '.join(KERNEL_INTERPOLATIONS)}"
        )
    device = Device(device_id)
    device.set_current()
    return Gpu(device, CropKernel(device))


class GpuLane:
    """Decodes and cuts batches of frames on a stream of its own.

    Args:
        gpu: The GPU.
        shapes: Crop shape of each network.
    """

    def __init__(self, gpu: Gpu, shapes: Sequence[CropShape]) -> None:
        self._gpu = gpu
        self._cutter = GpuCutter(gpu.device, gpu.kernel, shapes)
        self._decoder = GpuDecoder(gpu.device.device_id, self._cutter.stream)

    def cut(self, frames: Sequence[FrameRequest]) -> list[list[Any] | Exception]:
        """Implement Lane.cut.

        Args:
            frames: See Lane.cut.

        Returns:
            See Lane.cut.

        Raises:
            DeviceError: See Lane.cut.
        """
        self._gpu.device.set_current()
        try:
            return self._cut(frames)
        except Exception as exc:
            try:
                self._gpu.device.sync()
            except Exception:  # noqa: BLE001 - CUDA's errors have no common public base
                raise DeviceError(f"the GPU failed: {exc!r}") from exc
            raise

    def close(self) -> None:
        """Implement Lane.close."""
        self._gpu.device.set_current()
        self._decoder.close()
        self._cutter.close()

    def _cut(self, frames: Sequence[FrameRequest]) -> list[list[Any] | Exception]:
        results: dict[int, list[Any] | Exception] = {}
        boxes: dict[int, IntBoxes] = {}
        for number, frame in enumerate(frames):
            try:
                boxes[number] = pixel_boxes(frame.boxes, *_upright_size(frame.frame))
            except BoxError as exc:
                results[number] = exc
        decoded = self._decode({n: frames[n].frame for n in boxes}, results)
        if decoded:
            crops = self._cutter.cut(
                list(decoded.values()), [boxes[n] for n in decoded]
            )
            results |= dict(zip(decoded, crops, strict=True))
        return [results[number] for number in range(len(frames))]

    def _decode(
        self,
        frames: Mapping[int, Encoded | Pixels],
        results: dict[int, list[Any] | Exception],
    ) -> dict[int, GpuFrame]:
        """Return frames in the GPU's memory; adds what is wrong with the others."""
        decoded = decode_frames(frames, self._decoder.decode)
        results |= decoded.errors
        on_gpu = decoded.on_gpu
        if decoded.on_cpu:
            uploads = self._cutter.upload(list(decoded.on_cpu.values()))
            on_gpu |= dict(zip(decoded.on_cpu, uploads, strict=True))
        return on_gpu


def _upright_size(frame: Encoded | Pixels) -> tuple[int, int]:
    """Return height and width of a frame as it will be decoded."""
    if isinstance(frame, Encoded):
        size = frame.height_px, frame.width_px
        return size[::-1] if frame.layout.orientation in ROTATED else size
    return frame.shape[0], frame.shape[1]
