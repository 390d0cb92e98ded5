"""Thumbnails of people, from images that results refer to and do not keep alive."""

from __future__ import annotations

import weakref
from base64 import b64encode
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from personserve._errors import InvalidInputError
from personserve.images.crops import BoxError, Pixels, pixel_boxes
from personserve.images.inputs import read_pixels

THUMBNAIL_HEIGHT = 96
"""Height of a thumbnail in pixels."""

MAX_THUMBNAIL_WIDTH = 192

Box = tuple[float, float, float, float]


class ImageReference:
    """A reference to a caller's image that does not keep its pixels in memory.

    Results of a long video refer to its frames, but must not hold them. An array or a
    PIL image is found again as long as the caller has it, and a file as long as it is
    there. Encoded bytes cannot be referred to.

    Args:
        image: See personserve.ImageInput; None for no image.
    """

    __slots__ = ("_get",)

    def __init__(self, image: Any = None) -> None:
        self._get: Callable[[], Any] = _no_image
        if isinstance(image, str | PathLike):
            path = Path(image).absolute()
            self._get = lambda: path
        elif image is not None:
            try:
                self._get = weakref.ref(image)
            except TypeError:  # bytes
                self._get = _no_image

    def get(self) -> Any:
        """Return the image, or None if it does not exist any more."""
        return self._get()

    def __reduce__(self) -> tuple[type[ImageReference], tuple[Path | None]]:
        """Keep the path of a file; an array is in this process only."""
        image = self.get()
        return ImageReference, (image if isinstance(image, Path) else None,)


def render_thumbnails(
    people: Sequence[tuple[ImageReference | None, Box | None]],
) -> list[str | None]:
    """Render a thumbnail of each person.

    Args:
        people: For each person the image and the box in it; the whole image if the box
            is None.

    Returns:
        For each person a data URI of a JPEG, or None if there is no image any more.
    """
    images: dict[int, Pixels | None] = {}
    thumbnails = []
    for reference, box in people:
        key = id(reference)
        if key not in images:
            images[key] = _load(reference)
        thumbnails.append(_render(images[key], box))
    return thumbnails


def _load(reference: ImageReference | None) -> Pixels | None:
    image = None if reference is None else reference.get()
    if image is None:
        return None
    try:
        return read_pixels(image, "frame")
    except InvalidInputError:  # a file that was replaced or removed
        return None


def _render(image: Pixels | None, box: Box | None) -> str | None:
    if image is None:
        return None
    if box is not None:
        try:
            ((x0, y0, x1, y1),) = pixel_boxes(np.array([box]), *image.shape[:2])
        except BoxError:
            return None
        image = image[y0:y1, x0:x1]
    scale = min(THUMBNAIL_HEIGHT / image.shape[0], MAX_THUMBNAIL_WIDTH / image.shape[1])
    size_wh = tuple(max(1, round(edge * scale)) for edge in image.shape[1::-1])
    small = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    encoded, data = cv2.imencode(".jpg", small)
    if not encoded:
        return None
    return f"data:image/jpeg;base64,{b64encode(data.tobytes()).decode()}"


def _no_image() -> None:
    return None
