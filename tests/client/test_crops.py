"""Cutting people out of frames."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from personserve import InvalidInputError, cut_people
from personserve.images.crops import BoxError, CropShape, cut_crops, pixel_boxes

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
        many = cut_crops(photograph, boxes, SHAPES, order=order, pool=pool)  # type: ignore[arg-type]
    one = cut_crops(photograph, boxes, SHAPES, order=order)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("shape", SHAPES)
def test_people_are_cut_as_the_server_cuts_them(
    photograph: np.ndarray, shape: CropShape
) -> None:
    boxes = [[3.7, 8.2, 90.1, 200.9], [-50, 300, 100, 9999]]
    pixels = pixel_boxes(np.float32(boxes), *photograph.shape[:2])
    (expected,) = cut_crops(photograph, pixels, [shape], order="BGR")
    np.testing.assert_array_equal(cut_people(photograph, boxes, shape), expected)
    size = (shape.height, shape.width)
    for frame in (photograph, Image.fromarray(photograph[..., ::-1])):
        crops = cut_people(frame, boxes, size, interpolation=shape.interpolation)
        np.testing.assert_array_equal(crops, expected)
    plain = cv2.resize(
        photograph[8:201, 3:91], size[::-1], interpolation=cv2.INTER_AREA
    )
    assert abs(plain[..., ::-1].mean((0, 1)) - expected[0].mean((0, 1))).max() < 6, (
        "RGB, whole pixels"
    )
    assert cut_people(photograph, [], size).shape == (0, *size, 3)


@pytest.mark.parametrize(
    ("boxes", "size", "message"),
    [
        ([[0, 0, 5, 5], [600, 0, 700, 5]], (9, 9), "box 1 .* outside the frame"),
        ([[0, 0, 5, 5]], (0, 9), "at least 1 pixel"),
        ([[0, 0, 5, 5]], 9, r"expected \(height, width\) in pixels, got 9"),
        ([[0, 0, 5]], (9, 9), r"expected \[N, 4\]"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    photograph: np.ndarray, boxes: list[list[float]], size: object, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        cut_people(photograph, boxes, size)
    with pytest.raises(InvalidInputError, match="expected one of linear, cubic"):
        cut_people(photograph, [[0, 0, 5, 5]], (9, 9), interpolation="area")
