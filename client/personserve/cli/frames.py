"""Frames of videos, cameras and streams, read with OpenCV."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from personserve._errors import InvalidInputError
from personserve.cli.detection import FloatBoxes, detect_people
from personserve.cli.sources import Kind, Source
from personserve.images.crops import Pixels
from personserve.images.videos import believable_rate

if TYPE_CHECKING:
    from typing_extensions import Self

STREAM_TIMEOUT_MS = 10_000
"""Time in which a stream has to open, and to send its next frame."""

POLL_S = 0.2


@dataclass(frozen=True)
class Frame:
    """An image, or one frame of a video, and the people in it.

    Attributes:
        name: File name of an image, "frame 0" and so on of a video.
        pixels: UINT8 [H, W, 3] in BGR order.
        boxes: FP32 [N, 4], (x0, y0, x1, y1) in pixels.
        index: Position in the video, None for an image.
        time_s: Time in the video, or since a camera was opened, in seconds; None for
            an image and where the frame rate is unknown.
    """

    name: str
    pixels: Pixels
    boxes: FloatBoxes
    index: int | None = None
    time_s: float | None = None


class Video:
    """A video file, a camera or a stream that is open.

    Args:
        source: What to open.

    Attributes:
        source: What was opened.
        rate_hz: Frames per second, None if unknown.
        frame_count: Number of frames, None if unknown.
        is_live: Whether it is a camera or a stream, which has no end.

    Raises:
        InvalidInputError: OpenCV cannot open the source.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._capture = _open_capture(source)
        self._has_reader = False
        self.rate_hz = believable_rate(self._capture.get(cv2.CAP_PROP_FPS))
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = count if count > 0 else None
        self.is_live = self.frame_count is None and (
            source.kind is Kind.CAMERA or "://" in source.name
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._has_reader:
            self._capture.release()

    def count(self, limit: int | None) -> int | None:
        """Return how many frames `read` will yield, None if unknown.

        Args:
            limit: As of `read`.
        """
        if limit is None or self.frame_count is None:
            return self.frame_count if limit is None else limit
        return min(limit, self.frame_count)

    def read(self, limit: int | None, stop: threading.Event) -> Iterator[Frame]:
        """Read the frames and detect the people in each.

        Of a live source the latest frame is taken each time, so that a slow analysis
        skips frames and does not fall behind.

        Args:
            limit: Number of frames, evenly spaced over a video file, or the next ones
                of a live source; None for all.
            stop: Ends the frames early when it is set.

        Yields:
            The frames in order.
        """
        images = self._read_latest(stop) if self.is_live else self._read_selected(limit)
        for count, (index, time_s, pixels) in enumerate(images, start=1):
            yield Frame(f"frame {index}", pixels, detect_people(pixels), index, time_s)
            if stop.is_set() or count == limit:
                return

    def _read_selected(
        self, limit: int | None
    ) -> Iterator[tuple[int, float | None, Pixels]]:
        """Yield all frames of a file, or `limit` evenly spaced ones."""
        selection = None
        if limit is not None and self.frame_count is not None:
            number = min(limit, self.frame_count)
            selection = set(np.linspace(0, self.frame_count - 1, number).astype(int))
        index = 0
        while self._capture.grab():
            if selection is None or index in selection:
                readable, image = self._capture.retrieve()
                if readable:
                    time_s = None if self.rate_hz is None else index / self.rate_hz
                    yield index, time_s, np.asarray(image, np.uint8)
            index += 1

    def _read_latest(
        self, stop: threading.Event
    ) -> Iterator[tuple[int, float, Pixels]]:
        self._has_reader = True  # a thread, which releases the source at its end
        with _LatestFrame(self._capture) as latest:
            while not stop.is_set() and (frame := latest.take(stop)) is not None:
                yield frame


class _LatestFrame:
    """A thread that reads a live source and keeps its latest frame."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._changed = threading.Condition()
        self._frame: tuple[int, float, Pixels] | None = None
        self._ended = False
        # a daemon, because a stalled stream blocks it for STREAM_TIMEOUT_MS
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended = True
        self._thread.join(POLL_S)

    def take(self, stop: threading.Event) -> tuple[int, float, Pixels] | None:
        """Wait for a frame that was not taken yet; None at the end."""
        with self._changed:
            while self._frame is None and not self._ended and not stop.is_set():
                self._changed.wait(POLL_S)
            frame, self._frame = self._frame, None
        return frame

    def _run(self) -> None:
        start_s = time.monotonic()
        index = 0
        while not self._ended and self._capture.grab():
            readable, image = self._capture.retrieve()
            if readable:
                elapsed_s = time.monotonic() - start_s
                with self._changed:
                    self._frame = index, elapsed_s, np.asarray(image, np.uint8)
                    self._changed.notify()
            index += 1
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._capture.release()


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Hide what OpenCV and FFmpeg write to standard error while they open something.

    Their lines repeat, less clearly, what our messages say. Some are printed by C code
    whatever the log level, so the file descriptor itself is redirected.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        cv2.setLogLevel(level)


def _open_capture(source: Source) -> cv2.VideoCapture:
    with silent_opencv():
        if source.kind is Kind.CAMERA:
            capture = cv2.VideoCapture(int(source.name))
        elif "://" in source.name:
            timeouts = [
                *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT_MS),
                *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, STREAM_TIMEOUT_MS),
            ]
            capture = cv2.VideoCapture(source.name, cv2.CAP_FFMPEG, timeouts)
        else:
            capture = cv2.VideoCapture(source.name)
    if capture.isOpened():
        return capture
    if source.kind is Kind.CAMERA:
        raise InvalidInputError(f"camera {source.name}: {_describe_cameras()}")
    if "://" in source.name:
        raise InvalidInputError(
            f"{source.name}: OpenCV cannot open this stream; is the address right, and "
            f"does it answer within {STREAM_TIMEOUT_MS // 1000} s?"
        )
    raise InvalidInputError(f"{source.name}: OpenCV cannot read it as a video")


def _describe_cameras() -> str:
    devices: list[str] = []
    with suppress(OSError):
        devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    if devices:
        return (
            "OpenCV cannot open it; devices here: " + ", ".join(devices) + ". Does "
            "another program use it, and may this user read it?"
        )
    return "no camera is connected to this machine"
