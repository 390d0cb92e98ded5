"""A real 1080p JPEG with people in it, also as perf_analyzer's input."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

FRAME_HW = (1080, 1920)
PERSON_HW = (250, 100)


def write_input(file: Path, people: int) -> None:
    """A JPEG frame with so many people, as perf_analyzer's --input-data."""
    frame, boxes = jpeg_frame(), some_boxes(people)
    request = {
        "frame": {"b64": base64.b64encode(frame).decode(), "shape": [1, 1, len(frame)]},
        "boxes": {"content": boxes.ravel().tolist(), "shape": list(boxes.shape)},
    }
    file.write_text(json.dumps({"data": [request]}), encoding="utf-8")


def jpeg_frame() -> bytes:
    """A real photograph enlarged to 1080p, as JPEG."""
    from skimage import data

    picture = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR)
    picture = cv2.resize(picture, FRAME_HW[::-1], interpolation=cv2.INTER_CUBIC)
    ok, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not ok:
        raise OSError("OpenCV cannot write JPEG")
    return encoded.tobytes()


def some_boxes(count: int) -> npt.NDArray[np.float32]:
    """`count` people of 100 x 250 pixels all over the frame, [count, 4]."""
    rng = np.random.default_rng(count)
    room = (FRAME_HW[1] - PERSON_HW[1], FRAME_HW[0] - PERSON_HW[0])
    corner = rng.integers(0, room, (count, 2))
    return np.hstack([corner, corner + PERSON_HW[::-1]]).astype(np.float32)
