"""Classes as folders: gender (male/, female/) and ImageNet's validation set.

An image folder may have a groups.csv: a column `file`, then any columns to break errors
down by. ImageNet is either val/<synset>/*.JPEG, or val.txt ("name label" per line) next
to val/, as in Caffe's and tensorpack's ILSVRC12 metadata
(https://github.com/tensorpack/tensorpack, tensorpack/dataflow/dataset/ilsvrc.py).
synsets.txt names the classes in the order of their labels; without it that is the
folders' order (sorted WordNet ids are the order of ILSVRC12).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from builders.evaluation.datasets import (
    EvaluationError,
    IntArray,
    LabelledImages,
    require_inner_path,
)
from builders.evaluation.layouts.attributes import GENDERS
from builders.images import find_images

SYNSET = re.compile(r"n\d{8}")
GROUPS_FILE = "groups.csv"


def has_gender_folders(root: Path) -> bool:
    """Return whether there is a folder for each gender.

    Args:
        root: Folder of the data set.
    """
    return all((root / name).is_dir() for name in GENDERS)


def has_synset_folders(root: Path) -> bool:
    """Return whether there are folders named like n01440764.

    Args:
        root: Folder of the data set; its val/ is searched if it has one.
    """
    return any(SYNSET.fullmatch(p.name) for p in _validation_folder(root).iterdir())


def read_image_folder(root: Path, part: str, _partition: int) -> LabelledImages:
    """Read male/ and female/, at any depth.

    Args:
        root: Folder of the data set.
        part: "all", the only part.

    Raises:
        EvaluationError: If a folder is missing, or groups.csv is damaged.
    """
    if part != "all":
        raise EvaluationError(f"image-folder has no part {part!r}, only 'all'")
    if not has_gender_folders(root):
        raise EvaluationError(f"{root}: expected the folders {' and '.join(GENDERS)}")
    files, labels = _read_class_folders(root, root, GENDERS)
    groups = _read_groups(root / GROUPS_FILE, files)
    return LabelledImages(root, tuple(files), GENDERS, labels, groups)


def read_imagenet(root: Path, part: str, _partition: int) -> LabelledImages:
    """Read the validation set, or the training set's folders.

    Args:
        root: Folder of the data set.
        part: "val" or "train", the parts with public labels.

    Raises:
        EvaluationError: If the part is neither, or val.txt is damaged.
    """
    if part not in {"train", "val"}:
        raise EvaluationError(f"imagenet has the parts train and val, not {part!r}")
    is_train = part == "train"
    folder = root / "train" if is_train else _validation_folder(root)
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no such folder")
    synsets = root / "synsets.txt"
    if synsets.is_file():
        names = synsets.read_text(encoding="utf-8").split()
    else:
        names = sorted(p.name for p in folder.iterdir() if SYNSET.fullmatch(p.name))
    listing = root / "val.txt"
    if listing.is_file() and not is_train:
        files, labels = _read_listing(listing, folder, root, names)
    else:
        files, labels = _read_class_folders(root, folder, names)
    if not names:
        names = [str(label) for label in range(labels.max(initial=-1) + 1)]
    return LabelledImages(root, tuple(files), tuple(names), labels)


def _read_class_folders(
    root: Path, folder: Path, names: Sequence[str]
) -> tuple[list[str], IntArray]:
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        images = find_images(folder / name, recursive=True)
        files += [path.relative_to(root).as_posix() for path in images]
        labels += [label] * len(images)
    return files, np.array(labels, np.int64)


def _read_listing(
    listing: Path, folder: Path, root: Path, names: list[str]
) -> tuple[list[str], IntArray]:
    """Read val.txt, where names may lack the folder of their class."""
    files, labels = [], []
    prefix = "" if folder == root else f"{folder.name}/"
    lines = listing.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdigit():
            raise EvaluationError(
                f"{listing.name} line {number}: expected `name label`, got {line!r}"
            )
        file = prefix + require_inner_path(name, listing)
        if not (root / file).is_file() and int(label) < len(names):
            file = f"{prefix}{names[int(label)]}/{name}"
        files.append(file)
        labels.append(int(label))
    return files, np.array(labels, np.int64)


def _validation_folder(root: Path) -> Path:
    return root / "val" if (root / "val").is_dir() else root


def _read_groups(path: Path, files: list[str]) -> dict[str, tuple[str, ...]]:
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
