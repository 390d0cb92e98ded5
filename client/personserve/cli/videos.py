"""Video files, written in codecs that browsers play where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import cv2

from personserve._errors import InvalidInputError
from personserve.cli.frames import silent_opencv
from personserve.images.crops import Pixels
from personserve.internal.files import atomic_write

if TYPE_CHECKING:
    from typing_extensions import Self

OPENCV_CODECS = {
    ".webm": "VP80",
    ".avi": "mp4v",
    ".m4v": "mp4v",
    ".mkv": "mp4v",
    ".mov": "mp4v",
    ".mp4": "mp4v",
}
"""Codecs of OpenCV's wheel by suffix. VP9 is also in it, but takes 0.3 s for a frame of
768 x 576 on two cores, VP8 0.05 s."""

H264_SUFFIXES = frozenset((".m4v", ".mkv", ".mov", ".mp4"))

MPEG4_NOTE = (
    "MPEG-4 part 2, which browsers do not play; for them write .webm, or install "
    "PyAV (pip install av) or ffmpeg for H.264"
)


class Encoder(Protocol):
    """Writes frames of one size to a file.

    `codec` names the codec in messages.
    """

    codec: str

    def write(self, frame: Pixels) -> None:
        """Append a frame, UINT8 [H, W, 3] in BGR order, H and W even."""

    def close(self) -> None:
        """Complete the file."""


class VideoFile:
    """A video file that is written frame by frame and is in place when complete.

    What was written before an error of the block is kept, as a shorter video. Nothing
    is written if there were no frames.

    Args:
        path: File to write; its suffix chooses container and codec. With None, frames
            are discarded.
        rate_hz: Frames per second.

    Attributes:
        codec: Codec of the file, empty before the first frame.
    """

    def __init__(self, path: Path | None, rate_hz: float) -> None:
        self.codec = ""
        self._path = path
        self._rate_hz = rate_hz
        self._encoder: Encoder | None = None
        self._size_wh = (0, 0)
        if path is not None:
            if path.suffix.lower() not in OPENCV_CODECS:
                raise InvalidInputError(
                    f"{path}: cannot write {path.suffix or 'a file without suffix'} "
                    f"as video; expected {', '.join(sorted(OPENCV_CODECS))}"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            # encoders choose the container by the file's suffix
            name = f".{path.name}.{os.getpid()}{path.suffix.lower()}"
            self._partial = path.with_name(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._path is None or self._encoder is None:
            return
        try:
            self._encoder.close()
            with atomic_write(self._path) as partial:
                self._partial.replace(partial)
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, frame: Pixels, repeats: int = 1) -> None:
        """Append a frame; one of another size is resized to that of the first.

        Args:
            frame: UINT8 [H, W, 3] in BGR order.
            repeats: Number of times that the frame is appended.

        Raises:
            InvalidInputError: The file cannot be written.
        """
        if self._path is None:
            return
        if self._encoder is None:
            height, width = frame.shape[:2]
            self._size_wh = (width, height)
            # the colour planes of these codecs have half the size
            even_wh = (width + width % 2, height + height % 2)
            self._encoder = _open_encoder(self._partial, self._rate_hz, even_wh)
            self.codec = self._encoder.codec
        if (frame.shape[1], frame.shape[0]) != self._size_wh:
            frame = cv2.resize(frame, self._size_wh).astype("uint8", copy=False)
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = cv2.copyMakeBorder(
                frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE
            ).astype("uint8", copy=False)
        for _ in range(repeats):
            self._encoder.write(frame)


class _OpenCvEncoder:
    def __init__(self, path: Path, rate_hz: float, size_wh: tuple[int, int]) -> None:
        name = OPENCV_CODECS[path.suffix]
        self.codec = "VP8" if name == "VP80" else MPEG4_NOTE
        with silent_opencv():
            self._writer = cv2.VideoWriter(
                str(path), cv2.VideoWriter.fourcc(*name), rate_hz, size_wh
            )
        if not self._writer.isOpened():
            raise InvalidInputError(
                f"{path.parent}: OpenCV cannot write {path.suffix} videos here; is the "
                "folder writable? Otherwise try .webm or .mp4"
            )

    def write(self, frame: Pixels) -> None:
        self._writer.write(frame)

    def close(self) -> None:
        self._writer.release()


class _PyAvEncoder:
    codec = "H.264"

    def __init__(self, path: Path, rate_hz: float, size_wh: tuple[int, int]) -> None:
        import av  # type: ignore[import-not-found, unused-ignore]

        self._av = av
        self._container = av.open(str(path), "w")
        rate = Fraction(rate_hz).limit_denominator(1001)
        self._stream: Any = self._container.add_stream("libx264", rate=rate)
        self._stream.width, self._stream.height = size_wh
        self._stream.pix_fmt = "yuv420p"  # the only layout that all browsers play

    def write(self, frame: Pixels) -> None:
        image = self._av.VideoFrame.from_ndarray(frame, format="bgr24")
        self._container.mux(self._stream.encode(image))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


class _FfmpegEncoder:
    codec = "H.264"

    def __init__(self, path: Path, rate_hz: float, size_wh: tuple[int, int]) -> None:
        width, height = size_wh
        command = [
            *("ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo"),
            *("-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", f"{rate_hz:.6f}"),
            *("-i", "-", "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p"),
            *("-movflags", "+faststart", str(path)),
        ]
        # a session of its own, so that Ctrl-C does not end it before the last frame
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def write(self, frame: Pixels) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe, see above
        try:
            self._process.stdin.write(frame.tobytes())
        except BrokenPipeError as exc:
            raise InvalidInputError(f"ffmpeg failed: {self._wait()}") from exc

    def close(self) -> None:
        message = self._wait()
        if self._process.returncode:
            raise InvalidInputError(f"ffmpeg failed: {message}")

    def _wait(self) -> str:
        with suppress(BrokenPipeError, ValueError):
            _, errors = self._process.communicate()
            return errors.decode(errors="replace").strip()
        return f"exit code {self._process.wait()}"


def _open_encoder(path: Path, rate_hz: float, size_wh: tuple[int, int]) -> Encoder:
    """Open H.264 where there is an encoder for it, and a codec of OpenCV otherwise."""
    if path.suffix in H264_SUFFIXES:
        if _has_pyav():
            return _PyAvEncoder(path, rate_hz, size_wh)
        if shutil.which("ffmpeg") is not None:
            return _FfmpegEncoder(path, rate_hz, size_wh)
    return _OpenCvEncoder(path, rate_hz, size_wh)


def _has_pyav() -> bool:
    try:
        import av

        av.Codec("libx264", "w")
    except (ImportError, ValueError, AttributeError):  # missing, or without H.264
        return False
    return True
