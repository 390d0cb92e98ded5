"""What a data set says about its pictures, whatever its layout on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

UNKNOWN = -1

PICTURE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".webp"))


class EvaluationError(ValueError):
    """A data set or a run that cannot be evaluated; says why and what to do."""


@dataclass(frozen=True)
class Labelled:
    """Pictures of classes. `labels` is INT64 [N], indices into `names`, UNKNOWN where
    the data set does not say. `groups` are further columns, one text a picture, empty
    where unknown.
    """

    root: Path
    files: tuple[str, ...]
    names: tuple[str, ...]
    labels: IntArray
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Files of each answer."""
        return [(file,) for file in self.files]


@dataclass(frozen=True)
class Retrieval:
    """Pictures to find each other by: the first `queries` files are sought among the
    rest. `identities` and `cameras` are INT64 [N].
    """

    root: Path
    files: tuple[str, ...]
    identities: IntArray
    cameras: IntArray
    queries: int

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Files of each answer."""
        return [(file,) for file in self.files]


@dataclass(frozen=True)
class Pairs:
    """Pairs of faces. `related` is INT64 [N], 1 or 0, UNKNOWN where it is to be found
    out. `pair_names` are what a submission file calls them.
    """

    root: Path
    items: list[tuple[str, ...]]
    related: IntArray
    pair_names: tuple[str, ...] = ()


Dataset = Labelled | Retrieval | Pairs


def inside(name: str, annotation: Path) -> str:
    """`name` as a file below the data set's folder. Raises EvaluationError for one
    that leads out of it: annotations are downloads.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise EvaluationError(
            f"{annotation.name} names the picture {name!r}, which leads out of its "
            "folder; that file is not used"
        )
    return str(path)
