"""Classes as folders: gender (male/, female/) and ImageNet's validation set.

An image folder may have groups.csv: a column `file`, then any columns to break errors
down by. ImageNet is either val/<synset>/*.JPEG, or val.txt ("name label" a line) beside
val/, as seed 003 has it; synsets.txt names the classes in their order, which otherwise
is the folders' (sorted WordNet ids are ILSVRC12's order).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from builders.evaluation.datasets import (
    PICTURE_SUFFIXES,
    EvaluationError,
    Labelled,
    inside,
)
from builders.evaluation.layouts.attributes import GENDERS

SYNSET = re.compile(r"n\d{8}")
GROUPS_FILE = "groups.csv"


def has_gender_folders(root: Path) -> bool:
    """Whether there is a folder for each gender."""
    return all((root / name).is_dir() for name in GENDERS)


def has_synset_folders(root: Path) -> bool:
    """Whether `root` or its val/ has folders named like n01440764."""
    return any(SYNSET.fullmatch(p.name) for p in _pictures_root(root).iterdir())


def read_image_folder(root: Path, part: str, _partition: int) -> Labelled:
    """male/ and female/, at any depth below."""
    if part != "all":
        raise EvaluationError(f"image-folder has no part {part!r}, only 'all'")
    if not has_gender_folders(root):
        raise EvaluationError(f"{root}: expected the folders {' and '.join(GENDERS)}")
    files, labels = [], []
    for label, name in enumerate(GENDERS):
        found = _pictures_below(root, root / name)
        files += found
        labels += [label] * len(found)
    groups = _groups(root / GROUPS_FILE, files)
    return Labelled(root, tuple(files), GENDERS, np.array(labels, np.int64), groups)


def read_imagenet(root: Path, part: str, _partition: int) -> Labelled:
    """The validation set."""
    if part != "val":
        raise EvaluationError(f"imagenet is evaluated on 'val', not {part!r}")
    base = _pictures_root(root)
    synsets = root / "synsets.txt"
    if synsets.is_file():
        names = synsets.read_text(encoding="utf-8").split()
    else:
        names = sorted(p.name for p in base.iterdir() if SYNSET.fullmatch(p.name))
    listing = root / "val.txt"
    if listing.is_file():
        files, labels = _listed(listing, base, root, names)
    else:
        files, labels = [], []
        for label, name in enumerate(names):
            found = _pictures_below(root, base / name)
            files += found
            labels += [label] * len(found)
    if not names:
        names = [str(label) for label in range(max(labels, default=-1) + 1)]
    return Labelled(root, tuple(files), tuple(names), np.array(labels, np.int64))


def _listed(
    listing: Path, base: Path, root: Path, names: list[str]
) -> tuple[list[str], list[int]]:
    """Names in val.txt are without their folder, which is the class's where it is
    there.
    """
    files, labels = [], []
    prefix = "" if base == root else f"{base.name}/"
    lines = listing.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdigit():
            raise EvaluationError(
                f"{listing.name} line {number}: expected `name label`, got {line!r}"
            )
        file = prefix + inside(name, listing)
        if not (root / file).is_file() and int(label) < len(names):
            file = f"{prefix}{names[int(label)]}/{name}"
        files.append(file)
        labels.append(int(label))
    return files, labels


def _pictures_root(root: Path) -> Path:
    return root / "val" if (root / "val").is_dir() else root


def _pictures_below(root: Path, folder: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
    )


def _groups(path: Path, files: list[str]) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = [c for c in reader.fieldnames or () if c != "file"]
        if "file" not in (reader.fieldnames or ()):
            raise EvaluationError(f"{path.name}: expected a column `file`")
        rows = {row["file"]: row for row in reader}
    return {
        column: tuple((rows.get(file, {}).get(column) or "") for file in files)
        for column in columns
    }
