"""Version folders of a model: numbers, new versions, hiding and removal.

Triton serves the highest number (`version_policy: latest`). It also takes a folder for
a version whose name only begins with a number, so `2.old` would be version 2 (Triton
2.51); the names of hidden and partial versions begin with a word.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FIRST_VERSION = 1

KEPT_VERSIONS = 3
"""Versions that `build` keeps: the new one, and two to go back to, because the version
that a server runs may be older than one that was built and not rolled out."""

WITHDRAWN, PENDING, PARTIAL = "withdrawn-", "pending-", "partial-"
"""Beginnings of the names of folders that no server loads: a version that was refused
or rolled back, one that a rollout has yet to judge, and one that is being written."""


def list_versions(folder: Path) -> list[int]:
    """Return the numbers of a model's versions in ascending order.

    Args:
        folder: Folder of the model.
    """
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.name.isdecimal())


def latest_version(folder: Path) -> int:
    """Return the version that a server loads, by default the first.

    Args:
        folder: Folder of the model.
    """
    return max(list_versions(folder), default=FIRST_VERSION)


@contextmanager
def add_version(folder: Path) -> Iterator[Path]:
    """Add a version with the files of the latest one; a number is never used twice.

    The files are hard links where the file system has them. Write with a rename, which
    replaces a link instead of the file that it shares.

    Args:
        folder: Folder of the model.

    Yields:
        Folder to change the files in. It becomes the version when the block ends
        without an error, and is removed otherwise.
    """
    latest = folder / str(latest_version(folder))
    numbers = [*list_versions(folder), *_list_hidden(folder)]
    number = max(numbers, default=FIRST_VERSION) + 1
    partial = folder / f"{PARTIAL}{number}"
    shutil.rmtree(partial, ignore_errors=True)  # of a build that was cut short
    partial.mkdir()
    try:
        for path in latest.iterdir():
            if path.is_file():
                _link_or_copy(path, partial / path.name)
        yield partial
        partial.rename(folder / str(number))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def hide_versions(folder: Path, above: int, name: str = WITHDRAWN) -> list[int]:
    """Hide all versions above a number from servers; the next build removes them.

    Args:
        folder: Folder of the model.
        above: The version that becomes the latest.
        name: Beginning of their names while they are hidden: WITHDRAWN or PENDING.

    Returns:
        Numbers of the hidden versions, also of those that were hidden before.
    """
    numbers = {number for number in list_versions(folder) if number > above}
    pending = {number for number in _list_hidden(folder, PENDING) if number > above}
    for number in sorted(numbers | pending, reverse=True):
        path = folder / str(number) if number in numbers else _hidden(folder, number)
        path.rename(folder / f"{name}{number}")
    return sorted(numbers | pending)


def show_version(folder: Path, number: int) -> None:
    """Make a hidden version a version again.

    Args:
        folder: Folder of the model.
        number: Number of the version.
    """
    _hidden(folder, number).rename(folder / str(number))


def latest_pending(folder: Path) -> int | None:
    """Return the version that a rollout has yet to judge, or None.

    Args:
        folder: Folder of the model.
    """
    return max(_list_hidden(folder, PENDING), default=None)


def pending_path(folder: Path, number: int) -> Path:
    """Return the folder of a version that a rollout has yet to judge.

    Args:
        folder: Folder of the model.
        number: Number of the version.
    """
    return folder / f"{PENDING}{number}"


def prune_versions(folder: Path, keep: int = KEPT_VERSIONS) -> None:
    """Remove hidden versions, and all but the latest versions.

    Of the first version only built files are removed: its Python files are committed.

    Args:
        folder: Folder of the model.
        keep: Number of versions to keep.
    """
    for number in _list_hidden(folder):
        shutil.rmtree(_hidden(folder, number))
    for number in list_versions(folder)[:-keep]:
        version = folder / str(number)
        if number != FIRST_VERSION:
            shutil.rmtree(version)
            continue
        for path in version.iterdir():
            if path.is_file() and path.suffix != ".py":
                path.unlink()


def _hidden(folder: Path, number: int) -> Path:
    pending = pending_path(folder, number)
    return pending if pending.is_dir() else folder / f"{WITHDRAWN}{number}"


def _list_hidden(folder: Path, *names: str) -> list[int]:
    return [
        int(number)
        for name in names or (WITHDRAWN, PENDING)
        for path in folder.glob(f"{name}*")
        if (number := path.name.removeprefix(name)).isdecimal()
    ]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
