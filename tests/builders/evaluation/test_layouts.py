"""Small data sets in each published layout, written here and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from builders.evaluation.datasets import (
    EvaluationError,
    ImagePairs,
    LabelledImages,
    RetrievalImages,
)
from builders.evaluation.layouts import detect_layout, read_dataset
from builders.images import UnreadableImageError


def _cells(values: list[Any], *, row: bool = False) -> np.ndarray:
    """A MATLAB cell array: a column, or a row."""
    array = np.empty((1, len(values)) if row else (len(values), 1), object)
    array.ravel()[:] = values
    return array


def _pa100k(root: Path) -> None:
    content = {"attributes": _cells(["Female", "AgeOver60", "Front"])}
    for part, first in (("train", 1), ("val", 5), ("test", 9)):
        names = [f"{first + i:06}.jpg" for i in range(4)]
        content[f"{part}_images_name"] = _cells(names)
        content[f"{part}_label"] = np.array(
            [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0]], np.uint8
        )
    (root / "data").mkdir()
    savemat(root / "annotation.mat", content)


def _peta(root: Path) -> None:
    values = np.zeros((6, 4 + 3), np.uint16)
    values[:, 4:] = [[1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 2], [1, 0, 1], [0, 1, 0]]
    parts = [
        {
            "train": np.array([[1], [2]]),
            "val": np.array([[3]]),
            "test": np.array([[4], [5 + n % 2]]),
        }
        for n in range(5)
    ]
    names = ["personalMale", "accessoryHat", "carryingBackpack"]
    peta = {
        "data": values,
        "attributes": _cells(names),
        "selected": np.arange(3),
        "partition": _cells(parts),
    }
    savemat(root / "PETA.mat", {"peta": peta})


def _rap1(root: Path) -> None:
    parts = [{"train": np.array([[1, 2]]), "test": np.array([[3, 4]])}] * 5
    rap = {
        "partition": _cells(parts),
        "label": np.array([[1, 0], [0, 1], [2, 1], [0, 0]], np.uint8),
        "chinese": _cells(["a", "b"]),
        "english": _cells(["Female", "AgeLess16"]),
        "position": np.zeros((4, 2)),
        "imagesname": _cells([f"CAM01-{n}.png" for n in range(4)]),
        "exp": _cells(["a", "b"]),
    }
    (root / "RAP_annotation").mkdir()
    savemat(root / "RAP_annotation" / "RAP_annotation.mat", {"RAP_annotation": rap})


def _rap2(root: Path) -> None:
    part = {
        "train": np.array([[1]]),
        "val": np.array([[2]]),
        "test": np.array([[4, 3]]),
    }
    rap = {
        "name": _cells([f"CAM01-{n}.png" for n in range(4)]),
        "data": np.array([[1, 0], [0, 1], [2, 1], [0, 0]], np.uint8),
        "attribute": _cells(["Femal", "AgeLess16"]),
        "selected": np.array([[1, 2]]),
        "partition": _cells([part] * 5, row=True),
    }
    (root / "RAP_annotation").mkdir()
    savemat(root / "RAP_annotation" / "RAP_annotation.mat", {"RAP_annotation": rap})


def _market_attributes(root: Path) -> None:
    def people(identities: list[str], gender: list[int], hat: list[int]) -> Any:
        return {
            "gender": np.array([gender]),
            "hat": np.array([hat]),
            "image_index": _cells(identities, row=True),
        }

    attributes = {
        "train": people(["0002"], [1], [1]),
        "test": people(["0001", "0003"], [1, 2], [2, 1]),
    }
    savemat(root / "market_attribute.mat", {"market_attribute": attributes})
    _market1501(root)


def _market1501(root: Path) -> None:
    for folder in ("query", "bounding_box_test", "bounding_box_train"):
        (root / folder).mkdir()
    for name in (
        "query/0001_c1s1_000001_00.jpg",
        "query/0003_c2s1_000002_00.jpg",
        "bounding_box_test/-1_c1s1_000003_01.jpg",
        "bounding_box_test/0000_c1s1_000004_01.jpg",
        "bounding_box_test/0001_c2s1_000005_01.jpg",
        "bounding_box_test/0003_c2s3_000006_01.jpg",
        "bounding_box_test/Thumbs.db",
    ):
        (root / name).touch()


def _image_folder(root: Path) -> None:
    for name in ("male/a.jpg", "male/deep/b.png", "female/c.webp", "female/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "groups.csv").write_text("file,camera\nmale/a.jpg,north\nfemale/c.webp,\n")


def _imagenet(root: Path) -> None:
    for name in ("n01440764/x.JPEG", "n01443537/y.JPEG", "n01443537/z.JPEG"):
        (root / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "val" / name).touch()


def _imagenet_listed(root: Path) -> None:
    _imagenet(root)
    (root / "val.txt").write_text("y.JPEG 0\nx.JPEG 1\n")
    (root / "synsets.txt").write_text("n01443537\nn01440764\n")


LABELLED: dict[str, tuple[Callable[[Path], None], str, list[str], list[int]]] = {
    "pa100k": (_pa100k, "pa100k", ["data/000009.jpg", "data/000010.jpg"], [1, 0, 1, 0]),
    "peta": (_peta, "peta", ["images/00004.png", "images/00005.png"], [1, 0]),
    "rap 1": (_rap1, "rap", ["RAP_dataset/CAM01-2.png"], [-1, 0]),
    "rap 2": (_rap2, "rap", ["RAP_dataset/CAM01-3.png"], [0, -1]),
    "market": (
        _market_attributes,
        "market-attributes",
        ["bounding_box_test/0001_c2s1_000005_01.jpg"],
        [0, 1],
    ),
    "folder": (
        _image_folder,
        "image-folder",
        ["male/a.jpg", "male/deep/b.png", "female/c.webp"],
        [0, 0, 1],
    ),
    "imagenet": (_imagenet, "imagenet", ["val/n01440764/x.JPEG"], [0, 1, 1]),
    "imagenet, listed": (
        _imagenet_listed,
        "imagenet",
        ["val/n01443537/y.JPEG", "val/n01440764/x.JPEG"],
        [0, 1],
    ),
}


@pytest.mark.parametrize(
    ("make", "layout", "files", "labels"), LABELLED.values(), ids=LABELLED
)
def test_labelled_layouts(
    tmp_path: Path,
    make: Callable[[Path], None],
    layout: str,
    files: list[str],
    labels: list[int],
) -> None:
    make(tmp_path)
    assert detect_layout(tmp_path) == layout
    data = read_dataset(tmp_path, layout)
    assert isinstance(data, LabelledImages)
    assert list(data.files[: len(files)]) == files
    assert data.labels.tolist() == labels
    assert layout == "imagenet" or data.names == ("male", "female")


def test_other_attributes_are_groups(tmp_path: Path) -> None:
    _rap1(tmp_path)
    data = read_dataset(tmp_path, "rap", "all")
    assert isinstance(data, LabelledImages)
    assert data.groups == {"AgeLess16": ("no", "yes", "yes", "no")}
    assert data.labels.tolist() == [1, 0, -1, 0]


def test_groups_of_an_image_folder(tmp_path: Path) -> None:
    _image_folder(tmp_path)
    data = read_dataset(tmp_path, "image-folder")
    assert isinstance(data, LabelledImages)
    assert data.groups == {"camera": ("north", "", "")}


def test_partitions_and_parts(tmp_path: Path) -> None:
    _peta(tmp_path)
    assert read_dataset(tmp_path, "peta", "test", 1).items[1] == ("images/00006.png",)
    assert len(read_dataset(tmp_path, "peta", "all").items) == 6
    with pytest.raises(EvaluationError, match="no part 'dev'"):
        read_dataset(tmp_path, "peta", "dev")
    with pytest.raises(EvaluationError, match="expected 0 to 4"):
        read_dataset(tmp_path, "peta", "test", 5)


def _write_split(root: Path, *rows: str) -> None:
    text = "\n".join(("file,part,identity", *rows))
    (root / "zero_shot.csv").write_text(text, encoding="utf-8")


def test_a_zero_shot_split_replaces_the_random_partitions(tmp_path: Path) -> None:
    _peta(tmp_path)
    names = [f"images/{n + 1:05}.png" for n in range(6)]
    parts = ["test", "val", "train", "test", "train"]
    _write_split(
        tmp_path,
        *(
            f"{n},{p},{i // 2}"
            for i, (n, p) in enumerate(zip(names, parts, strict=False))
        ),
    )
    data = read_dataset(tmp_path, "peta")
    assert isinstance(data, LabelledImages)
    assert data.files == (names[0], names[3])
    assert data.labels.tolist() == [0, 1]
    assert data.groups["identity"] == ("0", "1")
    assert data.groups["accessoryHat"] == ("no", "no")
    assert data.facts["partition"] == "zero-shot"
    assert len(read_dataset(tmp_path, "peta", "all").items) == len(parts)
    with pytest.raises(EvaluationError, match="leave out --partition"):
        read_dataset(tmp_path, "peta", "test", 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/00009.png,train,1", "which is no image of the data set"),
        ("images/00001.png,dev,1", "line 2: expected a part of train, val, test"),
        ("images/00001.png,val,Ann", "whole number .* got 'val' and 'Ann'"),
        ("images/00001.png,val,1\nimages/00001.png,test,1", "line 3.*named twice"),
        ("images/00001.png,val,1", "no images in part 'train'"),
    ],
)
def test_a_damaged_zero_shot_split_is_explained(
    tmp_path: Path, row: str, message: str
) -> None:
    _peta(tmp_path)
    _write_split(tmp_path, row)
    with pytest.raises(EvaluationError, match=message):
        read_dataset(tmp_path, "peta", "train")


def test_market1501_drops_junk_and_keeps_distractors(tmp_path: Path) -> None:
    _market1501(tmp_path)
    assert detect_layout(tmp_path) == "market1501"
    data = read_dataset(tmp_path, "market1501")
    assert isinstance(data, RetrievalImages)
    assert data.queries == 2
    assert data.identities.tolist() == [1, 3, 0, 1, 3]
    assert data.cameras.tolist() == [1, 2, 1, 2, 2]


def test_refused_image_formats_are_named(tmp_path: Path) -> None:
    _market1501(tmp_path)
    (tmp_path / "query" / "0004_c1s1_000007_00.bmp").touch()
    with pytest.raises(UnreadableImageError, match=r"0004_.*\.bmp images are not acc"):
        read_dataset(tmp_path, "market1501")


def _fiw(root: Path) -> None:
    for family, members in (("F0001", 2), ("F0901", 3), ("F0902", 2)):
        for member in range(1, members + 1):
            folder = root / "train" / family / f"MID{member}"
            folder.mkdir(parents=True)
            for face in range(2):
                (folder / f"P0000{face}_face{member}.jpg").touch()
    relations = [
        "F0901/MID1,F0901/MID2",
        "F0902/MID1,F0902/MID2",
        "F0001/MID1,F0001/MID2",
    ]
    rows = "\n".join([*relations, "F0901/MID1,F0901/MID9"])
    (root / "train_relationships.csv").write_text(f"p1,p2\n{rows}\n")
    (root / "sample_submission.csv").write_text(
        "img_pair,is_related\nface05508.jpg-face01210.jpg,0\n"
    )


def test_families_in_the_wild(tmp_path: Path) -> None:
    _fiw(tmp_path)
    assert detect_layout(tmp_path) == "fiw"
    data = read_dataset(tmp_path, "fiw")
    assert isinstance(data, ImagePairs)
    assert data.related.tolist() == [1] * 8 + [0] * 8
    for (a, b), related in zip(data.items, data.related, strict=True):
        assert (a.split("/")[1] == b.split("/")[1]) == bool(related)
        assert a.split("/")[1].startswith("F09")
        assert (tmp_path / a).is_file()
    again = read_dataset(tmp_path, "fiw")
    assert again.items == data.items, "the draw is seeded"

    kaggle = read_dataset(tmp_path, "fiw", "test")
    assert kaggle.items == [("test/face05508.jpg", "test/face01210.jpg")]


def test_annotations_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    _pa100k(tmp_path)
    content = {
        "attributes": _cells(["Female"]),
        "test_images_name": _cells(["../../etc/passwd"]),
        "test_label": np.array([[1]]),
    }
    savemat(tmp_path / "annotation.mat", content)
    with pytest.raises(EvaluationError, match="leads out of its folder"):
        read_dataset(tmp_path, "pa100k")


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no known layout; .*PETA.mat \(peta\)"):
        detect_layout(tmp_path)
    with pytest.raises(EvaluationError, match="no such folder"):
        detect_layout(tmp_path / "nothing")
    (tmp_path / "PETA.mat").write_bytes(b"not a MATLAB file at all" * 10)
    with pytest.raises(EvaluationError, match="not a MATLAB file"):
        read_dataset(tmp_path, "peta")
    savemat(tmp_path / "PETA.mat", {"something": 1})
    with pytest.raises(EvaluationError, match="not built as the published file"):
        read_dataset(tmp_path, "peta")
    (tmp_path / "query").mkdir()
    (tmp_path / "bounding_box_test").mkdir()
    (tmp_path / "query" / "person.jpg").touch()
    with pytest.raises(EvaluationError, match="expected a name as 0002_c1s1"):
        read_dataset(tmp_path, "market1501")
