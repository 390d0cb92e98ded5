"""Training of a model: train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builders.commands.app import (
    app,
    choose_model,
    console,
    one_of,
    show_progress,
    stopping_on_sigterm,
)
from personserve.internal.report import page_link

if TYPE_CHECKING:
    from builders.spec.model import Model
    from builders.training.recipes import Recipe

PANEL = "Training"

NEEDS_OPERATIONS = "train it where it was made, and import the result"


@app.command("train", rich_help_panel=PANEL)
def train_model(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a recipe in builders/training/recipes, or path of a TOML "
            "file.",
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Folder of the data set of each of the recipe's tasks, in its order.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Model to train. Default: the first that the recipe names."),
    ] = None,
    variant: Annotated[
        str, typer.Option(help="Variant of the model, for example 256x128.")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run. Default: training/MODEL-RECIPE."),
    ] = None,
    first_weights: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Checkpoint to start from: of this model, of one with the same trunk, "
            "or an ImageNet or IBN-Net file. Default: random weights.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL=FILE",
            help="Model and checkpoint of the teacher, for a recipe that distils.",
        ),
    ] = None,
    leaks: Annotated[
        str,
        typer.Option(
            help="What to do about training images that validate too: stop, drop "
            "them, or keep them."
        ),
    ] = "stop",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in the folder --output."),
    ] = False,
    devices: Annotated[
        int, typer.Option(min=1, help="Number of GPUs to train on, by DDP.")
    ] = 1,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs in place of the recipe's.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=2, help="Rows in a batch in place of the recipe's."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed in place of the recipe's.")
    ] = None,
    save_steps: Annotated[
        int, typer.Option(min=1, help="Steps between two saved states.")
    ] = 500,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Layout of the data sets. Detected from the files by default."
        ),
    ] = None,
    partition: Annotated[
        int, typer.Option(help="Random partition of PETA or RAP, 0 to 4.")
    ] = 0,
) -> None:
    """Train a model on a labelled data set, and write a report.

    The result is best.safetensors in the folder of the run, a checkpoint for build
    --weights. An interrupted run continues with --resume. Training and validation part
    are first searched for common people and nearly identical images.
    """
    from builders.training.recipes import read_recipe
    from builders.training.training import LEAK_RULES, TrainingOptions, train

    one_of("--leaks", leaks, LEAK_RULES)
    plan = _adjust(read_recipe(recipe), epochs, batch, seed)
    chosen = choose_model(model or plan.models[0], reason=NEEDS_OPERATIONS)
    chosen = chosen.in_variant(variant)
    folder = output or Path("training") / f"{chosen.name}-{plan.name}"
    console.print(f"{plan.summary} ({plan.source})", highlight=False)
    options = TrainingOptions(
        first_weights=first_weights,
        teacher=_parse_teacher(teacher),
        leaks=leaks,
        resume=resume,
        devices=devices,
        save_steps=save_steps,
        layout=layout,
        partition=partition,
    )
    with stopping_on_sigterm(), show_progress() as progress:
        result = train(plan, chosen, data, folder, options, progress)
    if result.report is not None and result.page is not None:
        result.report.print_to(console)
        page = page_link(result.page)
        console.print(f"wrote {result.best} and {page}", soft_wrap=True)


def _adjust(
    recipe: Recipe, epochs: int | None, batch: int | None, seed: int | None
) -> Recipe:
    """Return a recipe with the command line's changes, which its digest lacks."""
    if epochs is not None:
        length = replace(
            recipe.length,
            max_epochs=epochs,
            min_epochs=min(epochs, recipe.length.min_epochs),
        )
        recipe = replace(recipe, length=length)
    if batch is not None:
        tasks = tuple(replace(task, batch=batch) for task in recipe.tasks)
        recipe = replace(recipe, tasks=tasks)
    return recipe if seed is None else replace(recipe, seed=seed)


def _parse_teacher(text: str | None) -> tuple[Model, Path] | None:
    if text is None:
        return None
    name, _, file = text.partition("=")
    if not file:
        raise typer.BadParameter(f"--teacher {text}: expected MODEL=FILE")
    return choose_model(name, reason=NEEDS_OPERATIONS), Path(file)
