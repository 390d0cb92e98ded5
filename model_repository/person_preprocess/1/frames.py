# Rendered by `python -m builders render` from ensembles/person_preprocess/frames.py; edit that file.
"""Frames with their boxes, and what decodes and cuts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg

from deadlines import Deadline
from crops import Pixels
from decoding import decode
from encoded import Encoded
from layout import UPRIGHT

T = TypeVar("T")


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


@dataclass(frozen=True)
class DecodedFrames(Generic[T]):
    """A batch of frames after decoding, by their number in the batch.

    Attributes:
        on_gpu: Frames that the GPU decoded.
        on_cpu: BGR pixels [H, W, 3] of the others, contiguous.
        errors: What is wrong with the frames that are in neither.
    """

    on_gpu: dict[int, T]
    on_cpu: dict[int, Pixels]
    errors: dict[int, Exception]


def decode_frames(
    frames: Mapping[int, Encoded | Pixels],
    decode_on_gpu: Callable[[list[Encoded]], Sequence[T | None]],
) -> DecodedFrames[T]:
    """Decode a batch, on the GPU as far as it can.

    The GPU's decoder works on all images of a batch in shared state. Where it fails on
    one, the pixels that it returned for the others are not trusted: the CPU decodes the
    whole batch, each image by itself. A batch without a failure costs nothing more.

    Args:
        frames: The frames by their number.
        decode_on_gpu: Decodes images for which `suits_gpu` holds; None for each that
            the CPU should try.
    """
    images = {
        number: frame
        for number, frame in frames.items()
        if isinstance(frame, Encoded) and suits_gpu(frame)
    }
    on_gpu: dict[int, T] = {}
    if images:
        attempts = decode_on_gpu(list(images.values()))
        on_gpu = {
            number: attempt
            for number, attempt in zip(images, attempts, strict=True)
            if attempt is not None
        }
        if len(on_gpu) < len(images):
            on_gpu = {}
    on_cpu: dict[int, Pixels] = {}
    errors: dict[int, Exception] = {}
    for number in frames.keys() - on_gpu.keys():
        try:
            on_cpu[number] = np.ascontiguousarray(decode_frame(frames[number]))
        except Exception as exc:  # noqa: BLE001 - the other frames are cut
            errors[number] = exc
    return DecodedFrames(on_gpu, on_cpu, errors)


def suits_gpu(image: Encoded) -> bool:
    """Return whether the GPU decodes an image to the pixels that the CPU gives.

    Args:
        image: An image that passed the gate.
    """
    return image.layout.is_common_jpeg and image.layout.orientation == UPRIGHT


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
