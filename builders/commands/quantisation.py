"""Commands for INT8: calibrate, sensitivity, finetune-int8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from builders.build.source import int8_reference, load_arrays
from builders.build.weights_choice import choose_weights
from builders.commands.app import (
    Name,
    app,
    choose_model,
    console,
    one_of,
    print_stand_in_warning,
    relative,
    show_progress,
    stopping_on_sigterm,
)
from builders.quantisation.table import (
    FINETUNED_FILE,
    HELD_OUT_FILE,
    METHODS,
    QuantisationError,
    load_finetuned_arrays,
    load_table,
)
from builders.repository.layout import Repository
from builders.weights import file_sha256, write_checkpoint
from personserve.internal.files import atomic_write
from personserve.internal.report import page_link

PANEL = "Precisions"

NEEDS_OPERATIONS = (
    "INT8 is placed between a model's operations. Quantise the file itself "
    "(onnxruntime.quantization.quantize_static) and import the result"
)
"""Why INT8's commands refuse imported files."""

Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Checkpoint to use. Default: the weights that the model serves.",
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        min=1, help="Use this many images, evenly spaced. Default: all of the folder."
    ),
]
ReportFolder = Annotated[
    Path, typer.Option(help="Folder for the report; one subfolder per model.")
]


@app.command("calibrate", rich_help_panel=PANEL)
def calibrate_model(
    name: Name,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of crops as the model will see them; subfolders are searched."
        ),
    ] = None,
    count: Count = None,
    method: Annotated[
        str,
        typer.Option(
            help="How values become a range: max, percentile (99.99), or entropy "
            "(smallest Kullback-Leibler divergence)."
        ),
    ] = "max",
    weights: Weights = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="TensorRT calibration cache to take the scales from, in place of "
            "--images."
        ),
    ] = None,
) -> None:
    """Compute the INT8 table of a model from real crops.

    Every fifth image (32 at most) is held out; INT8 builds are compared on those. The
    table is written to model_repository/MODEL/int8.json (commit it). Then build the
    model: build MODEL --precision int8.
    """
    from builders.quantisation.cache import table_from_cache
    from builders.quantisation.calibration import calibrate, compute_held_out_reference
    from builders.quantisation.images import find_calibration_images

    repository = Repository()
    model = choose_model(name, repository, NEEDS_OPERATIONS)
    origin = choose_weights(model, repository, weights, stand_in=False)
    model = model.in_variant(origin.variant)
    print_stand_in_warning(origin)
    if (images is None) == (cache is None):
        raise QuantisationError("give either --images FOLDER or --cache FILE")
    if images is None:
        table = table_from_cache(model, str(origin), cache or Path())
    else:
        one_of("--method", method, METHODS)
        calibration_images = find_calibration_images(images, count)
        with stopping_on_sigterm(), show_progress() as progress:
            arrays = load_arrays(model, origin, progress)
            table = calibrate(
                model,
                arrays,
                str(origin),
                calibration_images,
                method,  # type: ignore[arg-type]
                progress,
            )
            progress("running the torch reference on held-out crops")
            reference = compute_held_out_reference(
                model, arrays, origin, calibration_images
            )
        reference.save(repository.artefact_path(name, HELD_OUT_FILE))
    path = table.save(repository)
    console.print(
        f"wrote {relative(path)}: {len(table.scales)} scales from {table.images} "
        f"images, {table.method}",
        soft_wrap=True,
    )


@app.command("sensitivity", rich_help_panel=PANEL)
def report_sensitivity(
    name: Name,
    weights: Weights = None,
    output: ReportFolder = Path("reports"),
) -> None:
    """Measure which layers cost INT8 its accuracy, on the held-out crops.

    Returns one layer at a time to float, then the most sensitive ones together until
    the model is within its tolerance. The report names them, for int8_exclude.
    """
    from builders.quantisation.sensitivity import measure_sensitivity, write_report

    repository = Repository()
    model = choose_model(name, repository, NEEDS_OPERATIONS)
    origin = choose_weights(model, repository, weights, stand_in=False)
    model = model.in_variant(origin.variant)
    print_stand_in_warning(origin)
    table = load_table(repository, model, str(origin))
    with stopping_on_sigterm(), show_progress() as progress:
        reference = int8_reference(model, origin, repository, progress)
        if table.finetuned_sha256 is not None:
            arrays = load_finetuned_arrays(repository, model, table)
        else:
            arrays = load_arrays(model, origin, progress)
        sensitivity = measure_sensitivity(model, arrays, table, reference, progress)
    page, report = write_report(output / name, model, sensitivity, str(origin))
    report.print_to(console)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)


@app.command("finetune-int8", rich_help_panel=PANEL)
def finetune_model(
    name: Name,
    images: Annotated[
        Path, typer.Option(help="Folder of crops to train on; no labels are needed.")
    ],
    count: Count = None,
    weights: Weights = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 300,
    batch: Annotated[int, typer.Option(min=1, help="Crops per training step.")] = 16,
    learning_rate: Annotated[
        float,
        typer.Option(
            help="Learning rate of Adam, relative to the RMS of each weight tensor."
        ),
    ] = 3e-4,
) -> None:
    """Train weights and scales so that INT8 answers like FP32.

    Calibrate first. Distils from the FP32 network, on a GPU if torch finds one. Writes
    model_repository/MODEL/int8.safetensors, which only INT8 builds use, and int8.json.
    """
    from builders.quantisation.calibration import compute_held_out_reference
    from builders.quantisation.finetuning import Training, finetune
    from builders.quantisation.images import find_calibration_images, read_crops

    repository = Repository()
    model = choose_model(name, repository, NEEDS_OPERATIONS)
    origin = choose_weights(model, repository, weights, stand_in=False)
    model = model.in_variant(origin.variant)
    print_stand_in_warning(origin)
    table = load_table(repository, model, str(origin))
    training_images = find_calibration_images(images, count)
    with stopping_on_sigterm(), show_progress() as progress:
        arrays = load_arrays(model, origin, progress)
        progress("reading crops")
        reference = compute_held_out_reference(model, arrays, origin, training_images)
        parts = list(read_crops(model, training_images.files))
        crops = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        training = Training(steps, batch, learning_rate)
        result = finetune(model, arrays, table, crops, reference, training, progress)
    path = repository.folder(name) / FINETUNED_FILE
    with atomic_write(path) as partial:
        write_checkpoint(partial, path.suffix, result.arrays)
    replace(result.table, finetuned_sha256=file_sha256(path)).save(repository)
    reference.save(repository.artefact_path(name, HELD_OUT_FILE))
    console.print(
        f"held-out loss {result.loss_before:.3g} before, {result.loss_after:.3g} "
        f"after; wrote {relative(path)}; next: build {name} --precision int8",
        soft_wrap=True,
    )
