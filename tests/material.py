"""Test material that needs no download: made from scikit-image's photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage.data

SIZE_WH = (768, 576)
FRAMES, RATE_HZ = 120, 10.0
"""As OpenCV's vtest.avi, but shorter."""

WALKERS = (
    # height and first place in pixels, pixels per frame, gain of blue, green and red;
    # with these gains stand-in weights decide the same for all, far from the threshold
    (300, 20, 2.0, (0.3, 0.7, 1.3)),
    (250, 300, -1.5, (0.35, 0.65, 1.35)),
    (220, 560, 1.0, (0.3, 0.75, 1.25)),
)


def write_street_video(path: Path) -> Path:
    """Write a video of three people who cross the image, and return its path.

    All are scikit-image's cameraman, which OpenCV's HOG detector finds.

    Args:
        path: Where to write; an .avi.
    """
    width, height = SIZE_WH
    background = cv2.resize(skimage.data.coffee()[..., ::-1], SIZE_WH)
    background = cv2.GaussianBlur(background, (0, 0), 40).astype(np.float32)
    background = 150 + 0.3 * background
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE_HZ, SIZE_WH
    )
    person = skimage.data.camera()[60:480, 80:330]
    for number in range(FRAMES):
        frame = background.copy()
        for height_px, start, speed, gains in WALKERS:
            width_px = person.shape[1] * height_px // person.shape[0]
            x = round(start + speed * number) % (width - width_px)
            y = height - height_px - 20
            pixels = cv2.resize(person, (width_px, height_px))[..., None] * gains
            if speed < 0:
                pixels = pixels[:, ::-1]
            frame[y : y + height_px, x : x + width_px] = pixels
        writer.write(np.clip(frame, 0, 255).astype(np.uint8))
    writer.release()
    return path


def write_photo_crops(folder: Path, count: int = 96) -> Path:
    """Write cuts of scikit-image's photographs, and return the folder.

    They are twice as high as wide, like crops of people, and more varied than those of
    the street video.

    Args:
        folder: Where to write; created if absent.
        count: Number of images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = skimage.data
    photographs = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    dice = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        height, width = photograph.shape[:2]
        height_px = int(dice.integers(120, min(height, 2 * width) - 1))
        y = int(dice.integers(0, height - height_px + 1))
        x = int(dice.integers(0, width - height_px // 2 + 1))
        crop = photograph[y : y + height_px, x : x + height_px // 2, ::-1]
        cv2.imwrite(str(folder / f"{number:04}.png"), np.ascontiguousarray(crop))
    return folder
