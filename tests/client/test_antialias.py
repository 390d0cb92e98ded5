"""Antialiased resizing against Pillow, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PilImage

from personserve.images.antialias import resize_antialiased
from personserve.images.crops import CropShape, cut_crops, pixel_boxes, resize_image

FILTERS = {
    "linear_antialias": PilImage.Resampling.BILINEAR,
    "cubic_antialias": PilImage.Resampling.BICUBIC,
}


def _resize_by_pillow(
    image: np.ndarray, size_wh: tuple[int, int], name: str
) -> np.ndarray:
    """Resize the width, then the height; Pillow 13 chooses the order by the work."""
    wide = PilImage.fromarray(image).resize((size_wh[0], len(image)), FILTERS[name])
    return np.asarray(wide.resize(size_wh, FILTERS[name]))


@pytest.mark.parametrize("name", FILTERS)
def test_any_size_equals_pillow(name: str) -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 1, 1, 1), (384, 128, 384, 128), (1, 700, 33, 1), (17, 16, 33, 32)]
    sizes += rng.integers(1, 500, (30, 4)).tolist()
    for height, width, new_height, new_width in sizes:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        size_wh = new_width, new_height
        resized = resize_antialiased(image, size_wh, name)
        np.testing.assert_array_equal(
            resized,
            _resize_by_pillow(image, size_wh, name),
            str((image.shape, size_wh)),
        )


def test_crops_and_whole_images_use_the_filter() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (300, 200, 3), np.uint8)
    shape = CropShape(96, 64, "cubic_antialias")
    boxes = pixel_boxes(np.array([[3.0, 5, 150, 290]]), 300, 200)
    (crops,) = cut_crops(frame, boxes, [shape], order="RGB")
    part = np.ascontiguousarray(frame[5:290, 3:150])
    np.testing.assert_array_equal(
        crops[0], _resize_by_pillow(part, (64, 96), shape.interpolation)
    )

    centred = CropShape(96, 64, "linear_antialias", shorter_edge=100)
    whole = _resize_by_pillow(frame, (100, 150), centred.interpolation)
    np.testing.assert_array_equal(resize_image(frame, centred), whole[27:123, 18:82])
