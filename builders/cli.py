"""The commands of `python -m builders`. Each is thin: it asks, shows progress, and
turns errors into one message and exit code 1.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from builders import build as building
from builders.catalogue import catalogue, models, networks
from builders.onnx_file import (
    OnnxFileError,
    checked_onnx_file,
    declaration_of,
    declaration_text,
)
from builders.parity import ParityError
from builders.repository import ROOT, Repository, atomic_write, write_text
from builders.server import LOOPBACK, Ports, ServeError, TritonServer, stand_ins
from builders.spec import Model, Network, SpecError
from builders.tensorrt.doctor import findings
from builders.tensorrt.engine import EngineError
from builders.tensorrt.library import PRECISIONS, PlanError
from builders.verify import Check, VerificationError, reference_check, verify_built
from builders.weights import CheckpointError
from builders.weights.wts import write_wts

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Builds, checks and serves the model repository. "
    "A fresh machine starts with: python -m builders demo",
)
console = Console()
errors = Console(stderr=True)

EXPECTED = (
    CheckpointError,
    EngineError,
    OnnxFileError,
    ParityError,
    PlanError,
    ServeError,
    SpecError,
    VerificationError,
)
BUILD_TARGETS = ("cpu", "tensorrt", "rtx")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Models; all if none are named."),
]


def main() -> None:
    """Run the command line; expected errors become one message and exit code 1."""
    try:
        app()
    except EXPECTED as exc:
        _fail(str(exc))
    except KeyError as exc:
        _fail(str(exc.args[0]))
    except OSError as exc:
        # a full disk, a folder that cannot be written: nothing is left half-written
        _fail(str(exc))


def _fail(message: str) -> NoReturn:
    errors.print("error:", style="red", end=" ")
    # not as markup: messages name extras, as in personserve[tensorrt]
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
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
        str,
        typer.Option(
            help="cpu (ONNX Runtime), tensorrt (plan for this GPU), or rtx "
            "(TensorRT-RTX plan for any GPU named by --gpu)."
        ),
    ] = "cpu",
    weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint (.pth .pt .safetensors .wts) of the one MODEL."),
    ] = None,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Go back to untrained weights.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help=f"Of plans: {', '.join(PRECISIONS)}.")
    ] = "fp32",
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="GPU type for rtx, as sm_86; may be repeated."),
    ] = None,
    from_: Annotated[
        str, typer.Option("--from", help="wiring (our ops) or onnx (NVIDIA's parser).")
    ] = "wiring",
) -> None:
    """Build models; each is checked before it lands."""
    options = building.BuildOptions(
        one_of("--precision", precision, PRECISIONS),  # type: ignore[arg-type]
        tuple(gpu or ()),
        from_onnx=one_of("--from", from_, ("wiring", "onnx")) == "onnx",
    )
    one_of("--target", target, BUILD_TARGETS)
    chosen = networks(names or ())
    if weights is not None and len(chosen) != 1:
        raise CheckpointError("--weights goes with exactly one MODEL")
    build_all(Repository(), chosen, target, weights, stand_in=stand_in, options=options)


def build_all(
    repository: Repository,
    chosen: Sequence[Network],
    target: str,
    weights: Path | None = None,
    *,
    stand_in: bool = False,
    options: building.BuildOptions | None = None,
) -> None:
    """Build `chosen` and what joins them, with a line for each."""
    building.render(repository)
    with _doing() as say:
        for model in chosen:

            def report(doing: str, name: str = model.name) -> None:
                say(f"{name}: {doing}")

            origin = building.choose_weights(
                model, repository, weights, stand_in=stand_in
            )
            built = building.build(
                target,
                model,
                origin,
                repository,
                options or building.BuildOptions(),
                report,
            )
            console.print(
                f"{'built     ' if built.fresh else 'up to date'} {model.name}: "
                f"{built.summary}; weights: {origin}",
                highlight=False,
                soft_wrap=True,
            )
    building.build_joints(repository)


@app.command("import")
def import_onnx(
    file: Annotated[Path, typer.Argument(help="An ONNX file with a batch dimension.")],
    name: Annotated[str, typer.Option(help="What the model is to be called.")],
) -> None:
    """Make a model of an ONNX file: declaration, configs, CPU target.

    Build its plan afterwards like any other's: build NAME --target tensorrt.
    """
    path = ROOT / "builders" / "models" / f"{name}.py"
    if path.exists():
        raise OnnxFileError(f"{_relative(path)} is there already; choose another name")
    model = declaration_of(file, name)
    repository = Repository()
    origin = building.choose_weights(model, repository, file, stand_in=False)
    checked_onnx_file(model, origin)
    write_text(path, declaration_text(model))
    catalogue.cache_clear()
    build_all(repository, networks([name]), "cpu", file)
    console.print(f"wrote {_relative(path)}")


@app.command()
def reference(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    output: Annotated[Path, typer.Option(help="Where to write it (.npz).")],
    export: Annotated[
        Path | None,
        typer.Option(help="Write its weights here (.wts), to build from there."),
    ] = None,
) -> None:
    """Save torch's answers for verifying on a machine without torch."""
    (model,) = models([name])
    repository = Repository()
    origin = repository.origin(name)
    weights = building.load(model, origin)
    if export is not None:
        with atomic_write(export) as partial:
            write_wts(partial, weights.arrays)
        origin = building.choose_weights(model, repository, export, stand_in=False)
        console.print(f"wrote {export}")
    reference_check(model, weights.arrays, origin).save(output)
    console.print(f"wrote {output}")


@app.command()
def verify(
    names: Names = None,
    target: Annotated[str, typer.Option(help="cpu, tensorrt or rtx.")] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="Require plans of this precision.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Saved reference of the one MODEL; torch's own if not given."
        ),
    ] = None,
) -> None:
    """Compare what was built with the torch reference, on noise and real crops.

    The result goes into the record of the built file (a plan's passport).
    """
    one_of("--target", target, BUILD_TARGETS)
    repository, failed = Repository(), []
    for model in models(names or ()):
        with _doing() as say:
            say(f"{model.name}: running the reference")
            origin = repository.origin(model.name)
            if reference is None:
                arrays = building.load(model, origin).arrays
                check = reference_check(model, arrays, origin)
            else:
                check = Check.load(reference)
            say(f"{model.name}: running what was built")
            found = verify_built(model, repository, target, precision, check)
        for measure in found:
            mark = "[green]passed[/green]" if measure.passed else "[red]FAILED[/red]"
            console.print(
                f"{mark} {model.name} {measure}", highlight=False, soft_wrap=True
            )
        if not all(measure.passed for measure in found):
            failed.append(model.name)
    if failed:
        raise VerificationError(f"outside tolerance: {', '.join(failed)}")


@app.command()
def doctor(
    container: Annotated[
        str | None, typer.Option(help="Month of NVIDIA's Triton container, as 26.08.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="gRPC address of a running server, host:port.")
    ] = None,
) -> None:
    """Say what will not load or would answer wrongly; exit 1 if there is anything."""
    found = list(findings(Repository(), container, server))
    for finding in found:
        console.print(str(finding), soft_wrap=True, highlight=False)
    if found:
        raise typer.Exit(1)
    console.print("nothing to say: everything fits")


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


def one_of(option: str, value: str, choice: Sequence[str]) -> str:
    """`value`, if it is one of `choice`. Raises typer.BadParameter."""
    if value not in choice:
        raise typer.BadParameter(f"{option} {value}: expected {', '.join(choice)}")
    return value


@contextmanager
def _doing() -> Iterator[Callable[[str], None]]:
    """A spinner with what is being done and for how long."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda text: progress.update(task, description=text)


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
