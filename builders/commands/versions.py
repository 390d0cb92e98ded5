"""Commands that change the version a running server serves: rollout, rollback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builders.build.source import compute_answers, int8_reference
from builders.commands.app import (
    Name,
    app,
    choose_network,
    console,
    show_progress,
    stopping_on_sigterm,
)
from builders.repository.layout import Repository
from builders.rollout.control import ModelControl, RolloutError, ServerAccess
from builders.rollout.rollout import VersionChange, roll_back, roll_out
from builders.serve.access import read_token
from builders.spec.model import Model
from builders.verify.reference import ReferenceAnswers
from builders.weights import Origin

PANEL = "Serving"

Server = Annotated[
    str,
    typer.Option(
        help="gRPC address of the server, host:port, or grpcs://host:port with TLS. It "
        "must read this model repository."
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        help="Certificates (PEM) that the server's certificate is checked against. "
        "Default: those of the system."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the token that the server demands of its clients."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the value of the header personserve-key that the server "
        "demands for model control. Default: the key of a server that `serve` started "
        "on this machine."
    ),
]

DEFAULT_SERVER = "127.0.0.1:8001"


@app.command(rich_help_panel=PANEL)
def rollout(
    name: Name,
    server: Server = DEFAULT_SERVER,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Saved reference of the model (see `reference`). Default: run the "
            "torch reference here."
        ),
    ] = None,
    ca_file: CaFile = None,
    token_file: TokenFile = None,
    key_file: KeyFile = None,
) -> None:
    """Serve the version that was built last, on a server that keeps running.

    The server first runs it under another name, and its answers are compared with the
    reference, as `verify` does. If they are right, the server switches to it without
    failing a request, and ensembles follow. If not, the version is withdrawn, the
    server goes on with the version before, and the exit code is 1.
    """
    repository = Repository()
    model = choose_network(name, repository)
    access = _read_access(server, ca_file, token_file, key_file)
    saved = None if reference is None else ReferenceAnswers.load(reference)
    with stopping_on_sigterm(), show_progress() as progress:

        def compute(origin: Origin, precision: str) -> ReferenceAnswers:
            if saved is not None:
                return saved
            if precision == "int8" and isinstance(model, Model):
                return int8_reference(model, origin, repository, progress)
            return compute_answers(model, origin, repository, progress)

        with ModelControl(access) as control:
            change = roll_out(model, repository, control, compute, progress)
    for comparison in change.comparisons:
        console.print(
            f"[green]passed[/green] {name} {comparison}",
            highlight=False,
            soft_wrap=True,
        )
    _print_change(change, server)


@app.command(rich_help_panel=PANEL)
def rollback(
    name: Name,
    server: Server = DEFAULT_SERVER,
    ca_file: CaFile = None,
    token_file: TokenFile = None,
    key_file: KeyFile = None,
) -> None:
    """Go back to the version before, on a server that keeps running.

    The version that was served is withdrawn, so that the next start of the server does
    not serve it either. It was verified when it was rolled out, and is not again.
    """
    access = _read_access(server, ca_file, token_file, key_file)
    with stopping_on_sigterm(), show_progress() as progress:
        progress(f"loading the version of {name} before")
        with ModelControl(access) as control:
            change = roll_back(choose_network(name), Repository(), control)
    _print_change(change, server)


def _read_access(
    server: str, ca_file: Path | None, token_file: Path | None, key_file: Path | None
) -> ServerAccess:
    token = None if token_file is None else read_token(token_file)
    key = None
    if key_file is not None:
        try:
            key = key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise RolloutError(f"--key-file {key_file}: {exc}") from exc
    return ServerAccess(server, ca_file, key, token)


def _print_change(change: VersionChange, server: str) -> None:
    if change.before == change.after:
        text = f"already serves version {change.after} of {change.model}"
    else:
        text = (
            f"serves version {change.after} of {change.model} instead of "
            f"{change.before}"
        )
    console.print(
        f"{server} {text}; weights: {change.origin}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
