"""Progress callback for long work."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Callback that receives the current state of a long operation."""

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show the current state.

        Args:
            what: The current work in a few words, for example "reading gender.pth".
            done: Number of finished items.
            total: Number of all items; 0 where the length is unknown.
        """
        ...


def no_progress(what: str, done: int = 0, total: int = 0) -> None:
    """Show nothing; the default where a caller wants no progress.

    Args:
        what: Ignored.
        done: Ignored.
        total: Ignored.
    """
