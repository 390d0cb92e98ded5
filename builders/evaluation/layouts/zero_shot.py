"""Zero-shot splits of PETA and RAP: no person of training is judged on.

The published random partitions have the same people on all sides. Jia et al.,
"Rethinking of Pedestrian Attribute Recognition" (arXiv:2005.11909), publish splits by
identity instead, as pickles, which are not read: loading one can run any program. Their
content is given as zero_shot.csv in the data set's folder:

    file,part,identity
    images/00001.png,train,17

`part` is train, val or test. `identity` is a whole number, empty where it is unknown;
the column can be left out. Images that the file does not name are in no part.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from builders.evaluation.datasets import (
    IDENTITY_COLUMN,
    EvaluationError,
    LabelledImages,
)

SPLIT_FILE = "zero_shot.csv"
PARTITION = "zero-shot"
"""What reports name as the partition."""

LAYOUTS_WITH_SPLIT = ("peta", "rap")
PARTS = ("train", "val", "test")
MAX_BYTES = 16 << 20
"""RAP 2, the largest set, has 84,928 images, whose rows take less than 4 MiB."""


def has_zero_shot_split(root: Path, layout: str) -> bool:
    """Return whether a data set has a zero-shot split.

    Args:
        root: Folder of the data set.
        layout: Its layout.
    """
    return layout in LAYOUTS_WITH_SPLIT and (root / SPLIT_FILE).is_file()


def select_zero_shot_part(images: LabelledImages, part: str) -> LabelledImages:
    """Return the images of a part of the zero-shot split.

    Args:
        images: All images of the data set.
        part: "train", "val", "test", or "all" for all that the split names.

    Returns:
        Them, with the group "identity" if the split has that column.

    Raises:
        EvaluationError: The file is damaged, names an image that the data set lacks, or
            the part is unknown.
    """
    if part not in (*PARTS, "all"):
        raise EvaluationError(f"{SPLIT_FILE} has no part {part!r}; {', '.join(PARTS)}")
    split = _read_split(images.root / SPLIT_FILE)
    absent = sorted(set(split) - set(images.files))
    if absent:
        raise EvaluationError(
            f"{SPLIT_FILE} names {absent[0]!r} ({len(absent)} such rows), which is no "
            f"image of the data set; expected names like {images.files[0]!r}"
        )
    chosen = [
        row
        for row, file in enumerate(images.files)
        if file in split and part in {"all", split[file][0]}
    ]
    files = tuple(images.files[row] for row in chosen)
    groups = {
        name: tuple(column[row] for row in chosen)
        for name, column in images.groups.items()
    }
    people = tuple(split[file][1] for file in files)
    if any(people):
        groups[IDENTITY_COLUMN] = people
    labels = images.labels[np.array(chosen, np.int64)]
    return replace(images, files=files, labels=labels, groups=groups)


def _read_split(path: Path) -> dict[str, tuple[str, str]]:
    """Return part and identity of each file."""
    if path.stat().st_size > MAX_BYTES:
        raise EvaluationError(f"{path.name}: expected at most {MAX_BYTES} bytes")
    rows: dict[str, tuple[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "part"} <= set(reader.fieldnames or ()):
                raise EvaluationError(
                    f"{path.name}: expected the columns file, part and, optionally, "
                    f"{IDENTITY_COLUMN}; got {', '.join(reader.fieldnames or ())}"
                )
            for row in reader:
                file, part = row["file"], row["part"]
                person = row.get(IDENTITY_COLUMN) or ""
                is_number = not person or (person.isascii() and person.isdigit())
                if part not in PARTS or not is_number or len(person) > 18:
                    raise EvaluationError(
                        f"{path.name} line {reader.line_num}: expected a part of "
                        f"{', '.join(PARTS)} and a whole number or nothing as "
                        f"{IDENTITY_COLUMN}; got {part!r} and {person!r}"
                    )
                if file in rows:
                    raise EvaluationError(
                        f"{path.name} line {reader.line_num}: {file!r} is named twice; "
                        "remove one of the rows"
                    )
                rows[file] = part, person
    except (UnicodeDecodeError, csv.Error) as exc:
        raise EvaluationError(f"{path.name}: not a CSV file: {exc}") from exc
    return rows
