"""What every rival does with a request's body: cheap forms, so that nobody pays for
ours. Crops are their bytes, a frame is the number of people, their boxes and the JPEG;
answers are the values' bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from loadtest.in_process import SHAPES, Floats, Networks

GENDER, FRAME = "gender", "frame"
"""Names of the jobs; paths where there is HTTP."""

REPOSITORY_VARIABLE = "RIVALS_REPOSITORY"
WORKERS = os.cpu_count() or 1


def networks() -> Networks:
    """Those of the repository that the environment names."""
    return Networks(Path(os.environ[REPOSITORY_VARIABLE]))


def packed(jpeg: bytes, boxes: Floats) -> bytes:
    """The body of a frame's request."""
    return len(boxes).to_bytes(4, "little") + boxes.tobytes() + jpeg


def answer_gender(own: Networks, body: bytes) -> bytes:
    """The answer to crops."""
    shape = SHAPES["person_gender"]
    crops = np.frombuffer(body, np.uint8).reshape(-1, shape.height, shape.width, 3)
    return own.gender(crops).tobytes()


def answer_frame(own: Networks, body: bytes) -> bytes:
    """The answer to a frame."""
    start = 4 + 16 * int.from_bytes(body[:4], "little")
    boxes = np.frombuffer(body[4:start], np.float32).reshape(-1, 4)
    gender, embeddings = own.frame(body[start:], boxes)
    return gender.tobytes() + embeddings.tobytes()
