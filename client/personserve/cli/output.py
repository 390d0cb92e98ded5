"""Text and JSON on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape


def warn_of_stand_ins(models: Sequence[str], console: Console) -> None:
    """Print a warning if results come from untrained weights.

    Args:
        models: Names of the models with stand-in weights; nothing is printed for none.
        console: Where the warning is printed.
    """
    if models:
        console.print(
            "[yellow]stand-in weights (untrained, the results are meaningless): "
            f"{escape(', '.join(models))}; python -m builders build MODEL --weights "
            "FILE[/yellow]",
            soft_wrap=True,
        )


def show_spinner(
    doing: str, console: Console, *, as_json: bool
) -> AbstractContextManager[object]:
    """Show a spinner while a block runs, if the output is text on a terminal.

    Args:
        doing: What the command does, for example "asking the server".
        console: The terminal.
        as_json: Whether the output is JSON.

    Returns:
        A context manager.
    """
    if as_json or not console.is_terminal:
        return nullcontext()
    return console.status(f"{escape(doing)} ...")


def print_plain(text: str, console: Console) -> None:
    """Print text verbatim, without markup, colours and line breaks.

    Args:
        text: The text, for example with names of files.
        console: Where it is printed.
    """
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one line of JSON on standard output.

    Args:
        value: Anything that the json module can write.
    """
    print(json.dumps(value), flush=True)  # noqa: T201 - what --json asks for
