"""Whether what was built is right: reference, verify, doctor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from builders import build as building
from builders import readme
from builders.catalogue import models
from builders.check import Check, VerificationError, reference_check
from builders.commands.app import Names, app, console, doing, one_of
from builders.repository import Repository
from builders.tensorrt.doctor import findings
from builders.verify import verify_built
from builders.weights import write_checkpoint
from personserve._files import atomic_write

PANEL = "Checks"


@app.command(rich_help_panel=PANEL)
def reference(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    output: Annotated[Path, typer.Option(help="Where to write it (.npz).")],
    int8: Annotated[
        bool,
        typer.Option("--int8", help="On the crops that calibration held out."),
    ] = False,
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
    if int8:
        check = building.int8_check(model, origin, repository, lambda _doing: None)
    else:
        check = reference_check(model, weights.arrays, origin)
    if export is not None:
        with atomic_write(export) as partial:
            write_checkpoint(partial, export.suffix, weights.arrays)
        origin = building.choose_weights(model, repository, export, stand_in=False)
        console.print(f"wrote {export}")
    replace(check, origin=str(origin)).save(output)
    console.print(f"wrote {output}")


@app.command(rich_help_panel=PANEL)
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
    one_of("--target", target, building.BUILD_TARGETS)
    repository, failed = Repository(), []
    for model in models(names or ()):
        with doing() as say:
            say(f"{model.name}: running the reference")
            origin = repository.origin(model.name)
            if reference is None and precision == "int8":
                check = building.int8_check(model, origin, repository, say)
            elif reference is None:
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
    readme.render(repository)
    if failed:
        raise VerificationError(f"outside tolerance: {', '.join(failed)}")


@app.command(rich_help_panel=PANEL)
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
