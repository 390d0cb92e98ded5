"""The server: serve, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builders.catalogue import models
from builders.commands.app import app, console, stopping_on_sigterm
from builders.commands.models import build_all
from builders.repository import Repository
from builders.server import LOOPBACK, Ports, ServeError, TritonServer, stand_ins

PANEL = "Serving"


@app.command(
    rich_help_panel=PANEL,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Option("--model", help="Load only this model; may be repeated."),
    ] = None,
    target: Annotated[str, typer.Option(help="Which built target to serve.")] = "cpu",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    log: Annotated[Path | None, typer.Option(help="Keep Triton's log here.")] = None,
) -> None:
    """Start tritonserver on what is built, until Ctrl-C.

    Further arguments go to tritonserver as they are, for example --log-verbose=1.
    """
    repository = Repository()
    server = TritonServer(
        repository,
        target,
        models=names or (),
        host=host,
        ports=Ports(http_port, grpc_port, metrics_port),
        arguments=context.args,
        log=log,
    )
    _warn_of_stand_ins(repository, server.loaded)
    with stopping_on_sigterm(), server:
        console.print(f"serving {', '.join(server.loaded)}")
        if server.missing:
            console.print(
                f"not built, so not served: {', '.join(server.missing)} "
                f"(python -m builders build --target {target})"
            )
        console.print(f"gRPC     {server.grpc_address}")
        console.print(f"HTTP     http://{server.http_address}")
        console.print(f"metrics  http://{host}:{metrics_port}/metrics")
        code = server.wait()
        lines = list(server.errors())[-3:]
    raise ServeError(f"tritonserver ended with code {code}\n" + "\n".join(lines))


@app.command(rich_help_panel=PANEL)
def demo(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[PICTURE|VIDEO]",
            help="What to look at; photographs from scikit-image if not given.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the annotated result goes.")
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            help="People as 'x0,y0,x1,y1 ...' in pixels; else HOG finds them."
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(help="Look at this many frames of a video, evenly spread.")
    ] = 40,
) -> None:
    """Find people, ask the server about them, and draw the answers."""
    from builders import demo as show

    repository = Repository()
    build_all(repository, models(show.MODELS), "cpu")
    with stopping_on_sigterm():
        show.run(repository, source, output, boxes, frames, console)


def _warn_of_stand_ins(repository: Repository, names: list[str]) -> None:
    untrained = stand_ins(repository, names)
    if untrained:
        console.print(
            f"[yellow]stand-in weights (untrained, answers mean nothing): "
            f"{', '.join(untrained)}[/yellow]"
        )
