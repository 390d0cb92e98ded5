"""The cache folder, and atomic writing: a file appears complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


def cache_folder() -> Path:
    """Return the folder of this project's cached files for the current user."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "personserve"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Replace a file atomically when the block succeeds.

    Args:
        path: File to create or replace; missing folders are created.

    Yields:
        A temporary path in the same folder, to be written by the block. It is removed
        if the block fails or is interrupted, and `path` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for partial in path.parent.glob(f".{path.name}.*{PARTIAL}"):
        if not _is_being_written(partial):
            partial.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.name}.{os.getpid()}.", suffix=PARTIAL, dir=path.parent
    )
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_being_written(partial: Path) -> bool:
    """Return whether the process that a partial file names still runs."""
    process = partial.name.split(".")[-3]
    return process.isdecimal() and Path("/proc", process).exists()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Args:
        path: File to create or replace; missing folders are created.
        text: The whole content.
    """
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
