"""What every baseline server does with a request, and the format of its body.

The formats are cheap, so that they slow no server down: crops are their bytes; a frame
is the number of people, their boxes and the JPEG; a response is the values' bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from loadtest.baselines.in_process import (
    GENDER,
    Floats,
    Networks,
    specs_from_json,
    specs_to_json,
)

GENDER_JOB, FRAME_JOB = "gender", "frame"
"""Names of the jobs; paths of the servers that speak HTTP."""

REPOSITORY_VARIABLE = "LOADTEST_REPOSITORY"
NETWORKS_VARIABLE = "LOADTEST_NETWORKS"

WORKERS = os.cpu_count() or 1


def environment_from_networks(networks: Networks) -> dict[str, str]:
    """Return the environment variables that a baseline server starts with.

    Args:
        networks: The networks that it is to run.
    """
    return {
        REPOSITORY_VARIABLE: str(networks.repository.resolve()),
        NETWORKS_VARIABLE: specs_to_json(networks.specs),
    }


def open_networks() -> Networks:
    """Open the networks that the environment names, in a baseline server."""
    specs = specs_from_json(os.environ[NETWORKS_VARIABLE])
    return Networks(Path(os.environ[REPOSITORY_VARIABLE]), specs)


def pack_frame(jpeg: bytes, boxes: Floats) -> bytes:
    """Return the body of a frame's request.

    Args:
        jpeg: The frame.
        boxes: FP32 [N, 4] in pixels.
    """
    return len(boxes).to_bytes(4, "little") + boxes.tobytes() + jpeg


def respond_to_crops(networks: Networks, body: bytes) -> bytes:
    """Return the response to a request with crops.

    Args:
        networks: The networks to run.
        body: The request.
    """
    shape = networks.specs[GENDER].crop
    crops = np.frombuffer(body, np.uint8).reshape(-1, shape.height, shape.width, 3)
    return networks.classify_gender(crops).tobytes()


def respond_to_frame(networks: Networks, body: bytes) -> bytes:
    """Return the response to a request with a frame.

    Args:
        networks: The networks to run.
        body: The request (pack_frame).
    """
    start = 4 + 16 * int.from_bytes(body[:4], "little")
    boxes = np.frombuffer(body[4:start], np.float32).reshape(-1, 4)
    gender, embeddings = networks.describe_people(body[start:], boxes)
    return gender.tobytes() + embeddings.tobytes()
