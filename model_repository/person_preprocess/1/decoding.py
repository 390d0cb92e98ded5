# Rendered by `python -m builders render` from client/personserve/images/decoding.py; edit that file.
"""Decoding of encoded images that passed the gate.

It imports NumPy and OpenCV only, which is what the server's Python has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from crops import Pixels
from encoded import Encoded
from formats import ImageFormatError

DECODER_ERRORS = (
    cv2.error,
    MemoryError,
    OverflowError,
    RuntimeError,
    SystemError,
    ValueError,
)
"""What decoders raise for an image that is damaged or too large for the memory."""

_READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

_UPRIGHT_BY_ORIENTATION: dict[int, Callable[[Any], Any]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""Transformations by EXIF orientation; 1 needs none."""


def decode_opencv(data: bytes | bytearray) -> Any:
    """Decode an image with OpenCV.

    Args:
        data: What Encoded.decoder_input returned.

    Returns:
        UINT8 [H, W, 3] in BGR order, or None for damaged bytes.
    """
    return cv2.imdecode(np.frombuffer(data, np.uint8), _READ_FLAGS)


def decode(
    image: Encoded, *, decode_jpeg: Callable[[bytes | bytearray], Any] = decode_opencv
) -> Pixels:
    """Decode an image, rotated as its EXIF orientation says.

    The orientation is applied here for all formats, so that it does not depend on the
    decoder: OpenCV 4.11 reads that of JPEG and PNG, and not that of WebP.

    Args:
        image: The encoded image.
        decode_jpeg: Decoder of JPEG, as decode_opencv.

    Returns:
        UINT8 [H, W, 3] in BGR order.

    Raises:
        ImageFormatError: The bytes are damaged, or there is no memory for the image.
    """
    decoder = decode_jpeg if image.format == "JPEG" else decode_opencv
    try:
        pixels = decoder(image.decoder_input())
    except ImageFormatError:
        raise
    except DECODER_ERRORS as exc:
        raise ImageFormatError.for_damage(image.data) from exc
    if pixels is None or pixels.shape != (image.height_px, image.width_px, 3):
        raise ImageFormatError.for_damage(image.data)
    transform = _UPRIGHT_BY_ORIENTATION.get(image.layout.orientation)
    return np.asarray(pixels if transform is None else transform(pixels), np.uint8)
