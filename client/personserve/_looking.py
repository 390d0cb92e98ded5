"""Where people are looked for: pictures, videos, cameras, and who finds them.

OpenCV's HOG detector (upright pedestrians) stands for the detector that users bring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from personserve._crops import Pixels
from personserve._errors import InvalidInputError
from personserve._pictures import as_boxes, as_pixels

FloatBoxes = npt.NDArray[np.float32]

VIDEO_SUFFIXES = frozenset((".avi", ".mkv", ".mov", ".mp4", ".webm"))

PICTURE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".webp"))

HOG_MARGIN_WH = (0.15, 0.05)
"""HOG's windows leave this share of the person's width and height empty on each side
(its training windows did).
"""


@dataclass(frozen=True)
class Frame:
    """A picture, or one of a video, and the people found in it."""

    name: str
    pixels: Pixels
    boxes: FloatBoxes


def is_video(source: str) -> bool:
    """Whether `source` is a video file, a camera's number or a stream's address."""
    return (
        source.isdigit()
        or "://" in source
        or Path(source).suffix.lower() in VIDEO_SUFFIXES
    )


def picture_of(source: str, boxes: FloatBoxes | None) -> Frame:
    """The picture at `source`. Raises InvalidInputError."""
    pixels = as_pixels(source, "picture")
    found = find_people(pixels) if boxes is None else boxes
    return Frame(Path(source).name, pixels, found)


def frame_count(source: str, frames: int | None) -> int | None:
    """How many frames `frames_of` will give; None where nobody knows."""
    capture = _opened(source)
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    if total < 1:
        return frames
    return total if frames is None else min(frames, total)


def frames_of(source: str, frames: int | None) -> Iterator[Frame]:
    """All of a video's frames, or so many, evenly spread; of a camera the next.

    Raises InvalidInputError.
    """
    capture = _opened(source)
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        spread = None
        if frames is not None and total > 0:
            spread = set(np.linspace(0, total - 1, min(frames, total)).astype(int))
        index = given = 0
        while capture.grab() and (frames is None or given < frames):
            if spread is None or index in spread:
                readable, read = capture.retrieve()
                if readable:
                    pixels = np.asarray(read, np.uint8)
                    yield Frame(f"frame {index}", pixels, find_people(pixels))
                    given += 1
            index += 1
    finally:
        capture.release()


def pictures_in(folder: Path) -> list[Path]:
    """Pictures at any depth, sorted. Raises InvalidInputError where there are none."""
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    )
    if not found:
        raise InvalidInputError(
            f"{folder}: no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})"
        )
    return found


def parsed_boxes(text: str) -> FloatBoxes:
    """'x0,y0,x1,y1 x0,y0,x1,y1' as [N, 4]. Raises InvalidInputError."""
    try:
        rows = [[float(value) for value in box.split(",")] for box in text.split()]
        return as_boxes(rows)
    except ValueError as exc:
        raise InvalidInputError(
            f"boxes {text!r}: expected 'x0,y0,x1,y1', several divided by spaces"
        ) from exc


def find_people(frame: Pixels) -> FloatBoxes:
    """Boxes [N, 4] of upright people, by OpenCV's HOG detector."""
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector()))
    found, _ = hog.detectMultiScale(frame, winStride=(8, 8), padding=(8, 8), scale=1.05)
    x, y, width, height = np.array(found, np.float32).reshape(-1, 4).T
    dx, dy = HOG_MARGIN_WH[0] * width, HOG_MARGIN_WH[1] * height
    return np.stack([x + dx, y + dy, x + width - dx, y + height - dy], axis=1)


def _opened(source: str) -> cv2.VideoCapture:
    if not source.isdigit() and "://" not in source and not Path(source).is_file():
        raise InvalidInputError(f"{source}: no such file")
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise InvalidInputError(f"{source}: OpenCV cannot read it as a video or camera")
    return capture
