"""Commands for declared and built models: list, render, build, deepstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from builders.build.build import BUILD_TARGETS, build_all
from builders.build.source import BuildOptions
from builders.commands.app import (
    Name,
    Names,
    app,
    choose_network,
    console,
    errors,
    one_of,
    relative,
    show_progress,
)
from builders.repository.built_files import list_built_files, shorten_weights
from builders.repository.deepstream import PipelineElement, render_deepstream_config
from builders.repository.layout import Repository
from builders.repository.model_table import render_model_tables
from builders.repository.render import render_for_cores, render_repository
from builders.spec.catalogue import networks
from builders.spec.ensemble import Declaration
from builders.spec.model import Model, Network, OnnxModel
from builders.spec.variants import VariantError
from builders.tensorrt.library import PRECISIONS
from builders.weights import CheckpointError, read_checkpoint
from personserve.internal.files import write_text

PANEL = "Models"

MODEL_COLUMNS = ("crops", "params", "GMACs")
FILE_COLUMNS = ("target", "precision", "runtime", "weights", "version", "age")


@app.command("list", rich_help_panel=PANEL)
def list_models() -> None:
    """List the models, their size, and the files that are built of them.

    Each built file has a line, the newest version first: a server loads that one. The
    weights of a model that is not built are those that `build` would take.
    """
    repository = Repository()
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("model", no_wrap=True)
    for heading in (*MODEL_COLUMNS, *FILE_COLUMNS):
        table.add_column(heading, no_wrap=heading in {"target", "age"})
    for declaration in repository.declarations().values():
        model_cells = _describe_model(declaration)
        for file_cells in _describe_files(declaration, repository):
            table.add_row(*model_cells, *file_cells)
            model_cells = [""] * len(model_cells)
    console.print(table)


def _describe_model(declaration: Declaration) -> list[str]:
    """Return name, crops, parameters and GMACs."""
    if isinstance(declaration, OnnxModel):
        return [declaration.name, _format_crops(declaration), "", ""]
    if not isinstance(declaration, Model):
        return [declaration.name, "", "", ""]
    return [
        declaration.name,
        _format_crops(declaration),
        f"{declaration.summary.parameter_count / 1e6:.2f} M",
        f"{declaration.summary.total_macs / 1e9:.2f}",
    ]


def _describe_files(
    declaration: Declaration, repository: Repository
) -> Sequence[tuple[str, ...]]:
    """Return FILE_COLUMNS of each built file, or one row without a file."""
    if not isinstance(declaration, Network):
        return [("",) * len(FILE_COLUMNS)]
    weights = shorten_weights(str(repository.origin(declaration.name)))
    if declaration.source.weights is not None and not repository.is_deployed(
        declaration
    ):
        weights = f"run: fetch {declaration.name}"
    rows = [
        (b.target, b.precision, b.runtime, b.weights, str(b.version), b.age)
        for b in list_built_files(repository, declaration.name)
    ]
    return rows or [("-", "", "", weights, "", "")]


@app.command(rich_help_panel=PANEL)
def render(
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit with 1 if a file is stale."),
    ] = False,
    cores: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also write configs/TARGET-CORES.pbtxt, one instance per core, for "
            "a server with this many CPU cores (--model-config-name=cpu-16).",
        ),
    ] = None,
) -> None:
    """Write configs, Python models, tables of models, and files of deploy/."""
    from builders.deployment.render import render_deployment

    repository = Repository()
    changed = render_repository(repository, check=check)
    if cores is not None and not check:
        changed += render_for_cores(repository, cores)
    changed += render_model_tables(check=check)
    changed += render_deployment(check=check)
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
            help="cpu (ONNX file for ONNX Runtime or OpenVINO), tensorrt (plan for the "
            "GPU of this machine), or rtx (TensorRT-RTX plan for the GPUs in --gpu)."
        ),
    ] = "cpu",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint of the one MODEL (.pth .pt .safetensors .npz .wts). "
            "Default: the weights that the model serves."
        ),
    ] = None,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Go back to untrained weights.")
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Options of the one MODEL that a checkpoint's names do not show, for "
            "example padded or 256x128; may be repeated. `inspect` names them. "
            "Default: the recorded options for the weights that the model serves, and "
            "the declared ones for others."
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(PRECISIONS)}. The cpu target has fp32, bf16 (OpenVINO) "
            "and int8 (see `calibrate`)."
        ),
    ] = "fp32",
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Runtime of the cpu target: onnxruntime or openvino. Default: the "
            "first that has the precision."
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU type for the rtx target, for example sm_86; may be repeated."
        ),
    ] = None,
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            help="Source of a plan: wiring (the model's operations) or onnx (an ONNX "
            "file through NVIDIA's parser).",
        ),
    ] = "wiring",
) -> None:
    """Build models, each unless it is up to date.

    A file is written only if its outputs match the torch reference. Plans are compared
    later, on a machine with the GPU: see `verify`.
    """
    options = BuildOptions(
        one_of("--precision", precision, PRECISIONS),  # type: ignore[arg-type]
        tuple(gpu or ()),
        from_onnx=one_of("--from", from_, ("wiring", "onnx")) == "onnx",
        runtime=runtime,
    )
    one_of("--target", target, BUILD_TARGETS)
    chosen = networks(names or ())
    if weights is not None and len(chosen) != 1:
        raise CheckpointError(
            f"--weights is for exactly one MODEL, and {len(chosen)} are chosen; "
            "name the model"
        )
    if variant and len(chosen) != 1:
        raise VariantError(
            f"--variant is for exactly one MODEL, and {len(chosen)} are chosen; "
            "name the model"
        )
    build_and_print(
        Repository(),
        chosen,
        target,
        weights,
        stand_in=stand_in,
        variant=",".join(variant or ()),
        options=options,
    )
    if weights is not None and isinstance(chosen[0], Model):
        note = read_checkpoint(weights).note
        if note:
            console.print(f"note: {weights.name}: {note}", markup=False, soft_wrap=True)


def build_and_print(
    repository: Repository,
    chosen: Sequence[Network],
    target: str,
    weights: Path | None = None,
    *,
    stand_in: bool = False,
    variant: str = "",
    options: BuildOptions | None = None,
) -> None:
    """Build models with a progress display, and print one line for each.

    Args:
        repository: Repository to write to.
        chosen: Models to build.
        target: "cpu", "tensorrt" or "rtx".
        weights: Checkpoint of the one model.
        stand_in: Build from untrained weights.
        variant: Names of the options of the one model's variant.
        options: Precision and how to reach it.
    """
    with show_progress() as progress:
        for result in build_all(
            repository,
            chosen,
            target,
            weights,
            stand_in=stand_in,
            variant=variant,
            options=options,
            progress=progress,
        ):
            console.print(
                f"{'built     ' if result.rebuilt else 'up to date'} {result.model}: "
                f"{result.summary}; weights: {result.origin}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


@app.command(rich_help_panel=PANEL)
def deepstream(
    name: Name,
    server: Annotated[
        str, typer.Option(help="gRPC address of the server, host:port.")
    ] = PipelineElement.server,
    unique_id: Annotated[
        int, typer.Option(help="Id of this inference element in the pipeline.")
    ] = PipelineElement.unique_id,
    detector_id: Annotated[
        int, typer.Option(help="Id of the detector whose people it receives.")
    ] = PipelineElement.detector_id,
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: standard output.")
    ] = None,
) -> None:
    """Write the configuration of DeepStream's secondary inference for a model."""
    text = render_deepstream_config(
        choose_network(name, Repository()),
        PipelineElement(unique_id, detector_id, server),
    )
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    console.print(f"wrote {output}")


def _format_crops(model: Network) -> str:
    """Return, for example, "384x128", or "100x100 x2" for a model of two images."""
    counts = Counter(f"{image.height}x{image.width}" for image in model.images)
    return ", ".join(
        size if count == 1 else f"{size} x{count}" for size, count in counts.items()
    )
