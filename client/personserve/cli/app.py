"""The command `personserve`: its options and its commands."""

from __future__ import annotations

import os
import sys
from typing import Annotated

try:
    import rich  # noqa: F401 - whether it is there
    import typer
except ImportError as exc:
    sys.exit(
        f"error: {exc.name} is not installed; the commands need: pip install rich "
        "typer (the extra `cli` of personserve)"
    )

from personserve import __version__
from personserve._defaults import DEFAULT_TIMEOUT_S
from personserve._errors import PersonServeError
from personserve.cli import archives, bulk, galleries, images, servers
from personserve.cli.options import (
    JSON_HELP,
    OPTIONS,
    SERVER_HELP,
    SERVER_VARIABLE,
    SHARED_MEMORY_HELP,
    TIMEOUT_HELP,
    console,
    exit_with_error,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def set_global_options(
    server: Annotated[
        list[str] | None, typer.Option(envvar=SERVER_VARIABLE, help=SERVER_HELP)
    ] = None,
    timeout_s: Annotated[float, typer.Option(help=TIMEOUT_HELP)] = DEFAULT_TIMEOUT_S,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help=SHARED_MEMORY_HELP)
    ] = False,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    version: Annotated[  # noqa: ARG001 - its callback exits
        bool,
        typer.Option(
            "--version",
            callback=lambda value: _print_version() if value else None,
            is_eager=True,
            help="Print the version of personserve and exit.",
        ),
    ] = False,
) -> None:
    """Gender, re-identification and kinship of people, from a Triton server.

    The options --server, --timeout-s, --shared-memory and --json are accepted
    before and after the name of a command.
    """
    OPTIONS.servers = server or []
    OPTIONS.timeout_s = timeout_s
    OPTIONS.shared_memory = shared_memory
    OPTIONS.as_json = json


for _command in (
    servers.check,
    servers.models,
    images.attributes,
    galleries.embed,
    galleries.search,
    galleries.expire,
    images.kinship,
    bulk.bulk,
    servers.bench,
):
    app.command()(_command)
app.add_typer(archives.gallery_app, name="gallery")


def main() -> None:
    """Run the command line; an error is one message and exit code 1."""
    # gRPC's own lines on standard error repeat, less clearly, what our messages say
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app(prog_name="personserve")
    except (PersonServeError, OSError) as exc:
        exit_with_error(str(exc))


def _print_version() -> None:
    console.print(f"personserve {__version__}", highlight=False)
    raise typer.Exit
