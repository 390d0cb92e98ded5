"""Market-1501: query/ and bounding_box_test/, files named PPPP_cXsY_FFFFFF_BB.jpg.

PPPP is the person, X the camera, Y the sequence, FFFFFF the frame and BB the box.
Person -1 is junk and left out; person 0 is a distractor and stays in the gallery.
Sources: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015, and
fastreid/data/datasets/market1501.py of https://github.com/JDAI-CV/fast-reid. MSMT17 and
DukeMTMC are read too if they have these folders and names.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from builders.evaluation.datasets import EvaluationError, RetrievalImages
from builders.images import find_images

NAME = re.compile(r"(-?\d+)_c(\d+)")
JUNK = -1


def read_market1501(root: Path, part: str, _partition: int) -> RetrievalImages:
    """Read queries and gallery, or the images of training.

    Args:
        root: Folder of the data set.
        part: "test", the only part with a protocol, or "train" (bounding_box_train/),
            which has no queries.

    Raises:
        EvaluationError: If a folder is missing or empty, or a file's name does not fit.
    """
    if part not in {"train", "test"}:
        raise EvaluationError(f"market1501 has the parts train and test, not {part!r}")
    query = _person_images(root, "query") if part == "test" else ()
    folder = "bounding_box_test" if part == "test" else "bounding_box_train"
    gallery = _person_images(root, folder)
    files = (*query, *gallery)
    both = np.array([parse_name(file) for file in files], np.int64)
    identities, cameras = both.reshape(-1, 2).T
    return RetrievalImages(root, files, identities, cameras, len(query))


def parse_name(file: str) -> tuple[int, int]:
    """Parse the name of an image.

    Args:
        file: Path or name of an image, for example "0002_c1s1_000451_03.jpg".

    Returns:
        Person and camera.

    Raises:
        EvaluationError: If the name is of another form.
    """
    match = NAME.match(Path(file).name)
    if match is None:
        raise EvaluationError(
            f"{file}: expected a name as 0002_c1s1_000451_03.jpg (identity, camera)"
        )
    return int(match[1]), int(match[2])


def list_folder_images(root: Path, folder: str) -> list[str]:
    """List the images directly in one folder of a data set.

    Args:
        root: Folder of the data set.
        folder: Folder below `root`.

    Returns:
        Paths relative to `root`, ordered by name.

    Raises:
        EvaluationError: If the folder does not exist.
        UnreadableImageError: If an image has a format that is not accepted.
    """
    path = root / folder
    if not path.is_dir():
        raise EvaluationError(f"{path}: no such folder")
    return [f"{folder}/{image.name}" for image in find_images(path)]


def _person_images(root: Path, folder: str) -> tuple[str, ...]:
    files = list_folder_images(root, folder)
    people = tuple(file for file in files if parse_name(file)[0] != JUNK)
    if not people:
        raise EvaluationError(f"{root / folder}: no images of persons")
    return people
