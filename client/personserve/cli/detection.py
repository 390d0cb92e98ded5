"""Stand-in detectors of OpenCV: HOG for upright pedestrians, Haar for frontal faces.

They take the place of the detectors that users bring, so that the commands work without
them.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve.images.crops import Pixels
from personserve.images.inputs import array_from_boxes

FloatBoxes = npt.NDArray[np.float32]

HOG_MARGIN_WH = (0.15, 0.05)
"""Share of a HOG window's width and height that is background on each side. The
detector was trained on windows with such a margin around the person.
"""

FACE_CASCADE = "haarcascade_frontalface_default.xml"

FACE_FOLDERS = ("/usr/share/opencv4/haarcascades", "/usr/share/opencv/haarcascades")
"""Folders of Debian's package opencv-data; OpenCV's wheels have one of their own."""

FACE_SCALE = 1.1
FACE_NEIGHBOURS = 5
"""Overlapping windows that make a face; with OpenCV's 3, folds of cloth are faces."""

MIN_FACE_PIXELS = 30
MIN_FACE_SHARE = 1 / 12
"""Smallest face, as a share of the image's shorter edge."""


def detect_people(frame: Pixels) -> FloatBoxes:
    """Detect upright people with OpenCV's HOG detector (Dalal and Triggs, CVPR 2005).

    Args:
        frame: UINT8 [H, W, 3] in BGR order.

    Returns:
        Boxes FP32 [N, 4] in pixels, without HOG's margin around a person.
    """
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector()))
    boxes, _ = hog.detectMultiScale(frame, winStride=(8, 8), padding=(8, 8), scale=1.05)
    x, y, width, height = np.array(boxes, np.float32).reshape(-1, 4).T
    dx, dy = HOG_MARGIN_WH[0] * width, HOG_MARGIN_WH[1] * height
    return np.stack([x + dx, y + dy, x + width - dx, y + height - dy], axis=1)


def detect_faces(frame: Pixels) -> FloatBoxes:
    """Detect frontal faces with OpenCV's Haar cascade (Viola and Jones, CVPR 2001).

    Args:
        frame: UINT8 [H, W, 3] in BGR order.

    Returns:
        Square boxes FP32 [N, 4] in pixels from left to right, from the brows to the
        chin.

    Raises:
        InvalidInputError: OpenCV's file of the cascade is not installed.
    """
    smallest = max(MIN_FACE_PIXELS, round(min(frame.shape[:2]) * MIN_FACE_SHARE))
    rectangles = _face_cascade().detectMultiScale(
        cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY),
        scaleFactor=FACE_SCALE,
        minNeighbors=FACE_NEIGHBOURS,
        minSize=(smallest, smallest),
    )
    boxes = np.array(rectangles, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes[np.argsort(boxes[:, 0], kind="stable")]


def _face_cascade() -> cv2.CascadeClassifier:
    own = getattr(getattr(cv2, "data", None), "haarcascades", None)
    paths = [Path(f, FACE_CASCADE) for f in (own, *FACE_FOLDERS) if f is not None]
    for path in paths:
        if path.is_file():
            return cv2.CascadeClassifier(str(path))
    raise InvalidInputError(
        f"OpenCV's {FACE_CASCADE} is not here; pass boxes of faces, or install "
        "opencv-python-headless (Debian: apt install opencv-data)"
    )


def parse_boxes(text: str) -> FloatBoxes:
    """Parse boxes of the command line.

    Args:
        text: "x0,y0,x1,y1" in pixels; several are separated by spaces.

    Returns:
        FP32 [N, 4].

    Raises:
        InvalidInputError: The text is not of this form.
    """
    try:
        rows = [[float(value) for value in box.split(",")] for box in text.split()]
        return array_from_boxes(rows)
    except ValueError as exc:
        raise InvalidInputError(
            f"boxes {text!r}: expected 'x0,y0,x1,y1', several separated by spaces"
        ) from exc
