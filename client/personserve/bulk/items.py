"""Items of an archive, and batches of items that are answered together.

An item is small: it names an image, or a span of a video's frames, and never has
pixels. What an item or a batch is called follows from its content, so that a resumed
run finds what is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

KEY_LENGTH = 32
"""Hexadecimal digits of a key: 128 bits, of which no two are equal by accident."""

BoxRow = tuple[float, float, float, float, float]
"""A box in a frame: (frame, x0, y0, x1, y1); the frame of an image is 0."""

ItemKind = Literal["crop", "frame", "video"]


@dataclass(frozen=True)
class Item:
    """An image, or a span of a video's frames.

    Attributes:
        source: Absolute path, or URL that fsspec opens.
        kind: "crop" for an image of one person, "frame" for an image with several
            people, "video" for a span of frames.
        start: First frame of a video's span.
        stop: Frame after the last of the span; None for the end of the video.
        every: Distance of the frames that are looked at.
        boxes: The people; None if a detector finds them, or the image is a crop.
    """

    source: str
    kind: ItemKind
    start: int = 0
    stop: int | None = None
    every: int = 1
    boxes: tuple[BoxRow, ...] | None = None

    @property
    def key(self) -> str:
        """Hash of the item's content."""
        return hash_values(asdict(self))


@dataclass(frozen=True)
class Batch:
    """Items that one worker answers, and whose answers are one file.

    Attributes:
        items: The items.
    """

    items: tuple[Item, ...]

    @property
    def key(self) -> str:
        """Hash of the items, which names the file of the answers."""
        return hash_values([item.key for item in self.items])


def split_items(items: Sequence[Item], batch_items: int) -> list[Batch]:
    """Put items into batches, in order; a span of a video is a batch of its own.

    Args:
        items: The items.
        batch_items: Largest number of images in a batch.

    Returns:
        The batches.
    """
    batches: list[Batch] = []
    images: list[Item] = []
    for item in items:
        if item.kind == "video":
            batches.append(Batch((item,)))
            continue
        images.append(item)
        if len(images) == batch_items:
            batches.append(Batch(tuple(images)))
            images = []
    if images:
        batches.append(Batch(tuple(images)))
    return batches


def hash_values(values: Any) -> str:
    """Return a key for values that JSON can express.

    Args:
        values: The values; equal ones give the same key on every machine.

    Returns:
        KEY_LENGTH hexadecimal digits of the SHA-256 of their JSON.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
