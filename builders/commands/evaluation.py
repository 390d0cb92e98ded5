"""Accuracy on a data set: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builders.commands.app import (
    Name,
    app,
    choose_network,
    console,
    one_of,
    show_progress,
    stopping_on_sigterm,
)
from builders.evaluation import layouts
from builders.evaluation.comparison import compare_runs
from builders.evaluation.evaluation import EvaluationOptions, evaluate_model
from builders.evaluation.runners import RUNNERS
from builders.repository.layout import Repository
from personserve.internal.report import page_link

PANEL = "Evaluation"


@app.command(rich_help_panel=PANEL)
def evaluate(
    name: Name,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Folder of the data set, as published, unpacked."
        ),
    ],
    runners: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="Run the model with torch, with the built ONNX file (onnx), with the "
            "built TensorRT plan (plan), or through Triton (server). Repeat it to run "
            "several. onnx by default.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help=f"Layout of the data set: {', '.join(layouts.LAYOUTS)}. Detected from "
            "its files by default."
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Part of the data set to evaluate: train, val, test or all. By "
            "default the part that published results are for."
        ),
    ] = None,
    partition: Annotated[
        int,
        typer.Option(help="Random partition of PETA or RAP, 0 to 4."),
    ] = 0,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address of a running server for --with server. Without it a server "
            "is started and stopped again.",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Images per call, limited by the model's batch size."),
    ] = 16,
    flip: Annotated[
        bool,
        typer.Option(
            "--flip",
            help="Average the outputs of each image and its mirror image (test-time "
            "augmentation).",
        ),
    ] = False,
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank",
            help="ReID only: sort the gallery by k-reciprocal re-ranking instead of "
            "cosine similarity.",
        ),
    ] = False,
    abstain: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.5,
            help="Gender only: report the accuracy without the images whose "
            "probability is closer than this to the threshold.",
        ),
    ] = 0.1,
    group_by: Annotated[
        list[str] | None,
        typer.Option(
            help="Gender only: break the error rate down by this column of the data "
            "set, for example AgeOver60. Repeat it for several columns."
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare all runs of this model on this data set in one table, "
            "earlier ones included.",
        ),
    ] = False,
    output: Annotated[
        Path, typer.Option(help="Folder for reports and the outputs of the model.")
    ] = Path("evaluations"),
) -> None:
    """Measure the accuracy of a model on a data set, and write a report.

    The data set decides the protocol: accuracy, F1 and ROC for gender, CMC and mAP for
    re-identification, ROC AUC for kinship, top-1 and top-5 for ImageNet. The report is
    a web page (report.html) with plots, also as report.md and report.json. An
    interrupted run resumes where it stopped.
    """
    repository = Repository()
    model = choose_network(name, repository)
    names = [one_of("--with", each, RUNNERS) for each in runners or ["onnx"]]
    if layout is not None:
        one_of("--layout", layout, list(layouts.LAYOUTS))
    layout = layout or layouts.detect_layout(data)
    dataset = layouts.read_dataset(data, layout, part, partition)
    part = dataset.facts["part"]
    console.print(f"{data.name}: {layout}, {part}, {len(dataset.items):,} items")
    options = EvaluationOptions(flip, rerank, abstain, tuple(group_by or ()), batch)
    folder = output / model.name / f"{data.resolve().name}-{part}"
    for each in names:
        with stopping_on_sigterm(), show_progress() as progress:
            report = evaluate_model(
                model,
                dataset,
                each,
                repository,
                folder,
                options,
                server_url=server,
                progress=progress,
            )
        report.content.print_to(console)
        console.print(f"wrote {page_link(report.page)}", soft_wrap=True)
    if compare:
        page, comparison = compare_runs(folder, model)
        comparison.print_to(console)
        console.print(f"wrote {page_link(page)}", soft_wrap=True)
