"""Answers drawn into pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from personserve._crops import Pixels
from personserve._errors import InvalidInputError
from personserve._files import atomic_write
from personserve._results import People, Person

if TYPE_CHECKING:
    from typing_extensions import Self

COLOURS = ((200, 120, 20), (113, 70, 230))
"""BGR of a female probability of 0 and of 1; what lies between is mixed."""

ABSTAINED_COLOUR = (90, 90, 90)
NOTE_COLOUR = (30, 30, 200)

VIDEO_RATE_HZ = 5.0

TILE_HW = (256, 128)
TILES_A_ROW = 8


def annotated(frame: Pixels, people: People) -> Pixels:
    """A copy of `frame` with each person's box, number, label and probability."""
    picture = frame.copy()
    scale = max(0.45, min(frame.shape[:2]) / 1100)
    thickness = max(1, round(scale * 2))
    for number, person in enumerate(people, start=1):
        x0, y0, x1, y1 = (round(value) for value in person.box or ())
        colour = _colour(person)
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, thickness)
        label = "?" if person.gender.abstained else person.gender.label
        text = f"{number} {label} {person.gender.probability:.2f}"
        _write(picture, text, (x0, y0), scale, colour)
    if people.stand_in_weights:
        text = "stand-in weights: untrained, the answers mean nothing"
        _write(picture, text, (0, picture.shape[0]), scale, NOTE_COLOUR)
    return picture


def contact_sheet(pictures: Sequence[tuple[str, Pixels]]) -> Pixels:
    """Pictures side by side, each with its title on it."""
    height, width = TILE_HW
    tiles = []
    for title, pixels in pictures:
        scale = min(height / pixels.shape[0], width / pixels.shape[1])
        size_wh = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        tile = np.full((height, width, 3), 255, np.uint8)
        tile[: size_wh[1], : size_wh[0]] = cv2.resize(pixels, size_wh)
        _write(tile, title, (0, height), 0.4, NOTE_COLOUR)
        tiles.append(tile)
    blank = np.full_like(tiles[0], 255)
    columns = min(TILES_A_ROW, len(tiles))
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def write_picture(path: Path, picture: Pixels) -> None:
    """Write `picture` in the format of the file's suffix. Raises InvalidInputError."""
    try:
        encoded, data = cv2.imencode(path.suffix or ".jpg", picture)
    except cv2.error:
        encoded = False
    if not encoded:
        raise InvalidInputError(f"{path}: OpenCV cannot write {path.suffix} pictures")
    with atomic_write(path) as partial:
        partial.write_bytes(data.tobytes())


class VideoFile:
    """A video that is written frame by frame, and appears when it is complete. Without
    a `path` it goes nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stack = ExitStack()
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            partial = self._stack.enter_context(atomic_write(self._path))
            # OpenCV chooses the container by the file's suffix
            self._temporary = partial.with_suffix(self._path.suffix)
            self._stack.callback(self._finish, partial)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, frame: Pixels) -> None:
        """Add `frame`. Raises InvalidInputError for a suffix that OpenCV lacks."""
        if self._path is None:
            return
        if self._writer is None:
            size_wh = (frame.shape[1], frame.shape[0])
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(
                str(self._temporary), codec, VIDEO_RATE_HZ, size_wh
            )
            if not self._writer.isOpened():
                raise InvalidInputError(
                    f"{self._path}: OpenCV cannot write {self._path.suffix} videos; "
                    "try .mp4"
                )
        self._writer.write(frame)

    def _finish(self, partial: Path) -> None:
        if self._writer is not None:
            self._writer.release()
        if self._temporary.exists():
            self._temporary.replace(partial)


def _colour(person: Person) -> tuple[int, int, int]:
    if person.gender.abstained:
        return ABSTAINED_COLOUR
    share = person.gender.female_probability
    blue, green, red = (
        round(a + share * (b - a)) for a, b in zip(*COLOURS, strict=True)
    )
    return blue, green, red


def _write(
    picture: Pixels,
    text: str,
    bottom_left: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int],
) -> None:
    """White text on a strip of `colour`, kept inside the picture."""
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(scale * 1.5))
    (width, height), base = cv2.getTextSize(text, font, scale, thickness)
    x = max(0, min(bottom_left[0], picture.shape[1] - width - 4))
    y = max(height + base + 2, bottom_left[1])
    corner = (x + width + 4, y - height - base - 2)
    cv2.rectangle(picture, (x, y), corner, colour, cv2.FILLED)
    cv2.putText(
        picture,
        text,
        (x + 2, y - base),
        font,
        scale,
        (255, 255, 255),
        thickness,
        cv2.LINE_AA,
    )
