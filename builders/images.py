"""Image files: reading them within limits, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from builders.errors import BuildersError
from personserve import InvalidInputError
from personserve.images.crops import CropShape, resize_image
from personserve.images.formats import (
    ACCEPTED_FORMATS,
    IMAGE_SUFFIXES,
    REFUSED_SUFFIXES,
)
from personserve.images.inputs import read_pixels

Pixels = npt.NDArray[np.uint8]

TILE_HW = (160, 80)
CAPTION_PX = 14
WHITE, GREY, BLACK = 255, 200, (0, 0, 0)


class UnreadableImageError(BuildersError, ValueError):
    """A file that is not a supported image, or an image over the limits."""


def find_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """List the image files in a folder.

    Args:
        folder: An existing folder.
        recursive: Search all folders below it too.

    Returns:
        Paths, sorted. Files that are no images are left out.

    Raises:
        UnreadableImageError: If an image has a format that is not accepted. It would
            otherwise be missing from a data set without notice.
    """
    paths = sorted(folder.rglob("*") if recursive else folder.iterdir())
    for path in paths:
        if path.suffix.lower() in REFUSED_SUFFIXES:
            raise UnreadableImageError(
                f"{path}: {path.suffix} images are not accepted; convert to "
                f"{ACCEPTED_FORMATS}, or move the file away"
            )
    return [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]


def read_image(path: Path) -> Pixels:
    """Read and decode an image file, within the limits of personserve.images.formats.

    Args:
        path: A JPEG, PNG or WebP file.

    Returns:
        BGR pixels, UINT8 [height, width, 3].

    Raises:
        UnreadableImageError: If the file cannot be read or decoded, has another format,
            or is over the limits.
    """
    try:
        return read_pixels(path, str(path))
    except InvalidInputError as exc:
        raise UnreadableImageError(str(exc)) from exc


def read_crop(path: Path, shape: CropShape) -> Pixels:
    """Read a whole image as one network input.

    Args:
        path: An image file.
        shape: Size and interpolation that the network expects.

    Returns:
        RGB pixels, UINT8 [shape.height, shape.width, 3].

    Raises:
        UnreadableImageError: If the file cannot be read or decoded, or is over the
            limits.
    """
    crop = resize_image(read_image(path), shape)
    cv2.cvtColor(crop, cv2.COLOR_BGR2RGB, dst=crop)
    return crop


@dataclass(frozen=True)
class Tile:
    """One captioned image of a contact sheet.

    Attributes:
        path: The image file.
        caption: Text below the image.
        colour: BGR colour of the frame around the image.
    """

    path: Path
    caption: str
    colour: tuple[int, int, int]


def draw_contact_sheet(rows: Sequence[Sequence[Tile]]) -> Pixels:
    """Draw rows of captioned, framed images. An unreadable image becomes grey.

    The client's command line has a contact sheet too, of pixels with a title each, one
    after the other. Here a row is a query with its answers or a group of mistakes, and
    the frame's colour is the verdict.

    Args:
        rows: Tiles from top to bottom; rows may differ in length.

    Returns:
        BGR pixels, UINT8 [height, width, 3].
    """
    height, width = TILE_HW
    cell_height = height + CAPTION_PX
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * cell_height, columns * width, 3), WHITE, np.uint8)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            top, left = i * cell_height, j * width
            _draw_tile(sheet[top : top + cell_height, left : left + width], tile)
    return sheet


def _draw_tile(cell: Pixels, tile: Tile) -> None:
    height, width = TILE_HW
    cell[:height] = _read_letterboxed(tile.path)
    cv2.rectangle(cell, (1, 1), (width - 2, height - 2), tile.colour, 2)
    cv2.putText(
        cell,
        tile.caption,
        (3, height + CAPTION_PX - 4),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.32,
        BLACK,
        1,
        cv2.LINE_AA,
    )


def _read_letterboxed(path: Path) -> Pixels:
    height, width = TILE_HW
    tile = np.full((height, width, 3), GREY, np.uint8)
    try:
        image = read_image(path)
    except UnreadableImageError:
        return tile
    scale = min(height / image.shape[0], width / image.shape[1])
    size_wh = (
        max(1, int(image.shape[1] * scale)),
        max(1, int(image.shape[0] * scale)),
    )
    small = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    top, left = (height - size_wh[1]) // 2, (width - size_wh[0]) // 2
    tile[top : top + size_wh[1], left : left + size_wh[0]] = small
    return tile
