"""The Typer application that the commands of `python -m loadtest` belong to."""

from __future__ import annotations

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    help="Measure a running server. "
    "Start one with `python -m builders serve --http --all`.",
)
