"""Accuracy on a data set: evaluate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from builders.catalogue import models
from builders.commands.app import (
    app,
    console,
    one_of,
    progress_bar,
    relative,
    stopping_on_sigterm,
)
from builders.evaluation import layouts
from builders.evaluation.evaluate import Options, evaluate_on
from builders.evaluation.predictions import BACKENDS
from builders.evaluation.report import compare as compare_runs
from builders.repository import Repository

PANEL = "Evaluation"


@app.command(rich_help_panel=PANEL)
def evaluate(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    data: Annotated[Path, typer.Argument(help="The data set's folder, unpacked.")],
    backends: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help=f"{', '.join(BACKENDS)}; may be repeated. onnx if none is given.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(layouts.LAYOUTS)}; recognised if not given."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="train, val, test or all; the layout's own."),
    ] = None,
    partition: Annotated[
        int, typer.Option(help="Which random partition of PETA and RAP, 0 to 4.")
    ] = 0,
    server: Annotated[
        str | None,
        typer.Option(help="host:port of a running server for --with server."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a call.")] = 16,
    flip: Annotated[
        bool, typer.Option("--flip", help="Average with the mirror image's answer.")
    ] = False,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="ReID: k-reciprocal re-ranking.")
    ] = False,
    abstain: Annotated[
        float,
        typer.Option(min=0, max=0.5, help="Gender: no answer this near the threshold."),
    ] = 0.1,
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="Gender: error by this column; may be repeated."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Put all runs on these data side by side.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where reports and answers go.")] = Path(
        "evaluations"
    ),
) -> None:
    """Measure a model on a data set, through any backend or a live server.

    Writes report.json, report.md and plots. A run that is broken off goes on where it
    was when it is started again.
    """
    (model,) = models([name])
    chosen = [one_of("--with", each, BACKENDS) for each in backends or ["onnx"]]
    if layout is not None:
        one_of("--layout", layout, list(layouts.LAYOUTS))
    layout = layout or layouts.recognised(data)
    found = layouts.read(data, layout, part, partition)
    part = part or layouts.LAYOUTS[layout].part
    console.print(f"{data.name}: {layout}, {part}, {len(found.items):,} answers wanted")
    options = Options(flip, rerank, abstain, tuple(group_by or ()), batch)
    about = {"root": str(data), "layout": layout, "part": part, "partition": partition}
    folder = output / model.name / f"{data.resolve().name}-{part}"
    for each in chosen:
        with stopping_on_sigterm(), progress_bar() as tell:
            path = evaluate_on(
                each,
                model,
                found,
                about,
                Repository(),
                folder,
                options,
                address=server,
                progress=_counted(tell, f"{model.name}, {each}", len(found.items)),
            )
        console.print(f"wrote {relative(path)}", soft_wrap=True)
        console.print(path.read_text(encoding="utf-8"), markup=False, highlight=False)
    if compare:
        path, table = compare_runs(folder, model)
        console.print(table, markup=False, highlight=False, soft_wrap=True)
        console.print(f"wrote {relative(path)}", soft_wrap=True)


def _counted(
    tell: Callable[[str, int, int], None], what: str, total: int
) -> Callable[[int], None]:
    return lambda done: tell(what, done, total)
