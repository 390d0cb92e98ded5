"""Commands for checkpoint files: inspect, convert, compare-variants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from builders.commands.app import (
    Name,
    app,
    choose_model,
    console,
    relative,
    show_progress,
    stopping_on_sigterm,
)
from builders.images import UnreadableImageError, find_images
from builders.spec.catalogue import catalogue
from builders.spec.model import Model
from builders.spec.variants import (
    VariantError,
    describe_choices,
    find_signs,
    require_chosen,
)
from builders.weights import (
    CheckpointContents,
    CheckpointError,
    file_sha256,
    fit_checkpoint,
    read_checkpoint,
    require_writable_format,
    write_checkpoint,
)
from builders.weights.checkpoint import match_checkpoint
from personserve.internal.files import atomic_write

if TYPE_CHECKING:
    from builders.evaluation.variants import VariantRow

MAX_LISTED = 3
"""Models that are listed if none fits, and problems that are listed for each."""

PANEL = "Checkpoints"

WeightsKey = Annotated[
    str,
    typer.Option(
        help="Key of the state dict, in a training program's file that has several. "
        "Default: averaged weights (EMA), else the plain ones; the output says which."
    ),
]


@app.command(rich_help_panel=PANEL)
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint: .pth .pt .pth.tar .ckpt .bin .safetensors .npz .wts."
        ),
    ],
    weights_key: WeightsKey = "",
) -> None:
    """List a checkpoint's arrays, and the models that it fits.

    It also says where the names do not show which variant of a model the weights were
    trained with.
    """
    with show_progress() as progress:
        progress(f"reading {file.name}")
        contents = read_checkpoint(file, weights_key)
        digest = file_sha256(file)
        table = Table("name", "shape", "type", box=SIMPLE)
        for name, array in contents.arrays.items():
            shape = array.shape if contents.has_shapes else f"{array.size} values"
            table.add_row(escape(name), escape(str(shape)), str(array.dtype))
        fits = {}
        declared = [m for m in catalogue().values() if isinstance(m, Model)]
        for number, model in enumerate(declared, start=1):
            progress("comparing with the models", number, len(declared))
            fits[model.name] = fit_checkpoint(model, contents)
    console.print(table)
    values = sum(array.size for array in contents.arrays.values())
    console.print(f"format   {contents.format}")
    console.print(f"arrays   {len(contents.arrays)}, {values:,} values")
    console.print(f"sha256   {digest}", soft_wrap=True)
    if contents.note:
        _print(f"note     {contents.note}")
    fitting = [model for model in declared if not fits[model.name].problems]
    for model in fitting:
        dropped = ", ".join(fits[model.name].dropped)
        _print(f"fits     {model.name}" + (f" (drops {dropped})" if dropped else ""))
        _print_variants(model, contents, file)
    if fitting:
        return
    _print("fits     no declared model; the nearest are:")
    by_similarity = sorted(
        fits.items(), key=lambda item: (-item[1].similarity, len(item[1].problems))
    )
    for name, fit in by_similarity[:MAX_LISTED]:
        _print(
            f"  {name}: {len(fit.problems)} keys differ, {len(fit.arrays)} fit "
            f"({fit.counts})"
        )
        for problem in fit.problems[:MAX_LISTED]:
            _print(f"    {problem}")


def _print_variants(model: Model, contents: CheckpointContents, file: Path) -> None:
    """Print what names do not show of a model, and what signs a checkpoint has."""
    if model.choices:
        _print(f"variants {model.name}: {describe_choices(model)}")
    try:
        require_chosen(model, "", contents.arrays, str(file))
    except VariantError as exc:
        _print(f"choose   {exc}")


def _print(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command(rich_help_panel=PANEL)
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Checkpoint to read.")],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Checkpoint to write; its suffix is the format: .pth .pt "
            ".safetensors .npz .wts.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model whose names, shapes and layout to write. Fails if a key is "
            "missing or unexpected; keys that the model drops are left out."
        ),
    ] = None,
    weights_key: WeightsKey = "",
) -> None:
    """Write a checkpoint in another format.

    Without --model, names and arrays are copied unchanged, except for the prefixes of
    wrapped modules (module., _orig_mod., Lightning's model.). With --model, names and
    layouts of TensorFlow and names of older checkpoints are converted to the model's,
    and arrays of files without shapes get their shapes. Files in .wts have the dialect
    of tensorrtx.
    """
    require_writable_format(target)
    with show_progress() as progress:
        progress(f"reading {source.name}")
        contents = read_checkpoint(source, weights_key)
        arrays, declared = contents.arrays, None
        if model is not None:
            declared = choose_model(
                model, reason="its file is no checkpoint; leave out --model"
            )
            arrays = match_checkpoint(declared, contents, source.name)
        elif not contents.has_shapes and target.suffix != ".wts":
            raise CheckpointError(
                f"{source.name} is in {contents.format}, which has no shapes, and "
                f"{target.suffix} needs them; name the model with --model"
            )
        progress(f"writing {target.name}")
        with atomic_write(target) as partial:
            write_checkpoint(partial, target.suffix, arrays)
    dropped = len(contents.arrays) - len(arrays)
    console.print(
        f"wrote {escape(str(relative(target)))}: {len(arrays)} arrays from "
        f"{contents.format}"
        + (f", without {dropped} that {model} drops" if dropped > 0 else "")
    )
    if contents.note:
        _print(f"note: {contents.note}")
    if declared is not None and _loses_signs(declared, contents.arrays, arrays):
        _print(
            f"note: {source.name} has names that suggest another variant of {model} "
            f"than the declared one, and {target.name} has not; build it with "
            f"--variant (see: python -m builders inspect {source})"
        )


def _loses_signs(model: Model, before: Iterable[str], after: Iterable[str]) -> bool:
    """Return whether names that suggest a variant are not there any more."""
    return find_signs(model, before) != find_signs(model, after)


@app.command("compare-variants", rich_help_panel=PANEL)
def compare_model_variants(
    name: Name,
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint of the model.")
    ],
    crops: Annotated[
        list[Path],
        typer.Argument(
            metavar="CROPS...",
            help="Crops of one person each, cut as for the model, or folders of such "
            "crops. Names as in Market-1501 (0002_c1s1_...), or one folder for "
            "each person, tell who is on them.",
        ),
    ],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Variant to compare, for example padded-256x128; may be repeated, and "
            "the others are compared with the first. Default: the declared one "
            "and each other option."
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(min=2, help="Use at most this many images, evenly spaced."),
    ] = 64,
    weights_key: WeightsKey = "",
) -> None:
    """Compare the variants of a model on crops, to find a checkpoint's own.

    Embeddings are compared by cosine similarity with the first variant's, probabilities
    by their difference. If the names of the crops tell who is on them, the variant that
    separates people best is most likely the one that the weights were trained with.
    """
    from builders.evaluation.variants import (
        candidate_variants,
        compare_variants,
        people_from_paths,
    )

    model = choose_model(name, reason="it has no variants")
    if not model.choices:
        raise VariantError(f"{name} has no variants, so there is nothing to compare")
    paths = _find_crops(crops, count)
    with stopping_on_sigterm(), show_progress() as progress:
        progress(f"reading {checkpoint.name}")
        contents = read_checkpoint(checkpoint, weights_key)
        variants = variant or candidate_variants(model, list(contents.arrays))
        rows = compare_variants(
            model, contents, checkpoint.name, paths, variants, progress
        )
    _print_rows(rows, has_people=bool(people_from_paths(paths)))


def _find_crops(crops: Sequence[Path], count: int) -> list[Path]:
    paths: list[Path] = []
    for path in crops:
        paths += find_images(path, recursive=True) if path.is_dir() else [path]
    if len(paths) < 2:
        raise UnreadableImageError(
            f"{', '.join(map(str, crops))}: expected at least 2 images, got "
            f"{len(paths)}; name images, or folders that have some"
        )
    step = max(1.0, len(paths) / count)
    return [paths[int(number * step)] for number in range(min(count, len(paths)))]


def _print_rows(rows: Sequence[VariantRow], *, has_people: bool) -> None:
    table = Table("variant", "output", "mean", "worst", "separation", box=SIMPLE)
    for row in rows:
        separation = "-" if row.separation is None else f"{row.separation:.4f}"
        table.add_row(
            row.variant, row.output, f"{row.mean:.6f}", f"{row.worst:.6f}", separation
        )
    console.print(table)
    _print(
        f"mean and worst: cosine similarity of an embedding to that of "
        f"{rows[0].variant}, or difference of a probability"
    )
    separating = [row for row in rows if row.separation is not None]
    if separating:
        best = max(separating, key=lambda row: row.separation or 0.0)
        _print(
            "separation: probability that two crops of one person are more similar "
            f"than two of different people (ROC AUC). {best.variant} is the best; "
            "differences of less than 0.01 on a few dozen crops mean little"
        )
    elif not has_people:
        _print(
            "separation: unknown, because the names do not tell who is on the crops; "
            "name them as in Market-1501 (PERSON_cCAMERA...), or use a folder for each "
            "person"
        )
