"""Commands that check built files: reference, verify, doctor."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from builders.build.build import BUILD_TARGETS
from builders.build.source import compute_answers, int8_reference, load_arrays
from builders.build.weights_choice import choose_weights
from builders.commands.app import (
    Name,
    Names,
    Publish,
    app,
    choose_network,
    console,
    one_of,
    print_stand_in_warning,
    relative,
    show_progress,
)
from builders.doctor import SEVERITIES, Problem, Severity, find_problems
from builders.progress import Progress
from builders.repository.layout import ARTEFACTS, Repository
from builders.repository.model_table import render_model_tables
from builders.spec.catalogue import networks, require_operations
from builders.spec.model import Model, Network
from builders.verify.comparison import Comparison
from builders.verify.reference import (
    ReferenceAnswers,
    VerificationError,
)
from builders.verify.verification import publish_verification, verify_artefact
from builders.weights import write_checkpoint
from personserve.internal.files import atomic_write

PANEL = "Checks"

SEVERITY_STYLES: Mapping[Severity, str] = {
    "error": "bold red",
    "warning": "yellow",
    "note": "cyan",
}


@app.command(rich_help_panel=PANEL)
def reference(
    name: Name,
    output: Annotated[Path, typer.Option(help="File for inputs and answers (.npz).")],
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Use the crops that calibration held out."),
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Also write the weights to this file (.wts), to build from on the "
            "other machine."
        ),
    ] = None,
) -> None:
    """Save the answers that built files are compared with, for a machine without torch.

    They are those of the torch reference; for an imported ONNX file, of ONNX Runtime.
    """
    repository = Repository()
    model = choose_network(name, repository)
    origin = repository.origin(name)
    with show_progress() as progress:
        if int8:
            declared = require_operations(model, "leave out --int8")
            answers = int8_reference(declared, origin, repository, progress)
        else:
            answers = compute_answers(model, origin, repository, progress)
        if export is not None:
            declared = require_operations(model, "copy the ONNX file; no --export")
            arrays = load_arrays(declared, origin, progress)
            with atomic_write(export) as partial:
                write_checkpoint(partial, export.suffix, arrays)
            origin = choose_weights(model, repository, export, stand_in=False)
        replace(answers, origin=str(origin)).save(output)
    for path in filter(None, (export, output)):
        console.print(f"wrote {path}")


@app.command(rich_help_panel=PANEL)
def verify(
    names: Names = None,
    target: Annotated[
        str,
        typer.Option(help=f"Target of the built files: {', '.join(BUILD_TARGETS)}."),
    ] = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(
            help="Fail unless the files have this precision. Default: any precision."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Saved reference of the one MODEL (see `reference`). Default: run "
            "the torch reference here."
        ),
    ] = None,
    publish: Publish = False,
) -> None:
    """Compare built files with the torch reference, on noise and on real crops.

    An imported ONNX file is the reference of its own built files: ONNX Runtime runs it
    without optimising its graph. The result is written into the record beside each
    built file.
    """
    one_of("--target", target, BUILD_TARGETS)
    repository, failed, origins = Repository(), [], []
    if reference is not None and len(names or ()) != 1:
        raise VerificationError("--reference is for exactly one MODEL; name the model")
    saved = None if reference is None else ReferenceAnswers.load(reference)
    for model in _choose_built(names or (), repository, target):
        with show_progress() as progress:
            answers = saved or _compute_answers(model, repository, precision, progress)
            origins.append(repository.origin(model.name))
            progress(f"{model.name}: running the built file")
            comparisons = verify_artefact(model, repository, target, precision, answers)
        _print_comparisons(model, comparisons)
        if not all(comparison.passed for comparison in comparisons):
            failed.append(model.name)
        elif publish:
            path = publish_verification(model, repository, target)
            console.print(f"wrote {relative(path)}")
    if publish:
        render_model_tables()
    print_stand_in_warning(*origins)
    if failed:
        raise VerificationError(f"outside tolerance: {', '.join(failed)}")


@app.command(rich_help_panel=PANEL)
def doctor(
    container: Annotated[
        str | None,
        typer.Option(
            help="Check plans for NVIDIA's Triton container of this month, for example "
            "26.08. Default: check them for this machine."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(help="Also check the running server at this gRPC host:port."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Check that every model has its files for this target: "
            f"{', '.join(ARTEFACTS)}. Default: every target that has built files."
        ),
    ] = None,
    models_: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Judge this model, or ensemble with its steps, and require that it "
            "is built; may be repeated. Default: everything that is built.",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print {problems: [{subject, fault, remedy, severity}]} as JSON.",
        ),
    ] = False,
) -> None:
    """Find what will not load or would answer wrongly.

    Judges the models that are built, or those named with --model. Errors end with exit
    code 1; warnings and notes do not.
    """
    if target is not None:
        one_of("--target", target, tuple(ARTEFACTS))
    problems = sorted(
        find_problems(Repository(), container, server, target, models_ or ()),
        key=lambda problem: SEVERITIES.index(problem.severity),
    )
    if as_json:
        typer.echo(json.dumps({"problems": [asdict(p) for p in problems]}, indent=2))
    else:
        _print_problems(problems)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        line = Text(f"{problem.severity:<8} ", SEVERITY_STYLES[problem.severity])
        line.append(str(problem), "default")
        console.print(line, soft_wrap=True, highlight=False)
    counts = Counter(problem.severity for problem in problems)
    texts = [
        f"{counts[each]} {each}{'' if counts[each] == 1 else 's'}"
        for each in SEVERITIES
        if counts[each]
    ]
    console.print(", ".join(texts) or "no problems found")


def _choose_built(
    names: Sequence[str], repository: Repository, target: str
) -> list[Network]:
    """Return the named models, or all that are built for the target."""
    if names:
        return [choose_network(name, repository) for name in names]
    every = [repository.served_network(network) for network in networks()]
    built = [model for model in every if repository.is_built(model, target)]
    missing = [model.name for model in every if model not in built]
    if built and missing:
        console.print(f"not built for {target}: {', '.join(missing)}", soft_wrap=True)
    if not built:
        raise VerificationError(
            f"no model is built for {target}; run "
            f"python -m builders build --target {target}"
        )
    return built


def _compute_answers(
    model: Network, repository: Repository, precision: str | None, progress: Progress
) -> ReferenceAnswers:
    origin = repository.origin(model.name)
    if precision == "int8" and isinstance(model, Model):
        return int8_reference(model, origin, repository, progress)
    return compute_answers(model, origin, repository, progress)


def _print_comparisons(model: Network, comparisons: Sequence[Comparison]) -> None:
    if not isinstance(model, Model):
        console.print(
            f"{model.name}: an imported ONNX file; the built file is compared with "
            "ONNX Runtime, which runs the imported one without optimising its graph",
            soft_wrap=True,
        )
    for comparison in comparisons:
        mark = "[green]passed[/green]" if comparison.passed else "[red]FAILED[/red]"
        console.print(
            f"{mark} {model.name} {comparison}", highlight=False, soft_wrap=True
        )
