"""Families in the Wild, as Kaggle's "Recognizing Faces in the Wild" packs it.

    train/F0001/MID1/P00001_face0.jpg     train_relationships.csv (p1,p2)
    test/face00001.jpg                    sample_submission.csv (img_pair,is_related)

The part "val" holds out the families F09..., as sdecoder does
(https://github.com/sdecoder/recognizing-faces-in-the-wild): images of related members,
and as many pairs of images across families. They are drawn with a fixed seed, so that
runs are comparable; sdecoder draws anew in every epoch. The part "test" is Kaggle's:
pairs without labels, for a submission file.

Sources: Robinson et al., "Families in the Wild (FIW): Large-Scale Kinship Image
Database and Benchmarks", ACM MM 2016, and
https://www.kaggle.com/c/recognizing-faces-in-the-wild/data.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from builders.evaluation.datasets import (
    UNKNOWN,
    EvaluationError,
    ImagePairs,
    require_inner_path,
)
from builders.images import find_images

VALIDATION_FAMILIES = "F09"
PAIRS_PER_RELATION = 4
"""Image pairs drawn for each two related members."""

SEED = 0


def read_fiw(root: Path, part: str, _partition: int) -> ImagePairs:
    """Read the pairs of one part.

    Args:
        root: Folder of the data set.
        part: "val" (labelled) or "test" (Kaggle's, without labels).

    Raises:
        EvaluationError: If the part is unknown, a file is missing or damaged, or there
            are no related members.
    """
    if part == "val":
        return _draw_validation_pairs(root)
    if part == "test":
        return _read_kaggle_test(root)
    raise EvaluationError(f"fiw has the parts 'val' and 'test', not {part!r}")


def read_families(
    root: Path, *, held_out: bool
) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Read the members of families, and the pairs of related people.

    Args:
        root: Folder of the data set.
        held_out: Whether the families that validate are wanted, or all others.

    Returns:
        Images of each member, relative to `root`, by "F0901/MID1"; and pairs of related
        members that have images.

    Raises:
        EvaluationError: If a file is missing or damaged, or there are no related
            members in at least two families.
    """
    members = _list_members(root, held_out=held_out)
    related = [
        pair
        for pair in _read_relations(root / "train_relationships.csv")
        if all(member in members for member in pair)  # some rows have no images
    ]
    if not related or len({member.partition("/")[0] for member in members}) < 2:
        raise EvaluationError(
            f"{root}: no related members in at least two families "
            f"{'' if held_out else 'other than '}{VALIDATION_FAMILIES}..."
        )
    return members, related


def _draw_validation_pairs(root: Path) -> ImagePairs:
    members, related = read_families(root, held_out=True)
    families: dict[str, list[str]] = defaultdict(list)
    for member in members:
        families[member.partition("/")[0]].append(member)
    rng = np.random.default_rng(SEED)
    items: list[tuple[str, ...]] = [
        tuple(_choose(rng, members[member]) for member in pair)
        for pair in related
        for _ in range(PAIRS_PER_RELATION)
    ]
    names = sorted(families)
    for _ in range(len(items)):
        two = rng.choice(len(names), 2, replace=False)
        strangers = [_choose(rng, families[names[index]]) for index in two]
        items.append(tuple(_choose(rng, members[member]) for member in strangers))
    labels = np.repeat([1, 0], len(items) // 2)
    return ImagePairs(root, items, labels.astype(np.int64))


def _choose(rng: np.random.Generator, choice: list[str]) -> str:
    return choice[int(rng.integers(len(choice)))]


def _list_members(root: Path, *, held_out: bool) -> dict[str, list[str]]:
    """Return the images of each member of some families, by "F0901/MID1"."""
    members: dict[str, list[str]] = {}
    for folder in sorted((root / "train").glob("F*/MID*")):
        if folder.parent.name.startswith(VALIDATION_FAMILIES) != held_out:
            continue
        images = find_images(folder)
        if images:
            key = f"{folder.parent.name}/{folder.name}"
            members[key] = [path.relative_to(root).as_posix() for path in images]
    return members


def _read_relations(path: Path) -> list[tuple[str, str]]:
    return [(row["p1"], row["p2"]) for row in _read_csv(path, "p1", "p2")]


def _read_kaggle_test(root: Path) -> ImagePairs:
    path = root / "sample_submission.csv"
    names = [row["img_pair"] or "" for row in _read_csv(path, "img_pair", "is_related")]
    items: list[tuple[str, ...]] = []
    for number, name in enumerate(names, start=2):
        faces = name.split("-")
        if len(faces) != 2:
            raise EvaluationError(
                f"{path.name} line {number}: expected faceA.jpg-faceB.jpg, got {name!r}"
            )
        items.append(tuple(f"test/{require_inner_path(face, path)}" for face in faces))
    labels = np.full(len(items), UNKNOWN, np.int64)
    return ImagePairs(root, items, labels, tuple(names))


def _read_csv(path: Path, *columns: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise EvaluationError(
                f"{path.name}: expected the columns {', '.join(columns)}, got "
                f"{', '.join(reader.fieldnames or ())}"
            )
        return list(reader)
