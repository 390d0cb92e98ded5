# Rendered by `python -m builders render` from ensembles/person_preprocess/frames.py; edit that file.
"""Frames with their boxes, and what decodes and cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
import simplejpeg

from deadlines import Deadline
from crops import Pixels
from decoding import decode
from encoded import Encoded


@dataclass(frozen=True)
class FrameRequest:
    """What a request asks for, before its frame is decoded.

    Attributes:
        frame: A checked encoded image, or raw BGR pixels [H, W, 3].
        boxes: FP32 [N, 4], with a number of rows that is allowed.
        deadline: The time until which the request is worth its work.
    """

    frame: Encoded | Pixels
    boxes: npt.NDArray[Any]
    deadline: Deadline


class DeviceError(Exception):
    """The device is unusable for this process, which has to be replaced."""


class Lane(Protocol):
    """What decodes and cuts batches of frames; each thread has one."""

    def cut(self, frames: Sequence[FrameRequest]) -> Sequence[list[Any] | Exception]:
        """Decode frames and cut their boxes.

        Args:
            frames: The frames and boxes.

        Returns:
            For each frame its RGB crops UINT8 [N, height, width, 3] in the order of the
            crop shapes, as arrays or as objects with DLPack on a GPU, valid until the
            next call; or what is wrong with the frame.

        Raises:
            DeviceError: The device is unusable.
        """

    def close(self) -> None:
        """Free what the lane holds."""


def decode_frame(frame: Encoded | Pixels) -> Pixels:
    """Return the BGR pixels [H, W, 3] of a frame.

    Args:
        frame: The frame of a FrameRequest.

    Raises:
        ImageFormatError: The bytes are damaged, or there is no memory for the image.
    """
    if isinstance(frame, Encoded):
        return decode(frame, decode_jpeg=_decode_jpeg)
    return frame


def _decode_jpeg(data: bytes | bytearray) -> Any:
    # 1.5 times as fast as OpenCV, whose build of libjpeg-turbo is older
    return simplejpeg.decode_jpeg(data, colorspace="BGR")
