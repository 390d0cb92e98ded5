"""Crops of persons for any network, with the arithmetic of the server."""

from __future__ import annotations

import numpy as np

from personserve._errors import InvalidInputError
from personserve.images.crops import (
    BoxError,
    CropShape,
    Pixels,
    cut_crops,
    pixel_boxes,
)
from personserve.images.inputs import Boxes, ImageInput, array_from_boxes, read_pixels


def cut_people(
    frame: ImageInput,
    boxes: Boxes,
    size: CropShape | tuple[int, int],
    *,
    interpolation: str = "linear",
) -> Pixels:
    """Cut people out of a frame and resize them, as the server does.

    Boxes grow to whole pixels and are clipped to the frame; crops are resized by OpenCV
    or, for the antialiased interpolations, as by Pillow, and are in RGB order. So
    `client.infer` with these crops gives the embeddings that `client.attributes` gives.

    Args:
        frame: The frame, in BGR order if it is an array; see `ImageInput`.
        boxes: The boxes; see `Boxes`.
        size: (height, width) of a crop in pixels, or what the server says of a network:
            `client.describe("person_reid_kd_r18").crop_shape("crops")`.
        interpolation: "linear", "cubic", "linear_antialias" or "cubic_antialias" (see
            `CropShape`), if `size` is (height, width).

    Returns:
        Crops in RGB order, UINT8 [N, height, width, 3].

    Raises:
        InvalidInputError: If the frame, a box, the size or the interpolation is
            invalid; the message names the box.
    """
    shape = size if isinstance(size, CropShape) else _shape_of(size, interpolation)
    pixels = read_pixels(frame, "frame")
    box_array = array_from_boxes(boxes)
    if len(box_array) == 0:
        return np.empty((0, shape.height, shape.width, 3), np.uint8)
    try:
        integer_boxes = pixel_boxes(box_array, *pixels.shape[:2])
    except BoxError as exc:
        raise InvalidInputError(str(exc)) from exc
    (crops,) = cut_crops(pixels, integer_boxes, [shape], order="BGR")
    return crops


def _shape_of(size: tuple[int, int], interpolation: str) -> CropShape:
    try:
        height, width = (int(edge) for edge in size)
        shape = CropShape(height, width, interpolation)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"size: expected (height, width) in pixels, got {size!r}: {exc}"
        ) from exc
    if min(height, width) < 1:
        raise InvalidInputError(
            f"size: expected a height and width of at least 1 pixel, got {size!r}"
        )
    return shape
