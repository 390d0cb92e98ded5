"""INT8 and the other precisions: calibrate, sensitivity, finetune-int8, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from builders import build as building
from builders import markdown
from builders.catalogue import models
from builders.check import Check
from builders.commands.app import (
    app,
    console,
    doing,
    one_of,
    progress_bar,
    relative,
    stopping_on_sigterm,
)
from builders.quantisation.table import (
    CHECK_FILE,
    FINETUNED_FILE,
    METHODS,
    QuantisationError,
    finetuned_arrays,
    load_table,
)
from builders.repository import Repository
from builders.spec import Model
from builders.weights import file_sha256, write_checkpoint
from personserve._files import atomic_write, write_text

PANEL = "Precisions"

Images = Annotated[
    Path | None,
    typer.Option(help="Folder of crops as the model will see them, at any depth."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="Of this checkpoint, not the one that is served now."
    ),
]
Count = Annotated[
    int | None,
    typer.Option(min=1, help="Use so many, evenly spread."),
]


@app.command("calibrate", rich_help_panel=PANEL)
def calibrate_model(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    images: Images = None,
    count: Count = None,
    method: Annotated[
        str,
        typer.Option(
            help="How ranges become steps: max, percentile (99.99), or entropy (KL "
            "divergence)."
        ),
    ] = "max",
    weights: Checkpoint = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Take the steps from a TensorRT calibration cache instead."),
    ] = None,
) -> None:
    """Measure the INT8 table of a model on real crops.

    Every fifth image (32 at most) is held out, and judges what is built. The table goes
    to model_repository/MODEL/int8.json (commit it); then build MODEL --precision int8.
    """
    from builders.quantisation.calibration import (
        calibrate,
        held_out_check,
        images_in,
        table_from_cache,
    )

    (model,) = models([name])
    repository = Repository()
    origin = building.choose_weights(model, repository, weights, stand_in=False)
    if (images is None) == (cache is None):
        raise QuantisationError("give either --images FOLDER or --cache FILE")
    if images is None:
        table = table_from_cache(model, str(origin), cache or Path())
    else:
        chosen = images_in(images, count)
        arrays = building.load(model, origin).arrays
        with stopping_on_sigterm(), progress_bar() as tell:
            table = calibrate(
                model,
                arrays,
                str(origin),
                chosen,
                one_of("--method", method, METHODS),  # type: ignore[arg-type]
                tell,
            )
        check = held_out_check(model, arrays, origin, chosen)
        check.save(repository.built(name, CHECK_FILE))
    path = table.save(repository)
    console.print(
        f"wrote {relative(path)}: {len(table.steps)} steps from {table.images} images, "
        f"{table.method}",
        soft_wrap=True,
    )


@app.command("sensitivity", rich_help_panel=PANEL)
def report_sensitivity(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    weights: Checkpoint = None,
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path(
        "reports"
    ),
) -> None:
    """Which layers cost INT8 its accuracy, on the crops that calibration held out.

    Puts one layer at a time back to float, then the dearest until the model's tolerance
    holds, and says which int8_exclude that is.
    """
    from builders.quantisation.sensitivity import plot, sensitivity

    (model,) = models([name])
    repository = Repository()
    origin = building.choose_weights(model, repository, weights, stand_in=False)
    table = load_table(repository, model, str(origin))
    with stopping_on_sigterm(), progress_bar() as tell:
        check = building.int8_check(model, origin, repository, lambda _doing: None)
        arrays = building.load(model, origin).arrays
        if table.finetuned_sha256 is not None:
            arrays = finetuned_arrays(repository, model, table)
        found = sensitivity(model, arrays, table, check, tell)
    folder = output / name
    rows = [
        [layer, f"{error:.4g}", f"{found.everything - error:+.2g}"]
        for layer, error in found.without.items()
    ]
    text = markdown.table(["float layer", "error", "saves"], rows)
    verdict = (
        f"all in INT8: error {found.everything:.4g}; "
        + (f"with int8_exclude={found.exclude!r}: {found.error:.4g}; " * bool(rows))
        + ("within tolerance" if found.passed else "OUTSIDE tolerance")
    )
    write_text(folder / "sensitivity.md", f"# INT8 of {name}\n\n{verdict}\n\n{text}\n")
    write_text(folder / "sensitivity.json", json.dumps(asdict(found), indent=2) + "\n")
    with atomic_write(folder / "sensitivity.png") as partial:
        plot(found).savefig(partial, format="png", dpi=130)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(verdict, markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {relative(folder / 'sensitivity.md')}")


@app.command("finetune-int8", rich_help_panel=PANEL)
def finetune_model(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    images: Annotated[
        Path, typer.Option(help="Folder of crops; labels are not needed.")
    ],
    count: Count = None,
    weights: Checkpoint = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 300,
    batch: Annotated[int, typer.Option(min=1, help="Crops a step.")] = 16,
    learning_rate: Annotated[
        float, typer.Option(help="Of weights, relative to their size, by Adam.")
    ] = 3e-4,
) -> None:
    """Train weights and steps so that INT8 answers like FP32 (calibrate first).

    The float network teaches. Writes model_repository/MODEL/int8.safetensors, which
    only INT8 builds use, and int8.json. On a GPU if torch finds one.
    """
    from builders.quantisation.calibration import crops_of, held_out_check, images_in
    from builders.quantisation.finetuning import Training, finetune

    (model,) = models([name])
    repository = Repository()
    origin = building.choose_weights(model, repository, weights, stand_in=False)
    table = load_table(repository, model, str(origin))
    chosen = images_in(images, count)
    with stopping_on_sigterm(), progress_bar() as tell:
        arrays = building.load(model, origin).arrays
        held = held_out_check(model, arrays, origin, chosen)
        parts = list(crops_of(model, chosen.files))
        crops = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        how = Training(steps, batch, learning_rate)
        found = finetune(model, arrays, table, crops, held, how, tell)
    path = repository.folder(name) / FINETUNED_FILE
    with atomic_write(path) as partial:
        write_checkpoint(partial, path.suffix, found.arrays)
    finetuned = replace(found.table, finetuned_sha256=file_sha256(path))
    finetuned.save(repository)
    held.save(repository.built(name, CHECK_FILE))
    console.print(
        f"held-out loss {found.loss_before:.3g} before, {found.loss_after:.3g} after; "
        f"wrote {relative(path)}; build {name} --precision int8",
        soft_wrap=True,
    )


@app.command("report", rich_help_panel=PANEL)
def precision_report(
    name: Annotated[str, typer.Argument(metavar="MODEL")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="torch, cpu or tensorrt; may be repeated. Default: torch and cpu."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Only this one; may be repeated. Default: all."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="What to judge by where torch is not, see reference."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A data set, for accuracy (see evaluate).")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Crops, for INT8's error by number of calibration images."),
    ] = None,
    weights: Checkpoint = None,
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path(
        "reports"
    ),
) -> None:
    """Every precision side by side: time by batch, memory, size, parity, accuracy.

    INT8 takes part once it is calibrated. A later run, of other targets or by another
    Python, adds to the same report. What keeps its tolerance is noted as verified.
    """
    from builders.precision.measure import TARGETS, measure_precisions, sweep
    from builders.precision.report import write_report

    (model,) = models([name])
    targets = [one_of("--target", each, TARGETS) for each in target or ("torch", "cpu")]
    repository = Repository()
    origin = building.choose_weights(model, repository, weights, stand_in=False)
    folder = output / name
    check = None if reference is None else Check.load(reference)
    written = None
    with stopping_on_sigterm(), doing() as say:
        accuracy = None if data is None else accuracy_on(model, data, folder)
        for each in targets:
            for row in measure_precisions(
                model, origin, repository, each, say, precision, check, accuracy
            ):
                written = write_report(folder, model, [row])
        if images is not None:
            from builders.quantisation.calibration import images_in

            arrays = building.load(model, origin).arrays
            points = sweep(model, arrays, origin, images_in(images), say)
            written = write_report(folder, model, [], points)
    path, table = written or (folder, "")
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {relative(path)}", soft_wrap=True)


def accuracy_on(
    model: Model, data: Path, folder: Path
) -> Callable[[Repository, str], dict[str, float | None]]:
    """What runs a built model on a data set and gives its headline figures."""
    from builders.evaluation import layouts
    from builders.evaluation.evaluate import Options, evaluate_on

    layout = layouts.recognised(data)
    found = layouts.read(data, layout, None)

    def run(repository: Repository, backend: str) -> dict[str, float | None]:
        path = evaluate_on(
            backend,
            model,
            found,
            {"root": str(data), "layout": layout},
            repository,
            folder / "accuracy",
            Options(),
            address=None,
            progress=lambda _done: None,
        )
        record = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
        return dict(record["headline"])

    return run
