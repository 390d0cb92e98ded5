"""Cutting people out of frames."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from personserve._crops import BoxError, CropShape, cut, pixel_boxes

SHAPES = (CropShape(224, 224, "linear"), CropShape(384, 128, "cubic"))


def test_boxes_grow_to_whole_pixels_and_are_clipped() -> None:
    boxes = np.array([[0.5, 1.2, 3.1, 4.9], [-10, -1e30, 1e30, 5]])
    expected = [[0, 1, 4, 5], [0, 0, 20, 5]]
    assert pixel_boxes(boxes, height=10, width=20).tolist() == expected


def test_a_sliver_inside_the_frame_is_a_pixel() -> None:
    sliver = np.array([[19.99, 0, 30, 1]])
    assert pixel_boxes(sliver, 10, 20).tolist() == [[19, 0, 20, 1]]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([20, 0, 30, 5], "outside the frame of 20x10"),
        ([-5, 0, 0, 5], "outside"),
        ([3, 3, 3, 9], "no area"),
        ([np.nan, 0, 1, 1], "not finite"),
    ],
)
def test_refused_boxes_are_named(box: list[float], message: str) -> None:
    boxes = np.array([[0, 0, 1, 1], box])
    with pytest.raises(BoxError, match=rf"box 1 \(.*\) .*{message}"):
        pixel_boxes(boxes, height=10, width=20)


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_crops_equal_plain_resizing(order: str, photograph: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 300, (37, 2))
    boxes = np.hstack([corner, corner + rng.integers(1, 200, (37, 2))])
    with ThreadPoolExecutor(2) as pool:
        many = cut(photograph, boxes, SHAPES, order=order, pool=pool)  # type: ignore[arg-type]
    one = cut(photograph, boxes, SHAPES, order=order)  # type: ignore[arg-type]
    for crops, again, shape in zip(many, one, SHAPES, strict=True):
        np.testing.assert_array_equal(crops, again)
        flag = cv2.INTER_CUBIC if shape.interpolation == "cubic" else cv2.INTER_LINEAR
        for (x0, y0, x1, y1), crop in zip(boxes, crops, strict=True):
            plain = cv2.resize(
                photograph[y0:y1, x0:x1],
                (shape.width, shape.height),
                interpolation=flag,
            )
            np.testing.assert_array_equal(
                crop, plain[..., ::-1] if order == "BGR" else plain
            )


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of linear, cubic"):
        CropShape(1, 1, "lanczos")
