"""Leak check: identities and images that both sides of a split share.

Published accuracies of gender networks fall from 0.90 to 0.78 on other data, because
the same people, and nearly the same images, are on both sides of their splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from builders.evaluation.datasets import UNKNOWN
from builders.training.examples import Examples, Pixels, Split

HASH_WH = (9, 8)
MAX_BITS = 6
MAX_GREY_LEVELS = 10.0
"""Two images are nearly the same if their difference hashes (64 bits: whether each of
9x8 grey values is darker than its right neighbour) differ in at most 6 bits, and the
9x8 grey images by at most 10 levels on average, which excludes images without texture.
"""

MAX_NAMED = 10


@dataclass(frozen=True)
class Leaks:
    """What both sides have.

    Attributes:
        people: Identities on both sides.
        duplicates: Training row, validation row and number of different bits of each
            nearly identical pair; one for each validation row.
    """

    people: tuple[int, ...]
    duplicates: tuple[tuple[int, int, int], ...]

    def describe(self, split: Split) -> list[str]:
        """Return one line for each leak, with the names of the files.

        Args:
            split: The split that was checked.
        """
        lines = [f"identity {person} is on both sides" for person in self.people]
        for train, validation, bits in self.duplicates:
            lines.append(
                f"{split.validation.files[validation]} (validation) is nearly "
                f"{split.train.files[train]} (training): {bits} of 64 bits differ"
            )
        return lines


def find_leaks(split: Split) -> Leaks:
    """Return the identities and the nearly identical images of both sides.

    Args:
        split: The two sides.
    """
    import faiss

    train, validation = split.train, split.validation
    people = np.intersect1d(train.identities, validation.identities)
    hashes, thumbnails = zip(
        *(_hash_crops(part.crops) for part in (train, validation)), strict=True
    )
    index = faiss.IndexBinaryFlat(64)
    index.add(hashes[0])
    bits, nearest = index.search(hashes[1], 1)
    duplicates = []
    for row in np.flatnonzero(bits[:, 0] <= MAX_BITS):
        other = int(nearest[row, 0])
        levels = np.abs(thumbnails[1][row] - thumbnails[0][other]).mean()
        if levels <= MAX_GREY_LEVELS:
            duplicates.append((other, int(row), int(bits[row, 0])))
    return Leaks(tuple(int(p) for p in people if p != UNKNOWN), tuple(duplicates))


def drop_leaks(split: Split, leaks: Leaks) -> Split:
    """Return a split without the training rows that are on both sides.

    Args:
        split: The two sides.
        leaks: What they have in common.
    """
    is_leak = np.isin(split.train.identities, leaks.people)
    is_leak[[train for train, _, _ in leaks.duplicates]] = True
    rows = np.flatnonzero(~is_leak)
    how = f"{split.how}; {int(is_leak.sum())} training images dropped as leaks"
    return Split(split.train.select(rows), split.validation, how)


def _hash_crops(crops: Pixels) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Return difference hashes UINT8 [N, 8] and their grey images FP32 [N, 8, 9]."""
    small = np.stack([_shrink(crop) for crop in crops]).astype(np.float32)
    bits = small[:, :, :-1] < small[:, :, 1:]
    return np.packbits(bits.reshape(len(crops), 64), axis=1), small


def _shrink(crop: Pixels) -> Pixels:
    grey = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, HASH_WH, interpolation=cv2.INTER_AREA), np.uint8)


def count_classes(examples: Examples) -> dict[str, int]:
    """Return the number of crops of each class, and of those without a label.

    Args:
        examples: The examples.
    """
    counts = {
        name: int(np.count_nonzero(examples.labels == label))
        for label, name in enumerate(examples.names)
    }
    counts["unknown"] = int(np.count_nonzero(examples.labels == UNKNOWN))
    return counts
