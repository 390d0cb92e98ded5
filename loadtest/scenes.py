"""What load looks like: frames, and how many people are in them.

How many: `EMPTY_SHARE` of frames show nobody, `CROWD_SHARE` a crowd of `CROWD` people
(more than the server takes at once, so that clients split), the others one and some
more, by Poisson's law around `USUAL_PEOPLE`. Frames are a video's where one is given,
otherwise a photograph of 1080p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from loadtest.perf_input import jpeg_frame

EMPTY_SHARE, CROWD_SHARE = 0.3, 0.02
USUAL_PEOPLE = 4.0
CROWD = (65, 90)

VIDEO_FRAMES = 32
JPEG_QUALITY = 85
PERSON_OF_HEIGHT = 0.25
PERSON_WIDTH_TO_HEIGHT = 0.4

Boxes = npt.NDArray[np.float32]
Crops = npt.NDArray[np.uint8]


def people_in_frame(rng: np.random.Generator) -> int:
    """A draw from the distribution above."""
    kind = rng.random()
    if kind < EMPTY_SHARE:
        return 0
    if kind < EMPTY_SHARE + CROWD_SHARE:
        return int(rng.integers(*CROWD, endpoint=True))
    return 1 + int(rng.poisson(USUAL_PEOPLE - 1))


@dataclass(frozen=True)
class Scenes:
    """JPEG frames of one size."""

    frames: Sequence[bytes]
    height: int
    width: int

    @classmethod
    def of_video(cls, path: Path | None) -> Scenes:
        """Frames spread over a video; without one, a photograph."""
        frames = [jpeg_frame()] if path is None else _video_frames(path)
        pixels = cv2.imdecode(np.frombuffer(frames[0], np.uint8), cv2.IMREAD_COLOR)
        return cls(frames, *np.asarray(pixels).shape[:2])

    def draw(self, rng: np.random.Generator) -> tuple[bytes, Boxes]:
        """A frame, and boxes for the people in it."""
        frame = self.frames[int(rng.integers(len(self.frames)))]
        return frame, self.boxes(rng, people_in_frame(rng))

    def boxes(self, rng: np.random.Generator, count: int) -> Boxes:
        """`count` people anywhere in the frame, [count, 4]."""
        tall = self.height * PERSON_OF_HEIGHT * rng.uniform(0.6, 1.4, count)
        wide = tall * PERSON_WIDTH_TO_HEIGHT
        x = rng.uniform(0, self.width - wide)
        y = rng.uniform(0, self.height - tall)
        corners = (x, y, x + wide, y + tall)
        boxes: Boxes = np.stack(corners, axis=1).astype(np.float32)
        return boxes


def _video_frames(path: Path) -> list[bytes]:
    capture = cv2.VideoCapture(str(path))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(np.linspace(0, max(total - 1, 0), VIDEO_FRAMES).astype(int))
    frames = []
    for index in range(total):
        if not capture.grab():
            break
        if index in wanted:
            _, pixels = capture.retrieve()
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            frames.append(cv2.imencode(".jpg", pixels, quality)[1].tobytes())
    capture.release()
    if not frames:
        raise FileNotFoundError(f"{path}: OpenCV reads no frames from it")
    return frames
