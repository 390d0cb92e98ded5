"""Frames decoded and cut on the CPU, for the model's form that uses a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensembles.person_preprocess.frames import FrameRequest, decode_frame
from personserve.images.crops import CropShape, cut_crops, pixel_boxes


class CpuLane:
    """Decodes and cuts one frame after another.

    Args:
        shapes: Crop shape of each network.
    """

    def __init__(self, shapes: Sequence[CropShape]) -> None:
        self._shapes = shapes

    def cut(self, frames: Sequence[FrameRequest]) -> list[list[Any] | Exception]:
        """Implement Lane.cut.

        Args:
            frames: See Lane.cut.

        Returns:
            See Lane.cut.
        """
        return [self._cut_frame(frame) for frame in frames]

    def close(self) -> None:
        """Implement Lane.close."""

    def _cut_frame(self, frame: FrameRequest) -> list[Any] | Exception:
        try:
            pixels = decode_frame(frame.frame)
            boxes = pixel_boxes(frame.boxes, *pixels.shape[:2])
            return list(cut_crops(pixels, boxes, self._shapes, order="BGR"))
        except Exception as exc:  # noqa: BLE001 - the other frames are cut
            return exc
