"""Several videos at once with one AsyncClient, four frames of each in flight.

Run:
    python -m builders serve                        # in another terminal
    python client/examples/async_video.py grpc://127.0.0.1:8001 a.mp4 b.mp4

To keep the example short there is no detector: each frame is taken as one person, as
a camera at a turnstile would show it. yolo_boxes.py shows boxes from a detector.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import cv2
import numpy as np

from personserve import AsyncClient


async def main(address: str, *paths: str) -> None:
    """Analyse all videos concurrently."""
    async with AsyncClient(address) as client:
        await asyncio.gather(*(analyse_video(client, path) for path in paths))


async def analyse_video(client: AsyncClient, path: str) -> None:
    """Print a line for each frame, in order."""
    frames = read_frames(path)
    index = 0
    async for people in client.attributes_stream(frames, in_flight=4):
        labels = ", ".join(person.gender.label for person in people)
        print(f"{path} frame {index}: {len(people)} people ({labels})")
        index += 1
    print(f"{path}: {index} frames")


async def read_frames(path: str) -> AsyncIterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (frame, boxes). Decoding runs in a thread, so the event loop stays free."""
    capture = cv2.VideoCapture(path)
    if not capture.isOpened():
        sys.exit(f"error: cannot read {path}")
    try:
        while True:
            readable, frame = await asyncio.to_thread(capture.read)
            if not readable:
                return
            yield frame, detect_people(frame)
    finally:
        capture.release()


def detect_people(frame: np.ndarray) -> np.ndarray:
    """Return boxes [N, 4] in pixels. Replace this with your detector."""
    height, width = frame.shape[:2]
    return np.array([[0, 0, width, height]], np.float32)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
