"""What callers have (arrays, files, PIL images, detectors' results) as what is sent."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from personserve._crops import Pixels
from personserve._errors import InvalidInputError
from personserve._picture_size import encoded_size

Picture = Any
"""UINT8 [H, W, 3] BGR, an encoded JPEG, PNG or WebP as bytes or as a path, or a PIL
image."""

Pictures = Sequence[Picture] | npt.NDArray[np.uint8]

Boxes = Any
"""[N, 4] numbers (x0, y0, x1, y1), or a detector's result that has them as `xyxy`
(supervision.Detections) or `boxes.xyxy` (ultralytics Results)."""

MAX_PICTURE_BYTES = 512 << 20
"""Triton's gRPC messages end at 2 GiB; no picture worth sending comes near this."""

MAX_PICTURE_PIXELS = 50_000_000
"""As the server's limit: beyond it a small file could decode to gigabytes."""


def as_sent(picture: Picture, what: str) -> Pixels:
    """`picture` as the server takes it: raw [H, W, 3] BGR, or encoded [1, 1, bytes].

    Raises InvalidInputError.
    """
    if isinstance(picture, str | PathLike):
        picture = _read(Path(picture), what)
    if isinstance(picture, bytes | bytearray | memoryview):
        if not 0 < len(picture) <= MAX_PICTURE_BYTES:
            raise InvalidInputError(
                f"{what}: {len(picture)} bytes; expected a JPEG, PNG or WebP of up to "
                f"{MAX_PICTURE_BYTES:,} bytes"
            )
        return np.frombuffer(picture, np.uint8).reshape(1, 1, -1)
    return _raw(picture, what)


def as_pixels(picture: Picture, what: str) -> Pixels:
    """`picture` as raw [H, W, 3] BGR, turned as its EXIF orientation says.

    Raises InvalidInputError.
    """
    sent = as_sent(picture, what)
    return decoded(sent, what) if is_encoded(sent) else sent


def is_encoded(sent: Pixels) -> bool:
    """Whether what as_sent made is an encoded picture."""
    return sent.shape[:2] == (1, 1)


def decoded(sent: Pixels, what: str) -> Pixels:
    """Raw [H, W, 3] BGR of an encoded [1, 1, bytes]. Raises InvalidInputError."""
    width, height = encoded_size(sent.reshape(-1).data) or (0, 0)
    if width * height > MAX_PICTURE_PIXELS:
        raise InvalidInputError(
            f"{what}: {width}x{height} is over the limit of {MAX_PICTURE_PIXELS:,} "
            "pixels"
        )
    try:
        pixels = cv2.imdecode(sent.reshape(-1), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        start = sent.reshape(-1)[:8].tobytes().hex(" ")
        raise InvalidInputError(
            f"{what}: {sent.size} bytes starting {start} do not decode; expected a "
            "whole JPEG, PNG or WebP"
        )
    return np.asarray(pixels, np.uint8)


def all_pixels(pictures: Pictures, what: str) -> list[Pixels]:
    """Each of `pictures` as as_pixels gives it."""
    return [as_pixels(each, f"{what} {i}") for i, each in enumerate(pictures)]


def as_boxes(boxes: Boxes) -> npt.NDArray[np.float32]:
    """FP32 [N, 4] of `boxes`. Raises InvalidInputError."""
    given: Any = getattr(boxes, "boxes", boxes)
    given = getattr(given, "xyxy", given)
    if hasattr(given, "cpu"):  # a torch tensor, perhaps on a GPU
        given = given.cpu()
    try:
        array = np.asarray(given, np.float32)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"boxes: expected numbers [N, 4] (x0, y0, x1, y1), or a detector's result "
            f"with xyxy: {exc}"
        ) from exc
    if array.size == 0:
        return np.empty((0, 4), np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise InvalidInputError(
            f"boxes: expected [N, 4] (x0, y0, x1, y1), got {list(array.shape)}"
        )
    return array


def _read(path: Path, what: str) -> bytes:
    try:
        if path.stat().st_size > MAX_PICTURE_BYTES:
            raise InvalidInputError(f"{what}: {path} is over {MAX_PICTURE_BYTES:,} B")
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInputError(f"{what}: cannot read {path}: {exc}") from exc


def _raw(picture: Any, what: str) -> Pixels:
    if hasattr(picture, "convert") and hasattr(picture, "getbands"):  # PIL
        picture = np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])
    if not isinstance(picture, np.ndarray):
        raise InvalidInputError(
            f"{what}: expected a UINT8 array [H, W, 3] in BGR order, encoded bytes, a "
            f"path or a PIL image, got {type(picture).__name__}"
        )
    if (
        picture.dtype != np.uint8
        or picture.ndim != 3
        or picture.shape[2] != 3
        or picture.size == 0
    ):
        raise InvalidInputError(
            f"{what}: expected a UINT8 array [H, W, 3] in BGR order, got "
            f"{picture.dtype} {list(picture.shape)}"
        )
    return picture
