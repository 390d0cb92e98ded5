"""Ctrl-C that ends a source instead of the program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from personserve.cli.frames import Video
from personserve.cli.options import error_console
from personserve.cli.output import print_plain

INTERRUPTED = 130
"""Exit code after Ctrl-C in a file, as a shell reports it."""


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Set an event at the first Ctrl-C, so that a block can end by itself.

    The second Ctrl-C raises KeyboardInterrupt, as it does outside the block. Outside
    the main thread, which alone receives signals, the event is never set.

    Yields:
        The event.
    """
    event = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)


def print_interruption(video: Video, count: int, limit: int | None) -> None:
    """Print after how many frames Ctrl-C has ended a video.

    Args:
        video: The source.
        count: Frames that were analysed.
        limit: Number of frames; see Video.read.
    """
    total = video.count(limit)
    verb = "stopped" if video.is_live else "interrupted"
    of_all = "" if total is None else f" of {total}"
    print_plain(f"{verb} after {count}{of_all} frames", error_console)


def exit_if_interrupted(video: Video, stop: threading.Event) -> None:
    """End the command if Ctrl-C ended a video file.

    Args:
        video: The source. Ctrl-C is the usual end of a live one.
        stop: The event of deferred_interrupt.

    Raises:
        typer.Exit: The exit code is INTERRUPTED.
    """
    if stop.is_set() and not video.is_live:
        raise typer.Exit(INTERRUPTED)
