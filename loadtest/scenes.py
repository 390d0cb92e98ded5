"""Random camera scenes: frames, and how many people are in each.

A share of `EMPTY_SHARE` of the frames shows no person, `CROWD_SHARE` a crowd of `CROWD`
people (more than the server takes in one request, so that the client splits it), and
the others a Poisson-distributed number around `MEAN_PEOPLE`. Frames come from a video
if one is given, else from a 1080p photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from loadtest.errors import LoadTestError
from loadtest.frames import encode_jpeg, make_jpeg_frame

EMPTY_SHARE, CROWD_SHARE = 0.3, 0.02
MEAN_PEOPLE = 4.0
CROWD = (65, 90)

MEAN_SCENE_PEOPLE = CROWD_SHARE * sum(CROWD) / 2 + MEAN_PEOPLE * (
    1 - EMPTY_SHARE - CROWD_SHARE
)
"""People in a frame on average, those without any included."""

VIDEO_FRAMES = 32
PERSON_TO_FRAME_HEIGHT = 0.25
PERSON_WIDTH_TO_HEIGHT = 0.4

Boxes = npt.NDArray[np.float32]


def draw_people_count(rng: np.random.Generator) -> int:
    """Draw the number of people in a frame from the distribution above.

    Args:
        rng: Source of randomness.
    """
    kind = rng.random()
    if kind < EMPTY_SHARE:
        return 0
    if kind < EMPTY_SHARE + CROWD_SHARE:
        return int(rng.integers(*CROWD, endpoint=True))
    return 1 + int(rng.poisson(MEAN_PEOPLE - 1))


@dataclass(frozen=True)
class Scenes:
    """Frames of one size to draw scenes from.

    Attributes:
        frames: JPEG files.
        height: Height of every frame in pixels.
        width: Width of every frame in pixels.
    """

    frames: Sequence[bytes]
    height: int
    width: int

    @classmethod
    def from_video(cls, path: Path | None) -> Scenes:
        """Take frames evenly spaced over a video.

        Args:
            path: A video that OpenCV reads; None for a 1080p photograph instead.

        Raises:
            LoadTestError: If OpenCV reads no frame from the video.
        """
        frames = [make_jpeg_frame()] if path is None else _sample_video(path)
        pixels = cv2.imdecode(np.frombuffer(frames[0], np.uint8), cv2.IMREAD_COLOR)
        return cls(frames, *np.asarray(pixels).shape[:2])

    def draw(self, rng: np.random.Generator) -> tuple[bytes, Boxes]:
        """Draw a frame and boxes for the people in it.

        Args:
            rng: Source of randomness.

        Returns:
            A JPEG file, and boxes FP32 [people, 4].
        """
        frame = self.frames[int(rng.integers(len(self.frames)))]
        return frame, self.draw_boxes(rng, draw_people_count(rng))

    def draw_boxes(self, rng: np.random.Generator, count: int) -> Boxes:
        """Draw boxes of people anywhere in the frame.

        Args:
            rng: Source of randomness.
            count: Number of people.

        Returns:
            FP32 [count, 4]: x0, y0, x1, y1 in pixels.
        """
        heights = self.height * PERSON_TO_FRAME_HEIGHT * rng.uniform(0.6, 1.4, count)
        widths = heights * PERSON_WIDTH_TO_HEIGHT
        x = rng.uniform(0, self.width - widths)
        y = rng.uniform(0, self.height - heights)
        corners = (x, y, x + widths, y + heights)
        boxes: Boxes = np.stack(corners, axis=1).astype(np.float32)
        return boxes


def _sample_video(path: Path) -> list[bytes]:
    capture = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    indices = set(np.linspace(0, max(total - 1, 0), VIDEO_FRAMES).astype(int))
    frames = []
    for index in range(total):
        if not capture.grab():
            break
        if index in indices:
            _, pixels = capture.retrieve()
            frames.append(encode_jpeg(pixels))
    capture.release()
    if not frames:
        raise LoadTestError(f"{path}: OpenCV reads no frames from it")
    return frames
