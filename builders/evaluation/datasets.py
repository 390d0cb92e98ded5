"""Evaluation data sets: labelled images, retrieval images and image pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.errors import BuildersError

IntArray = npt.NDArray[np.int64]

UNKNOWN = -1
"""Label of an image or pair that the data set does not label."""

IDENTITY_COLUMN = "identity"
"""Group that names the person of each image."""


class EvaluationError(BuildersError, ValueError):
    """A data set or a run that cannot be evaluated."""


@dataclass(frozen=True)
class LabelledImages:
    """Images of classes.

    Attributes:
        root: Folder of the data set.
        files: Image files, relative to `root`.
        names: Class names, in the order of the labels.
        labels: Class of each image, INT64 [N]: an index into `names`, or UNKNOWN.
        groups: Further columns by name, one value per image, "" where it is unknown.
            Errors can be broken down by them.
        facts: How the data set was read (root, layout, part, partition), for reports.
    """

    root: Path
    files: tuple[str, ...]
    names: tuple[str, ...]
    labels: IntArray
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Image files of each row of a network's output, here one."""
        return [(file,) for file in self.files]


@dataclass(frozen=True)
class RetrievalImages:
    """Query images and the gallery that they are searched in.

    Attributes:
        root: Folder of the data set.
        files: Image files, relative to `root`: the queries, then the gallery.
        identities: Person of each image, INT64 [N].
        cameras: Camera of each image, INT64 [N].
        queries: Number of queries.
        facts: How the data set was read (root, layout, part, partition), for reports.
    """

    root: Path
    files: tuple[str, ...]
    identities: IntArray
    cameras: IntArray
    queries: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Image files of each row of a network's output, here one."""
        return [(file,) for file in self.files]


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of face images.

    Attributes:
        root: Folder of the data set.
        items: Two image files per pair, relative to `root`.
        related: Label of each pair, INT64 [N]: 1 if the two are related, 0 if not,
            UNKNOWN if the data set does not say.
        pair_names: Names of the pairs in a submission file; empty without one.
        facts: How the data set was read (root, layout, part, partition), for reports.
    """

    root: Path
    items: list[tuple[str, ...]]
    related: IntArray
    pair_names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


Dataset = LabelledImages | RetrievalImages | ImagePairs


def require_inner_path(name: str, annotation: Path) -> str:
    """Return an image's name from an annotation as a path below its folder.

    Annotations are downloaded files, so their names are not trusted.

    Args:
        name: Name of an image, as the annotation spells it.
        annotation: The annotation file, for the error message.

    Returns:
        The name as a relative POSIX path.

    Raises:
        EvaluationError: If the name is absolute or leads out of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise EvaluationError(
            f"{annotation.name} names the image {name!r}, which leads out of its "
            "folder; that file is not used"
        )
    return str(path)
