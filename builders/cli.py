"""The commands of `python -m builders`. Each is thin: it asks, shows progress, and
turns errors into one message and exit code 1.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from builders import build as building
from builders.catalogue import catalogue, models
from builders.parity import ParityError
from builders.repository import Repository
from builders.server import LOOPBACK, Ports, ServeError, TritonServer, stand_ins
from builders.spec import Model, SpecError
from builders.weights import CheckpointError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Builds, checks and serves the model repository. "
    "A fresh machine starts with: python -m builders demo",
)
console = Console()
errors = Console(stderr=True)

EXPECTED = (CheckpointError, ParityError, ServeError, SpecError)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Models; all if none are named."),
]


def main() -> None:
    """Run the command line; expected errors become one message and exit code 1."""
    try:
        app()
    except EXPECTED as exc:
        errors.print(f"[red]error:[/red] {exc}", highlight=False)
        sys.exit(1)
    except KeyError as exc:
        errors.print(f"[red]error:[/red] {exc.args[0]}", highlight=False)
        sys.exit(1)


@app.command("list")
def list_models() -> None:
    """What is declared, and what of it is built."""
    repository = Repository()
    table = Table(box=SIMPLE)
    for heading in ("model", "crops", "parameters", "GMACs", "weights", "cpu"):
        table.add_column(heading, no_wrap=heading == "model")
    for declaration in catalogue().values():
        crops, size, macs, weights = "", "", "", ""
        if isinstance(declaration, Model):
            crops = ", ".join(f"{i.height}x{i.width}" for i in declaration.images)
            size = f"{declaration.survey.parameters:,}"
            macs = f"{declaration.survey.total_macs / 1e9:.2f}"
            weights = str(repository.origin(declaration.name))
        built = building.is_built(declaration, repository, "cpu")
        table.add_row(
            declaration.name,
            crops,
            size,
            macs,
            weights.partition(",")[0],
            "built" if built else "-",
        )
    console.print(table)


@app.command()
def render(
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1 if a config is stale."),
    ] = False,
) -> None:
    """Write every config.pbtxt from its declaration."""
    changed = building.render(Repository(), check=check)
    for path in changed:
        console.print(f"{'stale' if check else 'wrote'}  {_relative(path)}")
    if check and changed:
        errors.print("run: python -m builders render")
        raise typer.Exit(1)
    if not changed:
        console.print("all configs are up to date")


@app.command()
def build(
    names: Names = None,
    target: Annotated[
        str, typer.Option(help="What to build for: cpu (ONNX Runtime).")
    ] = "cpu",
    weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint (.pth .pt .safetensors .wts) of the one MODEL."),
    ] = None,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Go back to untrained weights.")
    ] = False,
) -> None:
    """Build models; each is checked against torch before it lands."""
    if target not in building.BUILDERS:
        raise ServeError(
            f"target {target!r}: expected one of {', '.join(building.BUILDERS)}"
        )
    chosen = models(names or ())
    if weights is not None and len(chosen) != 1:
        raise CheckpointError("--weights goes with exactly one MODEL")
    build_all(Repository(), chosen, target, weights, stand_in=stand_in)


def build_all(
    repository: Repository,
    chosen: list[Model],
    target: str,
    weights: Path | None = None,
    *,
    stand_in: bool = False,
) -> None:
    """Build `chosen` and what joins them, with a line of progress each."""
    building.render(repository)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)
        for model in chosen:

            def report(doing: str, name: str = model.name) -> None:
                progress.update(task, description=f"{name}: {doing}")

            origin = building.choose_weights(
                model, repository, weights, stand_in=stand_in
            )
            built = building.BUILDERS[target](model, origin, repository, report)
            console.print(
                f"{'built     ' if built.fresh else 'up to date'} {model.name}: "
                f"differs from torch by {built.parity}; weights: {origin}",
                highlight=False,
                soft_wrap=True,
            )
    building.build_joints(repository)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
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

    Further arguments go to tritonserver as they are, for example
    --log-verbose=1 or --rate-limit=execution_count.
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
    with _stopping_on_sigterm(), server:
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


@app.command()
def demo(
    source: Annotated[
        Path | None,
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
    with _stopping_on_sigterm():
        show.run(repository, source, output, boxes, frames, console)


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _warn_of_stand_ins(repository: Repository, names: list[str]) -> None:
    untrained = stand_ins(repository, names)
    if untrained:
        console.print(
            f"[yellow]stand-in weights (untrained, answers mean nothing): "
            f"{', '.join(untrained)}[/yellow]"
        )


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """SIGTERM as Ctrl-C, so that context managers clean up."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
