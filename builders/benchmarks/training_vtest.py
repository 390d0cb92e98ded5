"""Training on real pedestrians: what trained weights show and stand-ins cannot.

    python -m builders.benchmarks.vtest_tracks VIDEO people.npz   # any machine
    python -m builders.benchmarks.training_vtest people.npz OUT   # a machine with a GPU

The identities are tracks (vtest_tracks.py). Tracks of the first 70 % of the video are
for training, a part of them for choosing the best epoch; the later tracks, of other
people, are the test: each image of a track's first third is searched among the last
thirds of all test tracks, and the reverse. Rank-1 and mAP of the trained network are
compared with those of stand-in weights, of the first (random) weights, and of a colour
histogram; then FP16, and INT8 by calibration and by fine-tuning, of the trained
weights. Last come the speeds of training steps (training_speed.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor

from builders.benchmarks.training_speed import Speed, measure_speeds
from builders.benchmarks.vtest_tracks import load_crops
from builders.ops.placement import placement_from_model
from builders.progress import no_progress
from builders.quantisation.calibration import calibrate, compute_held_out_reference
from builders.quantisation.finetuning import Training, finetune
from builders.quantisation.images import CalibrationImages
from builders.quantisation.simulation import Int8TorchOps
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.training.examples import Examples, Split, hold_out
from builders.training.initial import random_weights
from builders.training.network import run_inference
from builders.training.recipes import Length, read_recipe
from builders.training.scores import retrieval_scores
from builders.training.training import TrainingOptions, train_on
from builders.weights import StandIn, read_checkpoint, stand_in_weights
from personserve.images.crops import CropShape, resize_image
from personserve.internal.machine import describe_machine
from personserve.internal.report import Report
from personserve.internal.sections import Section, Table

RECIPE = "reid_scratch"
VALIDATION_SHARE = 0.15
PASSES = 10
"""Passes over the few hundred crops between two validations."""

THIRDS = 3
HISTOGRAM_BINS = (8, 8, 4)
STRIPES = 4
BATCH = 64
CALIBRATION_IMAGES, HELD_OUT_IMAGES = 64, 32

Arrays = Mapping[str, npt.NDArray[Any]]
Scores = dict[str, float]

app = typer.Typer(add_completion=False)


@app.command()
def run(
    people: Annotated[Path, typer.Argument(help="The file of vtest_tracks.")],
    output: Annotated[Path, typer.Argument(help="Folder for runs and the report.")],
    name: Annotated[
        str, typer.Option("--model", help="Model to train.")
    ] = "person_reid_kd_r18",
    steps: Annotated[int, typer.Option(help="Training steps of each run.")] = 1500,
    seeds: Annotated[int, typer.Option(help="Number of runs.")] = 3,
    finetune_steps: Annotated[
        int, typer.Option(help="Steps of INT8 fine-tuning; 0 leaves INT8 out.")
    ] = 300,
    speed_steps: Annotated[
        int, typer.Option(help="Timed steps of each speed; 0 leaves speeds out.")
    ] = 60,
    speed_batch: Annotated[int, typer.Option(help="Images in a timed step.")] = 128,
) -> None:
    """Train ReID on tracks of people and compare it on later tracks."""
    (model,) = models([name])
    train, test, counts = read_people(people, model)
    typer.echo(f"training: {_count(train)}; test: {_count(test)}")
    # the test's figures count from third to third of a track only
    rows = np.flatnonzero(test.cameras != 1)
    test = test.select(rows)
    table: list[tuple[str, Scores]] = [
        ("colour histogram", _score(histograms(test), test)),
        (
            "stand-in weights",
            _score_arrays(model, stand_in_weights(model).arrays, test),
        ),
        ("random first weights", _score_arrays(model, random_weights(model, 0), test)),
    ]
    trained: Arrays = {}
    for seed in range(seeds):
        trained = _train(model, train, output / f"seed-{seed}", steps, seed)
        scores = _score_arrays(model, trained, test)
        table.append((f"trained, {steps} steps, seed {seed}", scores))
        typer.echo(f"{table[-1]}")
    table += [(how, _score(x, test)) for how, x in _embed_reduced(model, trained, test)]
    if finetune_steps:
        folder = output / "calibration"
        table += _measure_int8(model, trained, train, test, folder, finetune_steps)
    report = _assemble(model, train, test, table, [], counts)
    report.write(output)  # the speeds take long, and may fail
    typer.echo(report.to_markdown())
    if speed_steps:
        speeds = measure_speeds(speed_steps, speed_batch)
        report = _assemble(model, train, test, table, speeds, counts)
        report.write(output)
        typer.echo(report.to_markdown())
    typer.echo(f"wrote {output}/report.html")


def read_people(path: Path, model: Model) -> tuple[Examples, Examples, dict[str, int]]:
    """Return the examples of both sides of the split in time, and dropped counts.

    A crop's camera is the third of its track's crops that it is in.

    Args:
        path: The file of vtest_tracks.
        model: The model, for the size of the crops.
    """
    shape = model.images[0].crop_shape
    kept, split, counts = load_crops(path)
    tracks = np.array([sighting.track for sighting in kept], np.int64)
    frames = np.array([sighting.frame for sighting in kept], np.int64)
    crops = np.stack([_decode(sighting.jpeg, shape) for sighting in kept])
    thirds = np.zeros(len(tracks), np.int64)
    for track in np.unique(tracks):
        rows = np.flatnonzero(tracks == track)
        order = rows[np.argsort(frames[rows], kind="stable")]
        thirds[order] = np.arange(len(order)) * THIRDS // len(order)
    every = Examples(
        path.stem,
        Path(),
        tuple(f"track{t}-frame{f}" for t, f in zip(tracks, frames, strict=True)),
        crops,
        labels=np.full(len(tracks), -1, np.int64),
        identities=tracks,
        cameras=thirds,
    )
    is_train = frames < split
    parts = [every.select(np.flatnonzero(mask)) for mask in (is_train, ~is_train)]
    first, second = replace(parts[0], name="training"), replace(parts[1], name="test")
    return first, second, counts


def _decode(jpeg: bytes, shape: CropShape) -> npt.NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(resize_image(np.asarray(pixels, np.uint8), shape)[..., ::-1])


def _count(part: Examples) -> str:
    return f"{len(np.unique(part.identities))} tracks, {len(part)} crops"


def histograms(part: Examples) -> Tensor:
    """Return colour histograms of horizontal stripes, FP32 [N, stripes * bins].

    The roots of the counts (Hellinger's distance) of hue, saturation and value.

    Args:
        part: The examples.
    """
    rows = []
    for crop in part.crops:
        hsv = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2HSV)
        stripes = np.array_split(hsv, STRIPES)
        counts = [
            cv2.calcHist(
                [s], [0, 1, 2], None, list(HISTOGRAM_BINS), [0, 180, 0, 256, 0, 256]
            )
            for s in stripes
        ]
        rows.append(np.sqrt(np.concatenate([c.ravel() / c.sum() for c in counts])))
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _score(embeddings: Tensor, test: Examples) -> Scores:
    return retrieval_scores(embeddings, test.identities, test.cameras)


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(np.array(array)).to(_device())
        for key, array in arrays.items()
    }


def _embed(model: Model, arrays: Arrays, test: Examples) -> Tensor:
    """Return embeddings in the precision of the enclosing autocast."""
    tensors, image = _tensors(arrays), model.images[0].name
    parts = []
    for start in range(0, len(test), BATCH):
        crops = torch.from_numpy(np.array(test.crops[start : start + BATCH]))
        answers = run_inference(model, tensors, {image: crops.to(_device())})
        parts.append(answers.outputs["embedding"])
    return torch.cat(parts)


def _score_arrays(model: Model, arrays: Arrays, test: Examples) -> Scores:
    return _score(_embed(model, arrays, test), test)


def _train(
    model: Model, train: Examples, folder: Path, steps: int, seed: int
) -> Arrays:
    recipe = replace(
        read_recipe(RECIPE),
        seed=seed,
        length=Length(max_epochs=1_000_000, passes=PASSES),
    )
    task = replace(recipe.tasks[0], validation_share=VALIDATION_SHARE)
    split: Split = hold_out(train, task.validation_share, seed)
    options = TrainingOptions(max_steps=steps, report=False)
    result = train_on(
        replace(recipe, tasks=(task,)), model, [split], folder, options, no_progress
    )
    return read_checkpoint(result.best).arrays


def _embed_reduced(
    model: Model, arrays: Arrays, test: Examples
) -> list[tuple[str, Tensor]]:
    """Return embeddings of the same weights in reduced precisions."""
    results = []
    kinds = {"FP16": torch.float16, "BF16": torch.bfloat16}
    if not torch.cuda.is_available():
        kinds.pop("FP16")
    for name, kind in kinds.items():
        with torch.autocast(_device().type, kind):
            results.append(
                (f"the last of these in {name}", _embed(model, arrays, test))
            )
    return results


def _measure_int8(
    model: Model,
    arrays: Arrays,
    train: Examples,
    test: Examples,
    folder: Path,
    steps: int,
) -> list[tuple[str, Scores]]:
    """Return the scores in INT8: calibrated, and fine-tuned on training crops."""
    images = _write_images(train, folder)
    wanted = {k: np.asarray(arrays[k]) for k in random_weights(model, 0)}
    table = calibrate(model, wanted, str(StandIn()), images, "percentile", no_progress)
    reference = compute_held_out_reference(model, wanted, StandIn(), images)
    crops = {model.images[0].name: np.array(train.crops)}
    result = finetune(
        model, wanted, table, crops, reference, Training(steps, 32), no_progress
    )
    rows = []
    for how, values, scales in (
        ("the last of these in INT8, calibrated", wanted, table.scales),
        (f"INT8, fine-tuned {steps} steps", result.arrays, result.table.scales),
    ):
        embeddings = _embed_int8(model, values, scales, test)
        rows.append((how, _score(embeddings, test)))
    return rows


def _write_images(train: Examples, folder: Path) -> CalibrationImages:
    folder.mkdir(parents=True, exist_ok=True)
    count = min(len(train), CALIBRATION_IMAGES + HELD_OUT_IMAGES)
    paths = []
    for row in np.linspace(0, len(train) - 1, count).astype(int):
        path = folder / f"{row:05}.png"
        cv2.imwrite(str(path), np.ascontiguousarray(train.crops[row][..., ::-1]))
        paths.append(path)
    held_out = tuple(paths[::3])
    files = tuple(path for path in paths if path not in held_out)
    return CalibrationImages(folder, files, held_out)


def _embed_int8(
    model: Model, arrays: Arrays, scales: Mapping[str, float], test: Examples
) -> Tensor:
    placement = placement_from_model(model, model.int8_exclude)
    tensors, image = _tensors(arrays), model.images[0].name
    steps = {k: torch.tensor(v, device=_device()) for k, v in scales.items()}
    parts = []
    for start in range(0, len(test), BATCH):
        crops = torch.from_numpy(np.array(test.crops[start : start + BATCH]))
        inputs = {image: crops.to(_device())}
        ops = Int8TorchOps(tensors, inputs, placement, steps, requantised=False)
        with torch.no_grad():
            parts.append(model.wire(ops)["embedding"])
    return torch.cat(parts)


def _assemble(
    model: Model,
    train: Examples,
    test: Examples,
    table: list[tuple[str, Scores]],
    speeds: list[Speed],
    counts: Mapping[str, int],
) -> Report:
    rows = [
        [how, f"{s['rank-1']:.1%}", f"{s['mAP']:.1%}", f"{s['queries']:.0f}"]
        for how, s in table
    ]
    sections: list[Section] = [
        Table("Held-out tracks", ["embedding", "rank-1", "mAP", "queries"], rows),
        Table(
            "Training steps",
            ["model", "how", "precision", "batch", "images/s", "share of the peak"],
            [
                [
                    *(s.model, s.how, s.precision, str(s.batch)),
                    *(f"{s.images_per_s:,.0f}", f"{s.peak_share:.1%}"),
                ]
                for s in speeds
            ],
            "The peak is a BF16 matrix product of 8192 rows, measured in this run.",
        ),
    ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    facts = {
        "training": _count(train),
        "test": _count(test),
        **{key: str(value) for key, value in sorted(counts.items())},
        "GPU": gpu,
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
        **describe_machine(),
    }
    record = {
        **facts,
        "scores": dict(table),
        "speeds": [asdict(speed) for speed in speeds],
    }
    return Report(f"{model.name} trained on tracks of a video", facts, record, sections)


if __name__ == "__main__":
    app()
