"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block succeeds and
    vanishes when it does not, Ctrl-C included.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # what a killed build left: its lock-free owner is gone, and the name is ours alone
    for stale in path.parent.glob(f".{path.name}.*{PARTIAL}"):
        stale.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent
    )
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
