"""Layouts of published data sets on disk, downloaded and unpacked.

Each layout is detected by a file or folder of its own and read into a Dataset.
Annotations are downloaded files, so they are not trusted: no pickles are loaded, and no
name may lead out of the data set's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builders.evaluation.datasets import Dataset, EvaluationError, LabelledImages
from builders.evaluation.layouts import attributes, fiw, folders, market1501, zero_shot


@dataclass(frozen=True)
class Layout:
    """How a data set is detected and read.

    Attributes:
        marker: Path below the root that only this layout has; "" without one.
        default_part: Part that is evaluated if none is named.
        read: Function of root, part and random partition that reads the data set.
    """

    marker: str
    default_part: str
    read: Callable[[Path, str, int], Dataset]


LAYOUTS: Mapping[str, Layout] = {
    "pa100k": Layout("annotation.mat", "test", attributes.read_pa100k),
    "peta": Layout("PETA.mat", "test", attributes.read_peta),
    "rap": Layout("RAP_annotation/RAP_annotation.mat", "test", attributes.read_rap),
    "market-attributes": Layout(
        "market_attribute.mat", "test", attributes.read_market_attributes
    ),
    "market1501": Layout("bounding_box_test", "test", market1501.read_market1501),
    "fiw": Layout("train_relationships.csv", "val", fiw.read_fiw),
    "imagenet": Layout("val.txt", "val", folders.read_imagenet),
    "image-folder": Layout("", "all", folders.read_image_folder),
}
"""Layouts by name, in the order in which they are tried."""


def detect_layout(root: Path) -> str:
    """Detect the layout of a data set.

    Args:
        root: Folder of the data set.

    Returns:
        The layout's name, a key of LAYOUTS.

    Raises:
        EvaluationError: If `root` is no folder, or has none of the known layouts.
    """
    if not root.is_dir():
        raise EvaluationError(f"{root}: no such folder; expected a data set's root")
    for name, layout in LAYOUTS.items():
        if layout.marker and (root / layout.marker).exists():
            return name
    if folders.has_gender_folders(root):
        return "image-folder"
    if folders.has_synset_folders(root):
        return "imagenet"
    markers = ", ".join(f"{x.marker} ({n})" for n, x in LAYOUTS.items() if x.marker)
    raise EvaluationError(
        f"{root}: no known layout; looked for {markers}, folders male and female "
        "(image-folder), and synset folders (imagenet); name the layout with --layout"
    )


def read_dataset(
    root: Path, layout: str, part: str | None = None, partition: int = 0
) -> Dataset:
    """Read the labels and image names of a data set.

    Args:
        root: Folder of the data set.
        layout: A key of LAYOUTS.
        part: "train", "val", "test" or "all", as the layout offers; its default if
            None.
        partition: Random partition, 0 to 4, of the sets that have several (PETA, RAP).
            A zero-shot split in the data set's folder replaces them.

    Returns:
        The data set. Its image files are not opened.

    Raises:
        EvaluationError: If the annotations cannot be read, or the part is unknown or
            empty.
    """
    part = part or LAYOUTS[layout].default_part
    has_split = zero_shot.has_zero_shot_split(root, layout)
    if has_split and partition:
        raise EvaluationError(
            f"--partition {partition}, but {zero_shot.SPLIT_FILE} of {root} says the "
            "parts; leave out --partition, or rename the file"
        )
    dataset = LAYOUTS[layout].read(root, "all" if has_split else part, partition)
    if has_split and isinstance(dataset, LabelledImages):
        dataset = zero_shot.select_zero_shot_part(dataset, part)
    if not dataset.items:
        raise EvaluationError(f"{root}: no images in part {part!r}")
    facts = {
        "root": str(root),
        "layout": layout,
        "part": part,
        "partition": zero_shot.PARTITION if has_split else partition,
    }
    return replace(dataset, facts=facts)
