"""The items of an archive, from paths, patterns, URLs and tables of boxes.

fsspec lists and opens them, so that a local folder and a bucket are the same thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import fsspec

from personserve._errors import InvalidInputError
from personserve.bulk.boxes import TABLE_SUFFIXES, read_box_items
from personserve.bulk.items import Item
from personserve.images.formats import (
    ACCEPTED_FORMATS,
    IMAGE_SUFFIXES,
    REFUSED_SUFFIXES,
)
from personserve.images.videos import VIDEO_SUFFIXES, count_frames

GLOB_CHARACTERS = frozenset("*?[")


def find_items(
    sources: Sequence[str], *, detect: bool, every: int, span_frames: int
) -> list[Item]:
    """Find the items that the sources name.

    Args:
        sources: Paths or URLs of images, videos, folders and tables of boxes
            (see personserve.bulk.boxes); or patterns of files.
        detect: Whether a detector finds the people in images; otherwise an image is
            of one person.
        every: Distance of the frames of a video that are looked at.
        span_frames: Frames of a video in one item.

    Returns:
        The items in the order of the sources, each once; files of a folder are sorted.

    Raises:
        InvalidInputError: A source does not exist, names no image or video, or is in a
            format that is not accepted.
    """
    items: dict[Item, None] = {}
    for source in sources:
        for file in _list_files(source):
            suffix = PurePosixPath(file).suffix.lower()
            if suffix in TABLE_SUFFIXES:
                items.update(dict.fromkeys(read_box_items(file, every, span_frames)))
            elif suffix in VIDEO_SUFFIXES:
                items.update(dict.fromkeys(_split_video(file, every, span_frames)))
            else:
                items[Item(file, "frame" if detect else "crop")] = None
    return list(items)


def is_local(source: str) -> bool:
    """Return whether a source is a path of this machine.

    Args:
        source: A path or URL.
    """
    return "://" not in source


def _list_files(source: str) -> list[str]:
    try:
        system, path = fsspec.core.url_to_fs(source)
        if system.isdir(path):
            return _name_files(system, _choose_files(source, system.find(path)))
        if GLOB_CHARACTERS & set(path) and not system.exists(path):
            files = sorted(file for file in system.glob(path) if system.isfile(file))
            if not files:
                raise InvalidInputError(f"{source}: no file matches this pattern")
            return _name_files(system, files)
        if not system.exists(path):
            raise InvalidInputError(f"cannot read {source}: no such file or folder")
    except (ImportError, ValueError, OSError) as exc:
        raise InvalidInputError(f"cannot list {source}: {exc}") from exc
    return _name_files(system, [path])


def _choose_files(folder: str, files: Iterable[str]) -> list[str]:
    """Choose the images and videos of a folder; tables are named by themselves."""
    by_suffix = [(PurePosixPath(f).suffix.lower(), f) for f in sorted(files)]
    for suffix, file in by_suffix:
        if suffix in REFUSED_SUFFIXES:
            raise InvalidInputError(
                f"{file}: expected {ACCEPTED_FORMATS}; convert it, or name a pattern "
                f"of the files that count ({folder}/*.jpg)"
            )
    accepted = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    chosen = [file for suffix, file in by_suffix if suffix in accepted]
    if not chosen:
        raise InvalidInputError(
            f"{folder}: no images or videos ({', '.join(sorted(accepted))})"
        )
    return chosen


def _name_files(system: Any, files: Iterable[str]) -> list[str]:
    protocol = system.protocol
    names = (protocol,) if isinstance(protocol, str) else protocol
    if "file" in names:
        return [str(file) for file in files]
    return [str(system.unstrip_protocol(file)) for file in files]


def _split_video(source: str, every: int, span_frames: int) -> Iterator[Item]:
    """Yield the spans of a video; the last one ends where the video ends.

    A video that is not local is one item, because each span would fetch it again.
    """
    count = count_frames(source) if is_local(source) else None
    starts = range(0, max(count or 0, 1), span_frames * every)
    for start in starts:
        stop = start + span_frames * every
        yield Item(source, "video", start, None if start == starts[-1] else stop, every)
