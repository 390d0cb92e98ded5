"""Choice and reading of calibration images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from builders.images import UnreadableImageError, find_images, read_crop, read_image
from builders.quantisation.table import QuantisationError
from builders.spec.model import Model

BATCH = 8

MIN_IMAGES = 32
"""Fewer images say little about a tensor's range. SE-ResNet50 on TensorRT (see
builders/models/README.md) lost 8 points of accuracy with up to 10,000 images for its
1000 classes; the gender networks have two classes.
"""

HOLD_OUT_EVERY = 5
MAX_HELD_OUT = 32
"""Every fifth image is held out to judge the result, but not more than 32."""

SAMPLE_SIZE = 400
THUMBNAIL_WH = (16, 16)
NEAR_GREY_LEVELS = 4.0
MAX_NEAR_SHARE = 0.5
"""Two images are nearly identical if their 16x16 grey thumbnails differ by less than 4
levels on average. A set is refused if more than half of (a sample of) its images have
such a twin."""

Crops = dict[str, npt.NDArray[np.uint8]]
"""Batch of crops [N, height, width, 3] by input name."""


@dataclass(frozen=True)
class CalibrationImages:
    """Images to calibrate with, and images to judge the result with.

    Attributes:
        root: Folder of all images.
        files: Calibration images, in order.
        held_out: Images that calibration does not use.
    """

    root: Path
    files: tuple[Path, ...]
    held_out: tuple[Path, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the names and sizes of the calibration images."""
        digest = hashlib.sha256()
        for path in self.files:
            name = path.relative_to(self.root).as_posix()
            digest.update(f"{name}\0{path.stat().st_size}\n".encode())
        return digest.hexdigest()


def find_calibration_images(root: Path, count: int | None = None) -> CalibrationImages:
    """Find the images in a folder and hold some of them out.

    Args:
        root: Folder of crops, at any depth.
        count: Use this many, evenly spaced over the sorted paths; all by default.

    Returns:
        The images.

    Raises:
        QuantisationError: If there are too few, or most have a nearly identical one
            among the others.
    """
    if not root.is_dir():
        raise QuantisationError(f"{root}: no such folder of images")
    files = find_images(root, recursive=True)
    if count is not None and count < len(files):
        files = [files[int(i)] for i in np.linspace(0, len(files) - 1, count)]
    if len(files) < MIN_IMAGES:
        raise QuantisationError(
            f"{len(files)} images in {root}; expected at least {MIN_IMAGES} crops of "
            "different people as the model will see them, or ranges are guesses"
        )
    near = _near_share(files)
    if near > MAX_NEAR_SHARE:
        raise QuantisationError(
            f"{near:.0%} of the images in {root} have a nearly identical other one "
            "(frames of one scene?); ranges of so few different crops do not hold for "
            "others. Take every nth frame, or more cameras"
        )
    held_out = files[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY][:MAX_HELD_OUT]
    calibration = tuple(path for path in files if path not in set(held_out))
    return CalibrationImages(root, calibration, tuple(held_out))


def read_crops(model: Model, paths: Sequence[Path]) -> Iterator[Crops]:
    """Read images as inputs of a model, in batches of BATCH.

    Unreadable images are left out. A model of two images gets each image together with
    its successor in the batch.

    Args:
        model: The declaration.
        paths: Image files.

    Yields:
        Crops by input name.
    """
    with ThreadPoolExecutor() as pool:
        files = iter(paths)
        while part := list(islice(files, BATCH)):
            inputs: Crops = {}
            for number, image in enumerate(model.images):
                results = pool.map(lambda p, s=image.crop_shape: _crop(p, s), part)
                crops = [crop for crop in results if crop is not None]
                if not crops:
                    break
                inputs[image.name] = np.roll(np.stack(crops), number, axis=0)
            if inputs:
                yield inputs


def _crop(path: Path, shape: Any) -> npt.NDArray[np.uint8] | None:
    try:
        return read_crop(path, shape)
    except UnreadableImageError:
        return None


def _near_share(files: Sequence[Path]) -> float:
    """Return the share of a sample of images that have a nearly identical other one."""
    sample = [files[int(i)] for i in np.linspace(0, len(files) - 1, SAMPLE_SIZE)]
    sample = list(dict.fromkeys(sample))
    with ThreadPoolExecutor() as pool:
        thumbnails = [t for t in pool.map(_thumbnail, sample) if t is not None]
    if len(thumbnails) < MIN_IMAGES:
        raise QuantisationError(f"only {len(thumbnails)} of the files can be decoded")
    pixels = np.stack(thumbnails)
    twins = 0
    for index, thumbnail in enumerate(pixels):
        distances = np.abs(pixels - thumbnail).mean(axis=1)
        distances[index] = np.inf
        twins += bool(distances.min() < NEAR_GREY_LEVELS)
    return twins / len(pixels)


def _thumbnail(path: Path) -> npt.NDArray[np.float32] | None:
    try:
        image = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2GRAY)
    except UnreadableImageError:
        return None
    small = cv2.resize(image, THUMBNAIL_WH, interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).ravel()
