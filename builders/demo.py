"""The demo: a real server of its own for `personserve attributes`.

With no picture it shows photographs that scikit-image carries; they are no upright
pedestrians for HOG to find, so their boxes are given here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from builders.repository import Repository
from builders.server import Ports, TritonServer
from personserve import Client
from personserve._looking import Frame, is_video, parsed_boxes, picture_of
from personserve._showing import show_picture, show_video

Box = tuple[float, float, float, float]

MODELS = ("person_gender", "person_reid_kd_r18")
ENSEMBLES = ("person_attributes", "person_attributes_crops")

PHOTOGRAPHS: Sequence[tuple[str, Box]] = (
    ("astronaut", (20, 5, 500, 512)),
    ("camera", (5, 60, 335, 512)),
)
"""scikit-image's photographs of one person each, and where that person is."""


def run(
    repository: Repository,
    source: str | None,
    output: Path | None,
    boxes: str | None,
    frames: int,
    console: Console,
) -> None:
    """The whole demo. Raises ServeError, or PersonServeError from the client."""
    given = None if boxes is None else parsed_boxes(boxes)
    video = source is not None and is_video(source)
    if output is None:
        output = Path("demo.mp4" if video else "demo.jpg")
    picture = None
    if source is None:
        picture = _photographs()
    elif not video:
        picture = picture_of(source, given)
    server = TritonServer(repository, models=ENSEMBLES, ports=Ports.free())
    with server, Client(server.grpc_address) as client:
        console.print(f"asking tritonserver at {server.grpc_address}")
        if picture is not None:
            show_picture(client, picture, output, console, plain=False)
        elif source is not None:
            show_video(client, source, frames, output, console, plain=False)


def _photographs() -> Frame:
    import skimage.data

    pictures, boxes, left = [], [], 0
    for name, (x0, y0, x1, y1) in PHOTOGRAPHS:
        picture = getattr(skimage.data, name)()
        to_bgr = cv2.COLOR_GRAY2BGR if picture.ndim == 2 else cv2.COLOR_RGB2BGR
        pictures.append(cv2.cvtColor(picture, to_bgr))
        boxes.append((x0 + left, y0, x1 + left, y1))
        left += picture.shape[1]
    return Frame("photographs", np.hstack(pictures), np.array(boxes, np.float32))
