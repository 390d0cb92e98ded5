"""Gender from pedestrian attribute sets: PA-100K, PETA, RAP 1 and 2, Market-1501.

The annotations are MATLAB files. Every other attribute becomes a group column. A value
that is neither 0 nor 1 (RAP writes 2) is unknown. The layout inside the files is the
one that the sets' evaluation code reads:

    PA-100K   Liu et al., "HydraPlus-Net", ICCV 2017
    PETA      Deng et al., "Pedestrian Attribute Recognition At Far Distance", 2014
    RAP       Li et al., "A Richly Annotated Dataset for Pedestrian Attribute
              Recognition", 2016 (RAP 1), and TIP 2019 (RAP 2)
    Market    Lin et al., "Improving Person Re-identification by Attribute and Identity
              Learning", Pattern Recognition 2019

    https://github.com/valencebond/Rethinking_of_PAR
    https://github.com/dangweili/pedestrian-attribute-recognition-pytorch
    https://github.com/vana77/Market-1501_Attribute
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builders.evaluation.datasets import (
    UNKNOWN,
    EvaluationError,
    IntArray,
    LabelledImages,
    require_inner_path,
)
from builders.evaluation.layouts.market1501 import list_folder_images, parse_name
from builders.evaluation.layouts.matlab import (
    load_annotation,
    require_record,
    strings_from_cells,
    structure_error,
)
from builders.models.person_gender import FEMALE_PROBABILITY

GENDERS = FEMALE_PROBABILITY.labels or ()
PARTITIONS = 5


def read_pa100k(root: Path, part: str, _partition: int) -> LabelledImages:
    """Read PA-100K: annotation.mat, images in data/ or release_data/release_data/.

    Args:
        root: Folder of the data set.
        part: "train", "val", "test" or "all".

    Raises:
        EvaluationError: If the annotation cannot be read or lacks the part.
    """
    path = root / "annotation.mat"
    data = load_annotation(path)
    parts = ("train", "val", "test") if part == "all" else (part,)
    names: list[str] = []
    blocks = []
    try:
        columns = strings_from_cells(data["attributes"])
        for each in parts:
            names += strings_from_cells(data[f"{each}_images_name"])
            blocks.append(np.asarray(data[f"{each}_label"], np.int64))
    except KeyError as exc:
        raise _unknown_part_error(path, part, exc) from exc
    folder = "data" if (root / "data").is_dir() else "release_data/release_data"
    table = _AttributeTable(path, folder, names, columns, np.concatenate(blocks))
    return table.label_gender(root, "Female")


def read_peta(root: Path, part: str, partition: int) -> LabelledImages:
    """Read PETA: PETA.mat, images/00001.png ..., five random partitions.

    Args:
        root: Folder of the data set.
        part: "train", "val", "test" or "all".
        partition: Random partition, 0 to 4.

    Raises:
        EvaluationError: If the annotation cannot be read, or lacks part or partition.
    """
    path = root / "PETA.mat"
    peta = require_record(load_annotation(path), "peta", path)
    try:
        # the first four columns are not attributes
        values = np.asarray(peta[0][:, 4:], np.int64)
        columns = strings_from_cells(peta[1])
        parts = peta[3][_require_partition(partition), 0][0, 0]
        rows = _select_rows(parts, ("train", "val", "test"), part, len(values), path)
    except (IndexError, TypeError) as exc:
        raise structure_error(path, exc) from exc
    names = [f"{index + 1:05}.png" for index in rows]
    table = _AttributeTable(path, "images", names, columns, values[rows])
    return table.label_gender(root, "Male")


def read_rap(root: Path, part: str, partition: int) -> LabelledImages:
    """Read RAP 1 or 2: RAP_annotation/RAP_annotation.mat, images in RAP_dataset/.

    Args:
        root: Folder of the data set.
        part: "train", "test" or "all", and "val" of RAP 2.
        partition: Random partition, 0 to 4.

    Raises:
        EvaluationError: If the annotation cannot be read, or lacks part or partition.
    """
    path = root / "RAP_annotation" / "RAP_annotation.mat"
    rap = require_record(load_annotation(path), "RAP_annotation", path)
    try:
        # RAP 2 starts with the file names, RAP 1 with the partitions
        if isinstance(rap[0][0, 0], np.ndarray) and rap[0][0, 0].dtype.kind == "U":
            files, columns = strings_from_cells(rap[0]), strings_from_cells(rap[2])
            parts = rap[4][0, _require_partition(partition)][0, 0]
            order: tuple[str, ...] = ("train", "val", "test")
        else:
            files, columns = strings_from_cells(rap[5]), strings_from_cells(rap[3])
            parts = rap[0][_require_partition(partition), 0][0, 0]
            order = ("train", "test")
        values = np.asarray(rap[1], np.int64)
        rows = _select_rows(parts, order, part, len(values), path)
    except (IndexError, TypeError) as exc:
        raise structure_error(path, exc) from exc
    names = [files[index] for index in rows]
    table = _AttributeTable(path, "RAP_dataset", names, columns, values[rows])
    return table.label_gender(root, "Female")


def read_market_attributes(root: Path, part: str, _partition: int) -> LabelledImages:
    """Read the attributes of Market-1501: market_attribute.mat next to its folders.

    The attributes belong to people, not to images. 1 means no (or male), 2 means yes
    (or female).

    Args:
        root: Folder of the data set.
        part: "train", "test" or "all".

    Raises:
        EvaluationError: If the annotation cannot be read or lacks the part.
    """
    path = root / "market_attribute.mat"
    folders = {"train": ["bounding_box_train"], "test": ["bounding_box_test"]}
    folders["all"] = [folder for each in folders.values() for folder in each]
    if part not in folders:
        raise _unknown_part_error(path, part)
    attributes = _read_market_people(path)
    files = [
        file
        for folder in folders[part]
        for file in list_folder_images(root, folder)
        if parse_name(file)[0] in attributes
    ]
    columns = sorted({column for values in attributes.values() for column in values})
    values = np.array(
        [
            [attributes[parse_name(file)[0]].get(column, 0) - 1 for column in columns]
            for file in files
        ],
        np.int64,
    ).reshape(len(files), len(columns))
    table = _AttributeTable(path, "", files, columns, values)
    return table.label_gender(root, "gender")


def _read_market_people(path: Path) -> dict[int, dict[str, int]]:
    """Return {person: {attribute: 1 or 2}} of all parts."""
    content = require_record(load_annotation(path), "market_attribute", path)
    people: dict[int, dict[str, int]] = {}
    for part in ("train", "test"):
        try:
            record = content[part][0, 0]
            indices = strings_from_cells(record["image_index"])
        except (ValueError, IndexError) as exc:
            raise structure_error(path, exc) from exc
        identities = [int(text) for text in indices]
        for column in record.dtype.names:
            if column == "image_index":
                continue
            for identity, value in zip(identities, record[column].ravel(), strict=True):
                people.setdefault(identity, {})[column] = int(value)
    return people


@dataclass(frozen=True)
class _AttributeTable:
    """The attributes of images: `values` is INT64 [len(names), len(columns)]."""

    annotation: Path
    folder: str
    names: Sequence[str]
    columns: Sequence[str]
    values: IntArray

    def label_gender(self, root: Path, gender: str) -> LabelledImages:
        """Use the attribute `gender` as label, and all others as groups."""
        column = self._require_column(gender)
        values = self.values[:, column]
        labels: IntArray = np.where(np.isin(values, (0, 1)), values, UNKNOWN)
        if gender == "Male":
            labels = np.where(labels == UNKNOWN, UNKNOWN, 1 - labels)
        texts = {0: "no", 1: "yes"}
        groups = {
            name: tuple(texts.get(int(value), "") for value in self.values[:, index])
            for index, name in enumerate(self.columns)
            if index != column
        }
        prefix = f"{self.folder}/" if self.folder else ""
        files = tuple(
            prefix + require_inner_path(name, self.annotation) for name in self.names
        )
        return LabelledImages(root, files, GENDERS, labels, groups)

    def _require_column(self, gender: str) -> int:
        if self.values.shape != (len(self.names), len(self.columns)):
            raise EvaluationError(
                f"{self.annotation.name}: labels of shape {self.values.shape} for "
                f"{len(self.names)} images and {len(self.columns)} attributes"
            )
        for index, name in enumerate(self.columns):
            if _normalise_attribute(name) == gender.lower():
                return index
        raise EvaluationError(
            f"{self.annotation.name} has no attribute {gender!r}, only "
            f"{', '.join(self.columns)}"
        )


def _normalise_attribute(attribute: str) -> str:
    """Unify PETA's personalMale, RAP 1's Female, and RAP 2's Femal or Female."""
    plain = attribute.lower().removeprefix("personal")
    return "female" if plain == "femal" else plain


def _require_partition(partition: int) -> int:
    if not 0 <= partition < PARTITIONS:
        raise EvaluationError(
            f"--partition {partition}: expected 0 to {PARTITIONS - 1}, one of "
            "the random partitions"
        )
    return partition


def _select_rows(
    parts: Any, order: Sequence[str], part: str, total: int, path: Path
) -> IntArray:
    """Return the rows, from 0, of `part`; `parts` are lists of rows, from 1."""
    if part == "all":
        return np.arange(total)
    if part not in order:
        raise _unknown_part_error(path, part)
    rows = np.ravel(parts[order.index(part)]).astype(np.int64) - 1
    if rows.size and not 0 <= rows.min() <= rows.max() < total:
        raise EvaluationError(
            f"{path.name}: part {part!r} names images that are not among its {total}"
        )
    return rows


def _unknown_part_error(
    path: Path, part: str, exc: Exception | None = None
) -> EvaluationError:
    because = f" ({exc!r} is missing)" if exc else ""
    return EvaluationError(f"{path.name} has no part {part!r}{because}")
