"""Command that compares precisions: report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from builders.build.source import load_arrays
from builders.build.weights_choice import choose_weights, model_for
from builders.commands.app import (
    Name,
    Publish,
    app,
    choose_network,
    console,
    one_of,
    show_progress,
    stopping_on_sigterm,
)
from builders.commands.quantisation import (
    NEEDS_OPERATIONS,
    PANEL,
    ReportFolder,
    Weights,
)
from builders.quantisation.table import QuantisationError
from builders.repository.layout import Repository
from builders.repository.model_table import render_model_tables
from builders.repository.verified import VERIFIED
from builders.spec.catalogue import require_operations
from builders.spec.model import Model
from builders.verify.reference import ReferenceAnswers
from personserve.internal.report import page_link


@app.command("report", rich_help_panel=PANEL)
def precision_report(
    name: Name,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="torch, cpu or tensorrt; may be repeated. Default: torch and cpu; cpu "
            "for an imported ONNX file."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Report this precision only; may be repeated. Default: all that the "
            "target has."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Saved reference to compare with, for machines without torch (see "
            "`reference`)."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Data set to measure accuracy on (see `evaluate`)."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of crops, to measure INT8's error by the number of "
            "calibration images."
        ),
    ] = None,
    publish: Publish = False,
    weights: Weights = None,
    output: ReportFolder = Path("reports"),
) -> None:
    """Compare precisions: time by batch size, memory, size, distance, accuracy.

    INT8 takes part once the model is calibrated. A later run, for other targets or in
    another environment, adds to the same report.
    """
    from builders.precision.accuracy import measure_accuracy
    from builders.precision.measure import (
        TARGETS,
        measure_precisions,
        sweep_calibration,
    )
    from builders.precision.report import write_report
    from builders.quantisation.images import find_calibration_images

    repository = Repository()
    model = choose_network(name, repository)
    usual = ("torch", "cpu") if isinstance(model, Model) else ("cpu",)
    targets = [one_of("--target", each, TARGETS) for each in target or usual]
    origin = choose_weights(model, repository, weights, stand_in=False)
    model = model_for(model, origin)
    folder = output / name
    answers = None if reference is None else ReferenceAnswers.load(reference)
    page, report = folder, None
    with stopping_on_sigterm(), show_progress() as progress:
        accuracy = None
        if data is not None:
            accuracy = partial(measure_accuracy, model, data, folder / "accuracy")
        for each in targets:
            for row in measure_precisions(
                model,
                origin,
                repository,
                each,
                progress,
                precision,
                answers,
                accuracy,
                VERIFIED if publish else None,
            ):
                page, report = write_report(folder, model, [row])
        if images is not None:
            declared = require_operations(model, NEEDS_OPERATIONS)
            arrays = load_arrays(declared, origin, progress)
            points = sweep_calibration(
                declared, arrays, origin, find_calibration_images(images), progress
            )
            page, report = write_report(folder, model, [], points)
    if report is None:
        raise QuantisationError(
            f"{', '.join(targets)} has no precision {', '.join(precision or ())}, so "
            "there is nothing to report"
        )
    if publish:
        render_model_tables()
    report.print_to(console)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)
