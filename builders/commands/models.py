"""What is declared and built: list, render, build, import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from builders import build as building
from builders import readme
from builders.catalogue import catalogue, models, networks
from builders.commands.app import (
    Names,
    app,
    console,
    doing,
    errors,
    one_of,
    relative,
)
from builders.deepstream import Place, deepstream_config
from builders.onnx_file import (
    OnnxFileError,
    checked_onnx_file,
    declaration_of,
    declaration_text,
)
from builders.repository import ROOT, Repository
from builders.spec import Model, Network
from builders.tensorrt.library import PRECISIONS
from builders.weights import CheckpointError
from personserve._files import write_text

PANEL = "Models"


@app.command("list", rich_help_panel=PANEL)
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


@app.command(rich_help_panel=PANEL)
def render(
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit 1 if a config is stale."),
    ] = False,
) -> None:
    """Write every config.pbtxt, and the README's table, from the declarations."""
    changed = building.render(Repository(), check=check)
    changed += readme.render(Repository(), check=check)
    for path in changed:
        console.print(f"{'stale' if check else 'wrote'}  {relative(path)}")
    if check and changed:
        errors.print("run: python -m builders render")
        raise typer.Exit(1)
    if not changed:
        console.print("everything is up to date")


@app.command(rich_help_panel=PANEL)
def build(
    names: Names = None,
    target: Annotated[
        str,
        typer.Option(
            help="cpu (ONNX Runtime or OpenVINO), tensorrt (plan for this GPU), or rtx "
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
        str,
        typer.Option(
            help=f"{', '.join(PRECISIONS)}; on the cpu fp32, bf16 (OpenVINO) or int8 "
            "(see calibrate)."
        ),
    ] = "fp32",
    runtime: Annotated[
        str | None,
        typer.Option(help="What runs the cpu target: onnxruntime or openvino."),
    ] = None,
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
        runtime=runtime,
    )
    one_of("--target", target, building.BUILD_TARGETS)
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
    with doing() as say:
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


@app.command("import", rich_help_panel=PANEL)
def import_onnx(
    file: Annotated[Path, typer.Argument(help="An ONNX file with a batch dimension.")],
    name: Annotated[str, typer.Option(help="What the model is to be called.")],
) -> None:
    """Make a model of an ONNX file: declaration, configs, CPU target.

    Build its plan afterwards like any other's: build NAME --target tensorrt.
    """
    path = ROOT / "builders" / "models" / f"{name}.py"
    if path.exists():
        raise OnnxFileError(f"{relative(path)} is there already; choose another name")
    model = declaration_of(file, name)
    repository = Repository()
    origin = building.choose_weights(model, repository, file, stand_in=False)
    checked_onnx_file(model, origin)
    write_text(path, declaration_text(model))
    catalogue.cache_clear()
    build_all(repository, networks([name]), "cpu", file)
    console.print(f"wrote {relative(path)}")


@app.command(rich_help_panel=PANEL)
def deepstream(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    server: Annotated[
        str, typer.Option(help="The server's gRPC address, host:port.")
    ] = Place.server,
    unique_id: Annotated[
        int, typer.Option(help="This inference's id in the pipeline.")
    ] = Place.unique_id,
    detector_id: Annotated[
        int, typer.Option(help="The id of the detector whose people it gets.")
    ] = Place.detector_id,
    output: Annotated[
        Path | None, typer.Option(help="Where it goes; printed if not given.")
    ] = None,
) -> None:
    """Render DeepStream's secondary inference (nvinferserver) for a model."""
    (model,) = models([name])
    text = deepstream_config(model, Place(unique_id, detector_id, server))
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    console.print(f"wrote {output}")
