"""Market-1501: query/ and bounding_box_test/, names PPPP_cXsY_FFFFFF_BB.jpg.

Identity -1 is junk and left out; 0 are distractors and stay in the gallery. Source:
FastReID's market1501.py and the project's page. MSMT17 and DukeMTMC in the same
folders and names read alike.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from builders.evaluation.datasets import PICTURE_SUFFIXES, EvaluationError, Retrieval

NAME = re.compile(r"(-?\d+)_c(\d+)")
JUNK = -1


def read(root: Path, part: str, _partition: int) -> Retrieval:
    """Queries and gallery. There is only one part, "test"."""
    if part != "test":
        raise EvaluationError(f"market1501 is evaluated on 'test', not {part!r}")
    query = _persons(root, "query")
    gallery = _persons(root, "bounding_box_test")
    files = (*query, *gallery)
    both = np.array([identity_and_camera(file) for file in files], np.int64)
    identities, cameras = both.reshape(-1, 2).T
    return Retrieval(root, files, identities, cameras, len(query))


def identity_and_camera(file: str) -> tuple[int, int]:
    """What a file's name says. Raises EvaluationError."""
    found = NAME.match(Path(file).name)
    if found is None:
        raise EvaluationError(
            f"{file}: expected a name as 0002_c1s1_000451_03.jpg (identity, camera)"
        )
    return int(found[1]), int(found[2])


def pictures_in(root: Path, folder: str) -> list[str]:
    """Pictures directly in `root`/`folder`, relative to `root`, in order of name."""
    path = root / folder
    if not path.is_dir():
        raise EvaluationError(f"{path}: no such folder")
    return sorted(
        f"{folder}/{each.name}"
        for each in path.iterdir()
        if each.suffix.lower() in PICTURE_SUFFIXES
    )


def _persons(root: Path, folder: str) -> tuple[str, ...]:
    files = pictures_in(root, folder)
    kept = tuple(file for file in files if identity_and_camera(file)[0] != JUNK)
    if not kept:
        raise EvaluationError(f"{root / folder}: no pictures of persons")
    return kept
