"""Spans of frames of video files, read with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from personserve._errors import InvalidInputError
from personserve.images.crops import Pixels

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"))

RATE_LIMITS_HZ = (0.5, 480.0)
"""Believable frame rates; files without one report 0, NaN or their clock's rate."""


def count_frames(path: str) -> int | None:
    """Return the number of frames that a video file states.

    Args:
        path: The file.

    Returns:
        The number, or None if the file states none or cannot be opened.
    """
    try:
        with _open_video(path) as capture:
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    except InvalidInputError:
        return None  # whoever reads it reports why
    return count if count > 0 else None


def read_span(
    path: str, start: int, stop: int | None, every: int = 1
) -> Iterator[tuple[int, float | None, Pixels]]:
    """Read frames of a video file, without those before the span.

    Args:
        path: The file.
        start: First frame.
        stop: Frame after the last one; None for the end of the video.
        every: Distance of the frames.

    Yields:
        Index of the frame, its time in seconds (None where the rate is unknown), and
        UINT8 [H, W, 3] in BGR order.

    Raises:
        InvalidInputError: The file cannot be opened, or ends before `stop`.
    """
    with _open_video(path) as capture:
        rate_hz = believable_rate(capture.get(cv2.CAP_PROP_FPS))
        if start and not capture.set(cv2.CAP_PROP_POS_FRAMES, start):
            raise InvalidInputError(f"{path}: cannot go to frame {start}")
        index = start
        while (stop is None or index < stop) and capture.grab():
            if (index - start) % every == 0:
                readable, image = capture.retrieve()
                if readable:
                    time_s = None if rate_hz is None else index / rate_hz
                    yield index, time_s, np.asarray(image, np.uint8)
            index += 1
        if (stop is not None and index < stop) or index == 0:
            raise InvalidInputError(
                f"{path}: cannot read frame {index}; the file is damaged, or shorter "
                "than it states"
            )


def believable_rate(rate_hz: float) -> float | None:
    """Return a frame rate, or None if the file does not state a possible one.

    Args:
        rate_hz: Frames per second as the file states them.
    """
    is_known = math.isfinite(rate_hz) and (
        RATE_LIMITS_HZ[0] <= rate_hz <= RATE_LIMITS_HZ[1]
    )
    return rate_hz if is_known else None


@contextmanager
def _open_video(path: str) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(path)
    try:
        if not capture.isOpened():
            raise InvalidInputError(f"{path}: expected a video, OpenCV cannot open it")
        yield capture
    finally:
        capture.release()
