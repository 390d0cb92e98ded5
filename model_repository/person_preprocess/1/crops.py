# Rendered by `python -m builders render` from client/personserve/images/crops.py; edit that file.
"""Cropping: cut boxes out of a frame and resize them for the networks.

The client imports this file, and the model repository holds a copy of it next to the
preprocessing model, so the same frame and boxes give the same pixels on both sides.
It and antialias.py import NumPy and OpenCV only, which the server's Python has.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from antialias import FILTERS, resize_antialiased

Pixels = npt.NDArray[np.uint8]
IntBoxes = npt.NDArray[np.intp]

OPENCV_FLAGS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
INTERPOLATIONS = (*OPENCV_FLAGS, *FILTERS)

CROPS_PER_TASK = 8
"""Crops per thread pool task; for fewer, a second thread costs more than it saves."""


class BoxError(ValueError):
    """Boxes of a wrong shape, or a box that is empty or outside the frame."""


@dataclass(frozen=True)
class CropShape:
    """The size of a network's crops, and how images are resized to it.

    Attributes:
        height: Height of a crop in pixels.
        width: Width of a crop in pixels.
        interpolation: "linear" or "cubic" as OpenCV, or "linear_antialias" or
            "cubic_antialias" as Pillow (BILINEAR, BICUBIC).
        shorter_edge: If given, an image keeps its proportions: its shorter edge is
            resized to this many pixels, and the crop is cut from its centre.
            Otherwise the image is stretched to height x width.
    """

    height: int
    width: int
    interpolation: str
    shorter_edge: int | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation {self.interpolation!r}: expected one of "
                f"{', '.join(INTERPOLATIONS)}"
            )


def pixel_boxes(boxes: npt.NDArray[Any], height: int, width: int) -> IntBoxes:
    """Grow boxes to whole pixels and clip them to the frame.

    Args:
        boxes: Numbers [N, 4], (x0, y0, x1, y1) in pixels.
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.

    Returns:
        Integers [N, 4], each box with at least one pixel.

    Raises:
        BoxError: Another shape, or a box that is not finite, has no area or is
            outside the frame; the first such box is named by its index.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise BoxError(f"boxes: expected shape [N, 4], got {list(boxes.shape)}")
    x0, y0, x1, y1 = (boxes[:, i].astype(np.float64) for i in range(4))
    _refuse_first(~np.isfinite(boxes).all(axis=1), boxes, "is not finite")
    _refuse_first(
        (x0 >= x1) | (y0 >= y1), boxes, "has no area; expected x0 < x1, y0 < y1"
    )
    _refuse_first(
        (x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height),
        boxes,
        f"is outside the frame of {width}x{height} pixels",
    )
    clipped = (
        np.floor(np.clip(x0, 0, width)),
        np.floor(np.clip(y0, 0, height)),
        np.ceil(np.clip(x1, 0, width)),
        np.ceil(np.clip(y1, 0, height)),
    )
    pixels: IntBoxes = np.stack(clipped, axis=1).astype(np.intp)
    return pixels


def _refuse_first(
    bad: npt.NDArray[np.bool_], boxes: npt.NDArray[Any], why: str
) -> None:
    if bad.any():
        index = int(np.argmax(bad))
        values = ", ".join(f"{value:g}" for value in boxes[index])
        raise BoxError(f"box {index} ({values}) {why}")


def cut_crops(
    frame: Pixels,
    boxes: IntBoxes,
    shapes: Sequence[CropShape],
    *,
    order: Literal["BGR", "RGB"],
    pool: Executor | None = None,
) -> list[Pixels]:
    """Cut boxes out of a frame and resize them for one or more networks.

    Args:
        frame: UINT8 [H, W, 3].
        boxes: Integers [N, 4] inside the frame, as pixel_boxes returns.
        shapes: One crop shape for each network.
        order: Channel order of the frame.
        pool: Executor that cuts several crops at a time; OpenCV releases the GIL.

    Returns:
        For each shape, RGB crops UINT8 [N, height, width, 3].
    """
    crops = [np.empty((len(boxes), s.height, s.width, 3), np.uint8) for s in shapes]

    def cut_task(start: int) -> None:
        for index in range(start, min(start + CROPS_PER_TASK, len(boxes))):
            x0, y0, x1, y1 = boxes[index]
            for shape, out in zip(shapes, crops, strict=True):
                _resize_into(frame[y0:y1, x0:x1], out[index], shape)

    starts = range(0, len(boxes), CROPS_PER_TASK)
    tasks = map(cut_task, starts) if pool is None else pool.map(cut_task, starts)
    for _ in tasks:  # raises what a task raised
        pass
    if order == "BGR":
        for out in crops:
            swap_channels(out)
    return crops


def resize_image(image: Pixels, shape: CropShape) -> Pixels:
    """Resize a whole image to one crop.

    Args:
        image: UINT8 [H, W, 3], in any channel order.
        shape: Size and interpolation of the crop.

    Returns:
        UINT8 [height, width, 3] in the same channel order.
    """
    out = np.empty((shape.height, shape.width, 3), np.uint8)
    _resize_into(image, out, shape)
    return out


def swap_channels(crops: Pixels) -> None:
    """Swap BGR and RGB in place.

    Args:
        crops: Contiguous UINT8 [N, H, W, 3].
    """
    rows = crops.reshape(-1, crops.shape[-2], 3)
    cv2.cvtColor(rows, cv2.COLOR_BGR2RGB, dst=rows)


def _resize_into(image: Pixels, out: Pixels, shape: CropShape) -> None:
    size_wh = shape.width, shape.height
    flag = OPENCV_FLAGS.get(shape.interpolation)
    if shape.shorter_edge is not None:
        out[...] = _resize_and_cut(image, shape, shape.shorter_edge)
    elif flag is None:
        out[...] = resize_antialiased(image, size_wh, shape.interpolation)
    else:
        cv2.resize(image, size_wh, dst=out, interpolation=flag)


def _resize_and_cut(image: Pixels, shape: CropShape, shorter_edge: int) -> Pixels:
    height, width = image.shape[:2]
    scale = shorter_edge / min(height, width)
    size_wh = (int(width * scale + 0.5), int(height * scale + 0.5))
    resized = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    whole = CropShape(size_wh[1], size_wh[0], shape.interpolation)
    _resize_into(image, resized, whole)
    top = (resized.shape[0] - shape.height) // 2
    left = (resized.shape[1] - shape.width) // 2
    return resized[top : top + shape.height, left : left + shape.width]
