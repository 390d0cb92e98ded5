"""Checkpoint files: inspect, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from builders.catalogue import catalogue, models
from builders.commands.app import app, console, doing, relative
from builders.spec import Model
from builders.weights import (
    CheckpointError,
    file_sha256,
    fitted,
    read_checkpoint,
    write_checkpoint,
)
from builders.weights.checkpoint import matched
from personserve._files import atomic_write

NEAREST = 3
"""How many models that do not fit are named, and with how many problems each."""

PANEL = "Checkpoints"


@app.command(rich_help_panel=PANEL)
def inspect(
    file: Annotated[Path, typer.Argument(help="A .pth .pt .safetensors .npz .wts.")],
) -> None:
    """List a checkpoint's names and shapes, and say which model it fits."""
    with doing() as say:
        say(f"reading {file.name}")
        contents = read_checkpoint(file)
        digest = file_sha256(file)
        table = Table("name", "shape", "type", box=SIMPLE)
        for name, array in contents.arrays.items():
            shape = array.shape if contents.has_shapes else f"{array.size} values"
            table.add_row(name, str(shape), str(array.dtype))
        fits = {}
        for model in catalogue().values():
            if isinstance(model, Model):
                say(f"trying {model.name}")
                fits[model.name] = fitted(model, contents)
    console.print(table)
    values = sum(array.size for array in contents.arrays.values())
    console.print(f"format   {contents.format}")
    console.print(f"arrays   {len(contents.arrays)}, {values:,} values")
    console.print(f"sha256   {digest}", soft_wrap=True)
    fitting = [name for name, fit in fits.items() if not fit.problems]
    for name in fitting:
        dropped = ", ".join(fits[name].dropped)
        console.print(f"fits     {name}" + (f" (drops {dropped})" if dropped else ""))
    if fitting:
        return
    console.print("fits     no declared model; nearest are:")
    by_problems = sorted(fits.items(), key=lambda item: len(item[1].problems))
    for name, fit in by_problems[:NEAREST]:
        console.print(f"  {name}: {len(fit.problems)} keys differ", highlight=False)
        for problem in fit.problems[:NEAREST]:
            console.print(f"    {problem}", markup=False, highlight=False)


@app.command(rich_help_panel=PANEL)
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The file to read.")],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The file to write: .pth .pt .safetensors .npz .wts."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Write this model's names, shapes and layout; strictly, without the "
            "keys that it drops."
        ),
    ] = None,
) -> None:
    """Write a checkpoint in another format.

    Without --model names and arrays stay as they are. With it TensorFlow's names and
    layouts and older names become the model's, and files without shapes get them.
    .wts is written in tensorrtx's dialect.
    """
    with doing() as say:
        say(f"reading {source.name}")
        contents = read_checkpoint(source)
        arrays = contents.arrays
        if model is not None:
            (declared,) = models([model])
            arrays = matched(declared, contents, source.name)
        elif not contents.has_shapes and target.suffix != ".wts":
            raise CheckpointError(
                f"{source.name} is in {contents.format}, which has no shapes, and "
                f"{target.suffix} needs them; say with --model whose weights they are"
            )
        say(f"writing {target.name}")
        with atomic_write(target) as partial:
            write_checkpoint(partial, target.suffix, arrays)
    lost = len(contents.arrays) - len(arrays)
    console.print(
        f"wrote {relative(target)}: {len(arrays)} arrays from {contents.format}"
        + (f", without {lost} that {model} does not need" if lost > 0 else "")
    )
