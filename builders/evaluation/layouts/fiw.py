"""Families in the Wild, as Kaggle's "Recognizing Faces in the Wild" packs it.

    train/F0001/MID1/P00001_face0.jpg     train_relationships.csv (p1,p2)
    test/face00001.jpg                    sample_submission.csv (img_pair,is_related)

"val" holds out families from F09 on, as seed 002's author does: pictures of related
members, and as many pairs across families, drawn with a fixed seed (the author drew
anew in every epoch). "test" is Kaggle's: pairs without labels, for a submission file.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from builders.evaluation.datasets import (
    PICTURE_SUFFIXES,
    UNKNOWN,
    EvaluationError,
    Pairs,
    inside,
)

VALIDATION_FAMILIES = "F09"
DRAWS = 4
"""Pairs of pictures for each two related members."""

SEED = 0


def read(root: Path, part: str, _partition: int) -> Pairs:
    """Pairs of "val" or "test"."""
    if part == "val":
        return _validation(root)
    if part == "test":
        return _kaggle_test(root)
    raise EvaluationError(f"fiw has the parts 'val' and 'test', not {part!r}")


def _validation(root: Path) -> Pairs:
    members = _members(root)
    families: dict[str, list[str]] = defaultdict(list)
    for member in members:
        families[member.partition("/")[0]].append(member)
    related = [
        pair
        for pair in _relations(root / "train_relationships.csv")
        if all(member in members for member in pair)  # some rows name nobody
    ]
    if not related or len(families) < 2:
        raise EvaluationError(
            f"{root}: no related members in at least two families from "
            f"{VALIDATION_FAMILIES} on"
        )
    rng = np.random.default_rng(SEED)
    items: list[tuple[str, ...]] = []
    for pair in related:
        items += [tuple(_any(rng, members[m]) for m in pair) for _ in range(DRAWS)]
    names = sorted(families)
    for _ in range(len(items)):
        two = rng.choice(len(names), 2, replace=False)
        strangers = [_any(rng, families[names[index]]) for index in two]
        items.append(tuple(_any(rng, members[member]) for member in strangers))
    labels = np.repeat([1, 0], len(items) // 2)
    return Pairs(root, items, labels.astype(np.int64))


def _any(rng: np.random.Generator, choice: list[str]) -> str:
    return choice[int(rng.integers(len(choice)))]


def _members(root: Path) -> dict[str, list[str]]:
    """Pictures of each member of the held-out families, by "F0901/MID1"."""
    members: dict[str, list[str]] = {}
    for folder in sorted((root / "train").glob(f"{VALIDATION_FAMILIES}*/MID*")):
        files = sorted(
            p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES
        )
        if files:
            key = f"{folder.parent.name}/{folder.name}"
            members[key] = [p.relative_to(root).as_posix() for p in files]
    return members


def _relations(path: Path) -> list[tuple[str, str]]:
    return [(row["p1"], row["p2"]) for row in _rows(path, "p1", "p2")]


def _kaggle_test(root: Path) -> Pairs:
    path = root / "sample_submission.csv"
    names = [row["img_pair"] or "" for row in _rows(path, "img_pair", "is_related")]
    items: list[tuple[str, ...]] = []
    for number, name in enumerate(names, start=2):
        faces = name.split("-")
        if len(faces) != 2:
            raise EvaluationError(
                f"{path.name} line {number}: expected faceA.jpg-faceB.jpg, got {name!r}"
            )
        items.append(tuple(f"test/{inside(face, path)}" for face in faces))
    return Pairs(root, items, np.full(len(items), UNKNOWN, np.int64), tuple(names))


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
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
