"""Pictures of a data set: read with care, cropped as the model wants, and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from personserve._crops import CropShape, resized

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 256 << 20

TILE_HW = (160, 80)
CAPTION_PIXELS = 14
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


class UnreadablePictureError(ValueError):
    """A file that is not a picture, or too large a one."""


def read_picture(path: Path) -> Pixels:
    """BGR pixels [H, W, 3]. Raises UnreadablePictureError."""
    from PIL import Image

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnreadablePictureError(f"{path}: more than {MAX_FILE_BYTES:,} bytes")
        with Image.open(path) as header:
            pixels = header.width * header.height
        if pixels > MAX_PIXELS:
            raise UnreadablePictureError(f"{path}: {pixels:,} pixels")
        data = np.fromfile(path, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as exc:
        raise UnreadablePictureError(f"{path}: {exc}") from exc
    if picture is None:
        raise UnreadablePictureError(f"{path}: OpenCV cannot decode it")
    return np.asarray(picture, np.uint8)


def read_crop(path: Path, shape: CropShape) -> Pixels:
    """The whole picture as an RGB crop. Raises UnreadablePictureError."""
    crop = resized(read_picture(path), shape)
    cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=crop)
    return crop


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet; `colour` is BGR."""

    path: Path
    caption: str
    colour: tuple[int, int, int]


def sheet(rows: Sequence[Sequence[Tile]]) -> Pixels:
    """Rows of captioned pictures as one, BGR. A picture that cannot be read is grey."""
    height, width = TILE_HW
    columns = max(len(row) for row in rows)
    canvas = np.full(
        (len(rows) * (height + CAPTION_PIXELS), columns * width, 3), 255, np.uint8
    )
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            top, left = i * (height + CAPTION_PIXELS), j * width
            cell = canvas[top : top + height + CAPTION_PIXELS, left : left + width]
            cell[:height] = _letterboxed(tile.path)
            corner = (width - 2, height - 2)
            cv2.rectangle(cell, (1, 1), corner, tile.colour, 2)
            cv2.putText(
                cell,
                tile.caption,
                (3, height + CAPTION_PIXELS - 4),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.32,
                BLACK,
                1,
                cv2.LINE_AA,
            )
    return canvas


def _letterboxed(path: Path) -> Pixels:
    height, width = TILE_HW
    tile = np.full((height, width, 3), 200, np.uint8)
    try:
        picture = read_picture(path)
    except UnreadablePictureError:
        return tile
    scale = min(height / picture.shape[0], width / picture.shape[1])
    size_wh = (
        max(1, int(picture.shape[1] * scale)),
        max(1, int(picture.shape[0] * scale)),
    )
    small = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA)
    top, left = (height - size_wh[1]) // 2, (width - size_wh[0]) // 2
    tile[top : top + size_wh[1], left : left + size_wh[0]] = small
    return tile
