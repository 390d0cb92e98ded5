"""A 1080p JPEG frame with boxes of people, for loads that need no video."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

FRAME_HW = (1080, 1920)
PERSON_HW = (250, 100)
JPEG_QUALITY = 85


def make_jpeg_frame() -> bytes:
    """Return scikit-image's photograph of an astronaut, enlarged to 1080p, as JPEG."""
    from skimage import data

    image = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    image = cv2.resize(image, FRAME_HW[::-1], interpolation=cv2.INTER_CUBIC)
    return encode_jpeg(image)


def encode_jpeg(image: npt.NDArray[np.uint8] | cv2.typing.MatLike) -> bytes:
    """Encode an image as JPEG of quality 85.

    Args:
        image: UINT8 [height, width, 3], BGR.

    Raises:
        OSError: If OpenCV was built without JPEG.
    """
    ok, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise OSError("OpenCV cannot write JPEG")
    return encoded.tobytes()


def encoded_tensor(image: bytes) -> npt.NDArray[np.uint8]:
    """Return an encoded image as the tensor `encoded_frame` of models for frames.

    Args:
        image: A JPEG, PNG or WebP file.

    Returns:
        UINT8 [bytes].
    """
    return np.frombuffer(image, np.uint8)


def place_boxes(count: int) -> npt.NDArray[np.float32]:
    """Return boxes of people, 250 x 100 pixels, anywhere in the 1080p frame.

    Args:
        count: Number of people; the same count always gives the same boxes.

    Returns:
        FP32 [count, 4]: x0, y0, x1, y1 in pixels.
    """
    rng = np.random.default_rng(count)
    room = (FRAME_HW[1] - PERSON_HW[1], FRAME_HW[0] - PERSON_HW[0])
    corner = rng.integers(0, room, (count, 2))
    return np.hstack([corner, corner + PERSON_HW[::-1]]).astype(np.float32)
