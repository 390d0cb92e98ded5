"""Cutting people out of a frame: the one place that knows how.

The client and the server's preprocessing model both run this file, so the same frame
and boxes give the same pixels wherever they are cut. Needs NumPy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
IntBoxes = npt.NDArray[np.intp]

INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}

CROPS_PER_TASK = 8
"""Below this many crops a second thread costs more than it saves."""


class BoxError(ValueError):
    """Boxes that do not describe people in the frame."""


@dataclass(frozen=True)
class CropShape:
    """What one network wants: crops of height x width, resized by `interpolation`
    ("linear" or "cubic"). With `shorter_edge` a picture keeps its proportions: its
    shorter edge becomes so many pixels, and the crop is its centre.
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
    """`boxes` [N, 4] (x0, y0, x1, y1) in pixels, grown to whole pixels and clipped to
    a frame of height x width.

    Raises BoxError naming the first box that is not finite, has no area, or lies
    outside the frame.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise BoxError(f"boxes: expected shape [N, 4], got {list(boxes.shape)}")
    x0, y0, x1, y1 = (boxes[:, i].astype(np.float64) for i in range(4))
    _refuse(~np.isfinite(boxes).all(axis=1), boxes, "is not finite")
    _refuse((x0 >= x1) | (y0 >= y1), boxes, "has no area; expected x0 < x1, y0 < y1")
    _refuse(
        (x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height),
        boxes,
        f"lies outside the frame of {width}x{height} pixels",
    )
    clipped = (
        np.floor(np.clip(x0, 0, width)),
        np.floor(np.clip(y0, 0, height)),
        np.ceil(np.clip(x1, 0, width)),
        np.ceil(np.clip(y1, 0, height)),
    )
    whole: IntBoxes = np.stack(clipped, axis=1).astype(np.intp)
    return whole


def _refuse(bad: npt.NDArray[np.bool_], boxes: npt.NDArray[Any], why: str) -> None:
    if bad.any():
        index = int(np.argmax(bad))
        values = ", ".join(f"{value:g}" for value in boxes[index])
        raise BoxError(f"box {index} ({values}) {why}")


def cut(
    frame: Pixels,
    boxes: IntBoxes,
    shapes: Sequence[CropShape],
    *,
    order: Literal["BGR", "RGB"],
    pool: Executor | None = None,
) -> list[Pixels]:
    """For each of `shapes`, the crops of `boxes` as RGB [N, height, width, 3].

    `frame` is [H, W, 3] in channel order `order`; crops are resized straight into the
    result, several at a time where there is a `pool` (OpenCV lets go of the GIL).
    """
    crops = [np.empty((len(boxes), s.height, s.width, 3), np.uint8) for s in shapes]

    def run(start: int) -> None:
        for index in range(start, min(start + CROPS_PER_TASK, len(boxes))):
            x0, y0, x1, y1 = boxes[index]
            for shape, out in zip(shapes, crops, strict=True):
                _resize_into(frame[y0:y1, x0:x1], out[index], shape)

    starts = range(0, len(boxes), CROPS_PER_TASK)
    for _ in map(run, starts) if pool is None else pool.map(run, starts):
        pass
    if order == "BGR":
        for out in crops:
            swap_channels(out)
    return crops


def resized(picture: Pixels, shape: CropShape) -> Pixels:
    """A whole picture [H, W, 3] as one crop of `shape`."""
    out = np.empty((shape.height, shape.width, 3), np.uint8)
    _resize_into(picture, out, shape)
    return out


def swap_channels(crops: Pixels) -> None:
    """BGR <-> RGB of contiguous [N, H, W, 3], in place."""
    rows = crops.reshape(-1, crops.shape[-2], 3)
    cv2.cvtColor(rows, cv2.COLOR_BGR2RGB, dst=rows)


def _resize_into(picture: Pixels, out: Pixels, shape: CropShape) -> None:
    if shape.shorter_edge is not None:
        height, width = picture.shape[:2]
        scale = shape.shorter_edge / min(height, width)
        size_wh = (int(width * scale + 0.5), int(height * scale + 0.5))
        method = INTERPOLATIONS[shape.interpolation]
        picture = np.asarray(
            cv2.resize(picture, size_wh, interpolation=method), np.uint8
        )
        top = (picture.shape[0] - shape.height) // 2
        left = (picture.shape[1] - shape.width) // 2
        out[...] = picture[top : top + shape.height, left : left + shape.width]
        return
    cv2.resize(
        picture,
        (shape.width, shape.height),
        dst=out,
        interpolation=INTERPOLATIONS[shape.interpolation],
    )
