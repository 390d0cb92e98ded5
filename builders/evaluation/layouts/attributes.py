"""Gender from pedestrian attribute sets: PA-100K, PETA, RAP 1 and 2, Market-1501.

Their annotations are MATLAB files; every other attribute becomes a group column. Any
value that is neither 0 nor 1 (RAP writes 2) is unknown. Positions inside the files are
those that the sets' published evaluation code reads (valencebond/Rethinking_of_PAR,
dangweili/pedestrian-attribute-recognition-pytorch, vana77/Market-1501_Attribute).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.evaluation.datasets import (
    UNKNOWN,
    EvaluationError,
    IntArray,
    Labelled,
    inside,
)
from builders.evaluation.layouts.market1501 import identity_and_camera, pictures_in
from builders.models.person_gender import FEMALE_PROBABILITY

GENDERS = FEMALE_PROBABILITY.labels or ()
MAX_ANNOTATION_BYTES = 1 << 30
PARTITIONS = 5


def read_pa100k(root: Path, part: str, _partition: int) -> Labelled:
    """PA-100K: annotation.mat, pictures in data/ or release_data/release_data/."""
    path = root / "annotation.mat"
    data = _annotation(path)
    parts = ("train", "val", "test") if part == "all" else (part,)
    names: list[str] = []
    rows = []
    try:
        columns = _strings(data["attributes"])
        for each in parts:
            names += _strings(data[f"{each}_images_name"])
            rows.append(np.asarray(data[f"{each}_label"], np.int64))
    except KeyError as exc:
        raise _unknown_part(path, part, exc) from exc
    folder = "data" if (root / "data").is_dir() else "release_data/release_data"
    values = np.concatenate(rows)
    return _labelled(root, path, folder, names, columns, values, "Female")


def read_peta(root: Path, part: str, partition: int) -> Labelled:
    """PETA: PETA.mat, images/00001.png ..., five random partitions."""
    path = root / "PETA.mat"
    peta = _record(_annotation(path), "peta", path)
    try:
        # the first four columns are not attributes
        values = np.asarray(peta[0][:, 4:], np.int64)
        columns = _strings(peta[1])
        parts = peta[3][_checked(partition), 0][0, 0]
        chosen = _rows(parts, ("train", "val", "test"), part, len(values), path)
    except (IndexError, TypeError) as exc:
        raise _not_as_published(path, exc) from exc
    names = [f"{index + 1:05}.png" for index in chosen]
    return _labelled(root, path, "images", names, columns, values[chosen], "Male")


def read_rap(root: Path, part: str, partition: int) -> Labelled:
    """RAP 1 or 2: RAP_annotation/RAP_annotation.mat, pictures in RAP_dataset/."""
    path = root / "RAP_annotation" / "RAP_annotation.mat"
    rap = _record(_annotation(path), "RAP_annotation", path)
    try:
        if isinstance(rap[0][0, 0], np.ndarray) and rap[0][0, 0].dtype.kind == "U":
            files, values, columns = _strings(rap[0]), rap[1], _strings(rap[2])
            parts = rap[4][0, _checked(partition)][0, 0]
            order: tuple[str, ...] = ("train", "val", "test")
        else:
            files, values, columns = _strings(rap[5]), rap[1], _strings(rap[3])
            parts = rap[0][_checked(partition), 0][0, 0]
            order = ("train", "test")
        values = np.asarray(values, np.int64)
        chosen = _rows(parts, order, part, len(values), path)
    except (IndexError, TypeError) as exc:
        raise _not_as_published(path, exc) from exc
    names = [files[index] for index in chosen]
    return _labelled(
        root, path, "RAP_dataset", names, columns, values[chosen], "Female"
    )


def read_market_attributes(root: Path, part: str, _partition: int) -> Labelled:
    """Market-1501's attributes: market_attribute.mat beside the pictures' folders;
    they are the identities', and 1 means no (or male), 2 yes (or female).
    """
    path = root / "market_attribute.mat"
    found = _annotation(path)["market_attribute"][0, 0]
    folders = {"train": ["bounding_box_train"], "test": ["bounding_box_test"]}
    folders["all"] = [folder for each in folders.values() for folder in each]
    if part not in folders:
        raise _unknown_part(path, part)
    known: dict[int, dict[str, int]] = {}
    for each in ("train", "test"):
        record = found[each][0, 0]
        identities = [int(text) for text in _strings(record["image_index"])]
        for column in record.dtype.names:
            if column != "image_index":
                for identity, value in zip(
                    identities, record[column].ravel(), strict=True
                ):
                    known.setdefault(identity, {})[column] = int(value)
    files = [
        file
        for folder in folders[part]
        for file in pictures_in(root, folder)
        if identity_and_camera(file)[0] in known
    ]
    columns = sorted({column for values in known.values() for column in values})
    values = np.array(
        [
            [known[identity_and_camera(file)[0]].get(c, 0) - 1 for c in columns]
            for file in files
        ],
        np.int64,
    ).reshape(len(files), len(columns))
    return _labelled(root, path, "", files, columns, values, "gender")


def _labelled(
    root: Path,
    annotation: Path,
    folder: str,
    names: Sequence[str],
    columns: Sequence[str],
    values: npt.NDArray[np.int64],
    gender: str,
) -> Labelled:
    """Of `values` [N, columns], the one called like `gender` is the label."""
    if values.shape != (len(names), len(columns)):
        raise EvaluationError(
            f"{annotation.name}: labels of shape {values.shape} for {len(names)} "
            f"pictures and {len(columns)} attributes"
        )
    matching = [i for i, name in enumerate(columns) if _plain(name) == gender.lower()]
    if not matching:
        raise EvaluationError(
            f"{annotation.name} has no attribute {gender!r}, only {', '.join(columns)}"
        )
    labels: IntArray = np.where(
        np.isin(values[:, matching[0]], (0, 1)), values[:, matching[0]], UNKNOWN
    )
    if gender == "Male":
        labels = np.where(labels == UNKNOWN, UNKNOWN, 1 - labels)
    texts = {0: "no", 1: "yes"}
    groups = {
        name: tuple(texts.get(int(value), "") for value in values[:, index])
        for index, name in enumerate(columns)
        if index != matching[0]
    }
    prefix = f"{folder}/" if folder else ""
    files = tuple(prefix + inside(name, annotation) for name in names)
    return Labelled(root, files, GENDERS, labels, groups)


def _plain(attribute: str) -> str:
    """PETA says personalMale, RAP 1 Female and RAP 2 Femal or Female."""
    plain = attribute.lower().removeprefix("personal")
    return "female" if plain == "femal" else plain


def _annotation(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    if path.stat().st_size > MAX_ANNOTATION_BYTES:
        raise EvaluationError(
            f"{path.name}: {path.stat().st_size:,} bytes, over the limit of "
            f"{MAX_ANNOTATION_BYTES:,}"
        )
    try:
        return dict(loadmat(path))
    except NotImplementedError as exc:
        raise EvaluationError(
            f"{path.name}: written for MATLAB 7.3 (HDF5); save it with -v7"
        ) from exc
    except Exception as exc:
        # a damaged file can fail in any way
        raise EvaluationError(f"{path.name}: not a MATLAB file ({exc})") from exc


def _record(data: dict[str, Any], name: str, path: Path) -> Any:
    try:
        return data[name][0, 0]
    except (KeyError, IndexError) as exc:
        raise _not_as_published(path, exc) from exc


def _strings(cells: npt.NDArray[Any]) -> list[str]:
    """A MATLAB cell array of texts."""
    return [str(np.ravel(cell)[0]) for cell in np.ravel(cells)]


def _checked(partition: int) -> int:
    if not 0 <= partition < PARTITIONS:
        raise EvaluationError(
            f"--partition {partition}: expected 0 to {PARTITIONS - 1}, its random "
            "partitions"
        )
    return partition


def _rows(
    parts: Any, order: Sequence[str], part: str, total: int, path: Path
) -> IntArray:
    """Rows, from 0, of `part`, among index lists in `order`."""
    if part == "all":
        return np.arange(total)
    if part not in order:
        raise _unknown_part(path, part)
    rows = np.ravel(parts[order.index(part)]).astype(np.int64) - 1
    if rows.size and not 0 <= rows.min() <= rows.max() < total:
        raise EvaluationError(
            f"{path.name}: part {part!r} names pictures that are not among its {total}"
        )
    return rows


def _unknown_part(
    path: Path, part: str, exc: Exception | None = None
) -> EvaluationError:
    because = f" ({exc!r} is missing)" if exc else ""
    return EvaluationError(f"{path.name} has no part {part!r}{because}")


def _not_as_published(path: Path, exc: Exception) -> EvaluationError:
    return EvaluationError(f"{path.name} is not built as the published file is: {exc}")
