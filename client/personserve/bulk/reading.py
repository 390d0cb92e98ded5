"""Images and frames of items, with the boxes of their people."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve.bulk.answers import CORNERS
from personserve.bulk.items import Item
from personserve.bulk.sources import is_local
from personserve.images.crops import BoxError, IntBoxes, Pixels, pixel_boxes
from personserve.images.formats import MAX_IMAGE_BYTES
from personserve.images.inputs import read_pixels
from personserve.images.videos import read_span

Detector = Callable[[Pixels], npt.NDArray[np.float32]]
"""A function of UINT8 [H, W, 3] in BGR order that returns boxes [N, 4] in pixels."""

READ_ATTEMPTS = 3
RETRY_PAUSE_S = 0.5
"""Attempts to read a file that a file system or network fails to deliver, and the
pause between them."""

NOT_WORTH_A_RETRY = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


@dataclass(frozen=True)
class View:
    """An image or a frame, with the people in it.

    Attributes:
        frame: Index of the frame; None for an image.
        time_s: Time in the video in seconds; None for an image, or if unknown.
        pixels: UINT8 [H, W, 3] in BGR order.
        boxes: FP32 [N, 4] in pixels; None if the whole image is one person.
    """

    frame: int | None
    time_s: float | None
    pixels: Pixels
    boxes: npt.NDArray[np.float32] | None

    def crop(self, row: int) -> Pixels:
        """Return the pixels of a person, which are a view of the image.

        Args:
            row: Index of the box.

        Raises:
            InvalidInputError: The box has no area, or is outside the image.
        """
        if self.boxes is None:
            return self.pixels
        try:
            boxes: IntBoxes = pixel_boxes(
                self.boxes[row : row + 1], *self.pixels.shape[:2]
            )
        except BoxError as exc:
            # the box is the only one of its array, so its index says nothing
            raise InvalidInputError(str(exc).replace("box 0", "box", 1)) from exc
        ((x0, y0, x1, y1),) = boxes
        return self.pixels[y0:y1, x0:x1]


def read_views(item: Item, detector: Detector) -> Iterator[View]:
    """Read an item's image, or the frames of its span that have people.

    Args:
        item: The item.
        detector: Finds the people where the item has no boxes.

    Yields:
        The image, or each frame.

    Raises:
        InvalidInputError: A file cannot be read or decoded, or ends too early; the
            message names it.
    """
    if item.kind != "video":
        pixels = read_image(item.source)
        if item.kind == "crop":
            yield View(None, None, pixels, None)
        elif item.boxes is None:
            yield View(None, None, pixels, np.asarray(detector(pixels), np.float32))
        else:
            yield View(None, None, pixels, np.array(item.boxes, np.float32)[:, 1:])
        return
    boxes: dict[int, list[tuple[float, ...]]] = {}
    for row in item.boxes or ():
        boxes.setdefault(int(row[0]), []).append(row[1:])
    with LocalFile(item.source) as path:
        for frame, time_s, pixels in read_span(path, item.start, item.stop, item.every):
            people = boxes.get(frame, []) if item.boxes else detector(pixels)
            rows = np.asarray(people, np.float32).reshape(-1, 4)
            yield View(frame, time_s, pixels, rows)


def read_image(source: str) -> Pixels:
    """Read and decode an image through fsspec.

    Args:
        source: Path or URL.

    Returns:
        UINT8 [H, W, 3] in BGR order.

    Raises:
        InvalidInputError: The image is too large, cannot be read or decoded.
    """
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            return read_pixels(_read_bytes(source), source)
        except (ImportError, *NOT_WORTH_A_RETRY) as exc:
            raise InvalidInputError(f"cannot read {source}: {exc}") from exc
        except OSError as exc:
            if attempt == READ_ATTEMPTS:
                raise InvalidInputError(
                    f"cannot read {source} in {READ_ATTEMPTS} attempts: {exc}"
                ) from exc
            time.sleep(RETRY_PAUSE_S * attempt)
    raise AssertionError  # the loop returns or raises


def read_person(row: Mapping[str, Any]) -> Pixels:
    """Read the image of a person of a table of answers.

    Args:
        row: Source, frame and box.

    Returns:
        The crop, UINT8 [H, W, 3] in BGR order.

    Raises:
        InvalidInputError: The source is not there any more, or changed.
    """
    source, frame = row["source"], row["frame"]
    boxes = None
    if row["x0"] is not None:
        boxes = np.array([[row[name] for name in CORNERS]], np.float32)
    if frame is None:
        return View(None, None, read_image(source), boxes).crop(0)
    with LocalFile(source) as path:
        for _, time_s, pixels in read_span(path, frame, frame + 1):
            return View(frame, time_s, pixels, boxes).crop(0)
    raise InvalidInputError(f"cannot read frame {frame} of {source}")


class LocalFile:
    """A file as a path that OpenCV opens; one that is elsewhere is copied for a while.

    Args:
        source: Path or URL.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> str:
        if is_local(self._source):
            return self._source
        self._folder = tempfile.TemporaryDirectory(prefix="personserve-")
        suffix = PurePosixPath(self._source).suffix
        path = str(Path(self._folder.name) / f"video{suffix}")
        try:
            system, remote = fsspec.core.url_to_fs(self._source)
            system.get_file(remote, path)
        except (ImportError, OSError) as exc:
            self._folder.cleanup()
            raise InvalidInputError(f"cannot read {self._source}: {exc}") from exc
        return path

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _read_bytes(source: str) -> bytes:
    system, path = fsspec.core.url_to_fs(source)
    with system.open(path, "rb") as file:
        data: bytes = file.read(MAX_IMAGE_BYTES + 1)
    return data  # the gate refuses what is longer than the limit
