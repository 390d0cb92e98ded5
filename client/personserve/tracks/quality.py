"""Quality of a person's box: how much of an answer about it can be believed.

Three factors from 0 to 1 are multiplied: the height in pixels, the visible share, and
the sharpness.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from personserve.images.crops import Pixels
from personserve.images.encoded import Encoded
from personserve.images.inputs import ImageInput, load_image

FULL_HEIGHT_PX = 384
"""Height of the largest crops of the networks, from which on pixels add nothing."""

SHARPNESS_WH = (32, 64)
"""Size at which sharpness is measured, so that it does not depend on the box's."""

HALF_SHARPNESS = 100.0
"""Variance of the Laplacian at which the sharpness is 0.5: the usual limit between
blurred and sharp photographs."""

MIN_SHARPNESS = 0.1
"""Sharpness of a box without any edge, as of a person in the dark."""

MIN_VISIBLE = 0.2
"""Smallest visible share of a box that is worth a request."""


@dataclass(frozen=True)
class BoxQuality:
    """Quality of a box.

    Attributes:
        value: From 0 (not worth a request) to 1.
        overlap: Largest intersection over union with another box of the frame.
    """

    value: float
    overlap: float


@dataclass(frozen=True)
class LoadedFrame:
    """The size of a frame, and its pixels unless the frame is encoded.

    Attributes:
        size_wh: Width and height in pixels.
        pixels: UINT8 [H, W, 3] in BGR order; None for an encoded frame.
    """

    size_wh: tuple[int, int]
    pixels: Pixels | None

    @classmethod
    def from_image(cls, frame: ImageInput) -> LoadedFrame:
        """Load a frame; an encoded one is not decoded.

        Args:
            frame: See personserve.ImageInput.

        Returns:
            The frame.

        Raises:
            InvalidInputError: See personserve.images.inputs.load_image.
        """
        image = load_image(frame, "frame")
        if isinstance(image, Encoded):
            size_wh = image.width_px, image.height_px
            if image.layout.orientation > 4:  # rotated by 90 degrees
                size_wh = size_wh[::-1]
            return cls(size_wh, None)
        return cls((image.shape[1], image.shape[0]), image)

    def cut(self, box: npt.NDArray[np.float32]) -> Pixels | None:
        """Return the pixels in a box, without copying them.

        Args:
            box: FP32 [4].

        Returns:
            UINT8 [h, w, 3]; None for an encoded frame, or a box outside the frame.
        """
        if self.pixels is None or not np.isfinite(box).all():
            return None
        limits = (*self.size_wh, *self.size_wh)
        x0, y0, x1, y1 = np.clip(box.round(), 0, limits).astype(int)
        crop = self.pixels[y0:y1, x0:x1]
        return crop if crop.size else None


def rate_boxes(
    frame: LoadedFrame, boxes: npt.NDArray[np.float32]
) -> tuple[BoxQuality, ...]:
    """Rate the boxes of a frame.

    Args:
        frame: The frame. Without pixels, the sharpness of all is taken for 1.
        boxes: FP32 [N, 4], (x0, y0, x1, y1) in pixels. Trackers extrapolate, so they
            may be outside the frame, which is quality 0.

    Returns:
        The quality of each.
    """
    qualities = []
    for index, box in enumerate(boxes):
        others = np.delete(boxes, index, axis=0)
        visible = _visible_share(box, others, frame.size_wh)
        if visible < MIN_VISIBLE:
            qualities.append(BoxQuality(0.0, _largest_overlap(box, others)))
            continue
        size = min(1.0, float(box[3] - box[1]) / FULL_HEIGHT_PX)
        value = size * visible * measure_sharpness(frame.cut(box))
        qualities.append(BoxQuality(value, _largest_overlap(box, others)))
    return tuple(qualities)


def measure_sharpness(crop: Pixels | None) -> float:
    """Measure how sharp a person is, by the variance of the Laplacian at one size.

    After J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a
    comparative study" (ICPR 2000).

    Args:
        crop: UINT8 [h, w, 3]; None if there are no pixels.

    Returns:
        From MIN_SHARPNESS to 1; 1 without pixels.
    """
    if crop is None:
        return 1.0
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, SHARPNESS_WH, interpolation=cv2.INTER_AREA)
    variance = float(cv2.Laplacian(small, cv2.CV_32F).var())
    return max(MIN_SHARPNESS, variance / (variance + HALF_SHARPNESS))


def _visible_share(
    box: npt.NDArray[np.float32],
    others: npt.NDArray[np.float32],
    size_wh: tuple[int, int],
) -> float:
    """Return the share of a box that is in the frame and not behind a nearer person.

    Of two people on one floor, the nearer one's box ends lower in the image.
    """
    area = _area(box)
    if not area > 0:  # false for NaN, too
        return 0.0
    inside = _intersect(box, np.array([0, 0, *size_wh], np.float32))
    hidden = max(
        (_area(_intersect(inside, other)) for other in others if other[3] > box[3]),
        default=0.0,
    )
    return max(0.0, _area(inside) - hidden) / area


def _largest_overlap(
    box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]
) -> float:
    return max((intersection_over_union(box, other) for other in others), default=0.0)


def intersection_over_union(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> float:
    """Return the common area of two boxes as a share of the area of both together.

    Args:
        first: FP32 [4], (x0, y0, x1, y1).
        second: FP32 [4].

    Returns:
        From 0 to 1.
    """
    common = _area(_intersect(first, second))
    union = _area(first) + _area(second) - common
    return common / union if union > 0 else 0.0


def _intersect(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    low = np.maximum(first[:2], second[:2])
    high = np.minimum(first[2:], second[2:])
    return np.concatenate([low, high])


def _area(box: npt.NDArray[np.float32]) -> float:
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    # a NaN or infinite edge gives no area
    return width * height if 0 < width < np.inf and 0 < height < np.inf else 0.0
