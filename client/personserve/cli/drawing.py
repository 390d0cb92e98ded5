"""Contact sheets, and image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from personserve._errors import InvalidInputError
from personserve.images.crops import Pixels
from personserve.images.drawing import draw_text, measure_text
from personserve.internal.files import atomic_write

TITLE_COLOUR = (30, 30, 200)
TITLE_SCALE = 0.4

TILE_HW = (256, 128)
TILES_PER_ROW = 8


def draw_contact_sheet(rows: Sequence[Sequence[tuple[str, Pixels]]]) -> Pixels:
    """Draw images in a grid, each with its title.

    Args:
        rows: (title, UINT8 [H, W, 3] in BGR order) of each image; at least one in each
            row. A row starts a new line of the grid.

    Returns:
        UINT8 [H, W, 3] in BGR order, up to TILES_PER_ROW images in a line.
    """
    columns = min(TILES_PER_ROW, max(len(row) for row in rows))
    blank = np.full((*TILE_HW, 3), 255, np.uint8)
    lines = []
    for row in rows:
        tiles = [_draw_tile(title, pixels) for title, pixels in row]
        tiles += [blank] * (-len(tiles) % columns)
        lines += [
            np.hstack(tiles[start : start + columns])
            for start in range(0, len(tiles), columns)
        ]
    return np.vstack(lines)


def write_image(path: Path, image: Pixels) -> None:
    """Write an image file, atomically.

    Args:
        path: File to write; its suffix chooses the format, JPEG without a suffix.
        image: UINT8 [H, W, 3] in BGR order.

    Raises:
        InvalidInputError: OpenCV has no encoder for the suffix.
    """
    try:
        encoded, data = cv2.imencode(path.suffix or ".jpg", image)
    except cv2.error:
        encoded = False
    if not encoded:
        raise InvalidInputError(f"{path}: OpenCV cannot write {path.suffix} images")
    with atomic_write(path) as partial:
        partial.write_bytes(data.tobytes())


def _draw_tile(title: str, pixels: Pixels) -> Pixels:
    height, width = TILE_HW
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    new_width = max(1, round(pixels.shape[1] * scale))
    new_height = max(1, round(pixels.shape[0] * scale))
    tile = np.full((height, width, 3), 255, np.uint8)
    tile[:new_height, :new_width] = cv2.resize(pixels, (new_width, new_height))
    text_width, text_height = measure_text(title, TITLE_SCALE)
    strip = (0, height - text_height, min(width, text_width), height)
    draw_text(tile, title, strip, TITLE_SCALE, TITLE_COLOUR)
    return tile
