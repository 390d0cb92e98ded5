"""Data sets as they lie on disk when they have been downloaded and unpacked.

Each layout is recognised by a file or folder of its own, and read into what its
pictures are labelled with. Annotations are untrusted: no pickles, no names that lead
out of the data set's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builders.evaluation.datasets import Dataset, EvaluationError
from builders.evaluation.layouts import attributes, fiw, folders, market1501


@dataclass(frozen=True)
class Layout:
    """`marker` is a path that only this layout has; `part` what is evaluated if nobody
    says.
    """

    marker: str
    part: str
    read: Callable[[Path, str, int], Dataset]


LAYOUTS: Mapping[str, Layout] = {
    "pa100k": Layout("annotation.mat", "test", attributes.read_pa100k),
    "peta": Layout("PETA.mat", "test", attributes.read_peta),
    "rap": Layout("RAP_annotation/RAP_annotation.mat", "test", attributes.read_rap),
    "market-attributes": Layout(
        "market_attribute.mat", "test", attributes.read_market_attributes
    ),
    "market1501": Layout("bounding_box_test", "test", market1501.read),
    "fiw": Layout("train_relationships.csv", "val", fiw.read),
    "imagenet": Layout("val.txt", "val", folders.read_imagenet),
    "image-folder": Layout("", "all", folders.read_image_folder),
}
"""In the order in which they are recognised; an image folder has no marker."""


def recognised(root: Path) -> str:
    """The name of the layout of `root`. Raises EvaluationError."""
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
        "(image-folder), and synset folders (imagenet); say which with --layout"
    )


def read(root: Path, layout: str, part: str | None, partition: int = 0) -> Dataset:
    """The data set in `root`. Raises EvaluationError."""
    found = LAYOUTS[layout]
    data = found.read(root, part or found.part, partition)
    if not data.items:
        raise EvaluationError(f"{root}: no pictures in part {part or found.part!r}")
    return data
