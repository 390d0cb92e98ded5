"""A training run: data, first weights, the loop, and the page of the result."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor

from builders.progress import Progress, no_progress
from builders.spec.model import Model
from builders.training.examples import Split, read_split
from builders.training.initial import load_first_weights
from builders.training.leaks import drop_leaks, find_leaks
from builders.training.loop import TrainingLoop
from builders.training.network import TappedOps, TrainedNetwork
from builders.training.overhaul import (
    create_connectors,
    find_stage_norms,
    margin_from_norm,
)
from builders.training.recipes import Recipe, TrainingError
from builders.training.report import (
    assess_task,
    describe_choice,
    describe_curves,
    describe_data,
    describe_first_weights,
    describe_next_steps,
)
from builders.training.run_folder import RunFolder
from builders.training.tasks import HEADS, IdentityTask, Task, create_task
from builders.weights import file_sha256, fit_checkpoint, read_checkpoint
from personserve.internal.files import write_text
from personserve.internal.machine import describe_machine
from personserve.internal.report import Report
from personserve.internal.sections import Section

LEAK_RULES = ("stop", "drop", "keep")
MAX_LEAK_LINES = 10


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a run that are not part of its recipe.

    Attributes:
        first_weights: Checkpoint to start from; None for random weights.
        teacher: Model and checkpoint of a teacher, for a recipe that distils.
        leaks: One of LEAK_RULES: what happens to training images that validate too.
        resume: Continue the run that the folder has.
        devices: Number of GPUs; 0 for one GPU, or the CPU without any.
        save_steps: Steps between saved states.
        max_steps: Steps after which the run ends; 0 for the recipe's length.
        layout: Layout of the data sets; None to detect it.
        partition: Random partition of PETA and RAP.
        report: Whether the result is judged and its page is written.
    """

    first_weights: Path | None = None
    teacher: tuple[Model, Path] | None = None
    leaks: str = "stop"
    resume: bool = False
    devices: int = 0
    save_steps: int = 500
    max_steps: int = 0
    layout: str | None = None
    partition: int = 0
    report: bool = True


@dataclass(frozen=True)
class TrainingResult:
    """Result of a run.

    Attributes:
        best: The best weights.
        page: The page of the run; None without a report.
        report: The same, for a terminal; None without a report.
        loop: The finished loop; its weights are the last ones.
    """

    best: Path
    page: Path | None
    report: Report | None
    loop: TrainingLoop


def train(
    recipe: Recipe,
    model: Model,
    data: Sequence[Path],
    folder: Path,
    options: TrainingOptions | None = None,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Train a model by a recipe.

    Args:
        recipe: The recipe.
        model: The model.
        data: Folder of the data set of each of the recipe's tasks.
        folder: Folder of the run.
        options: What the run does beside the recipe; None for the defaults.
        progress: Callback for the current work.

    Raises:
        TrainingError: Recipe, model, data or the saved state do not fit, both sides of
            the data have images in common, or the loss is not finite.
        BuildersError: A file cannot be read.
    """
    options = options or TrainingOptions()
    if len(data) != len(recipe.tasks):
        raise TrainingError(
            f"recipe {recipe.name} has {len(recipe.tasks)} tasks "
            f"({', '.join(t.output for t in recipe.tasks)}); expected the folder of a "
            f"data set for each, got {len(data)}"
        )
    splits = [
        _read_clean_split(recipe, number, model, path, folder, options, progress)
        for number, path in enumerate(data)
    ]
    return train_on(recipe, model, splits, folder, options, progress)


def _read_clean_split(
    recipe: Recipe,
    number: int,
    model: Model,
    path: Path,
    folder: Path,
    options: TrainingOptions,
    progress: Progress,
) -> Split:
    """Read the data set of a task and apply the rule for leaks."""
    task = recipe.tasks[number]
    split = read_split(
        task,
        model.images[0],
        path,
        folder / "crops" / str(number),
        layout=options.layout,
        partition=options.partition,
        seed=recipe.seed,
        progress=progress,
    )
    progress("looking for images on both sides")
    leaks = find_leaks(split)
    lines = leaks.describe(split)
    if not lines or options.leaks == "keep":
        return split
    if options.leaks == "drop":
        return drop_leaks(split, leaks)
    more = len(lines) - MAX_LEAK_LINES
    raise TrainingError(
        "training and validation part have people or images in common, so the result "
        "would look better than it is:\n  "
        + "\n  ".join(lines[:MAX_LEAK_LINES])
        + (f"\n  ... and {more} more" if more > 0 else "")
        + "\n--leaks drop leaves these out of training, --leaks keep accepts them; an "
        "image folder can name its people in groups.csv, column identity"
    )


def train_on(
    recipe: Recipe,
    model: Model,
    splits: Sequence[Split],
    folder: Path,
    options: TrainingOptions | None = None,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Train a model on examples that have been read already.

    Args:
        recipe: The recipe.
        model: The model.
        splits: Examples of each of the recipe's tasks.
        folder: Folder of the run.
        options: What the run does beside the recipe; None for the defaults.
        progress: Callback for the current work.

    Raises:
        TrainingError: See `train`.
    """
    options = options or TrainingOptions()
    seed_everything(recipe.seed, verbose=False)
    tasks = [
        create_task(how, split, model, recipe.seed + number)
        for number, (how, split) in enumerate(zip(recipe.tasks, splits, strict=True))
    ]
    arrays, sources = load_first_weights(model, options.first_weights, recipe.seed)
    fabric = _create_fabric(recipe, options, has_several=len(tasks) > 1)
    if options.teacher is not None:
        _set_teacher(tasks, *options.teacher, fabric.device)
    heads = {key: array for task in tasks for key, array in task.heads.items()}
    has_stages = any(task.margins for task in tasks)
    network = TrainedNetwork(
        model,
        arrays,
        heads,
        recipe.freezing.momentum,
        find_stage_norms(model) if has_stages else (),
    )
    facts = _describe_run(recipe, model, splits, options, fabric)
    digest = hashlib.sha256(json.dumps(facts["inputs"]).encode()).hexdigest()
    run_folder = RunFolder(folder, digest)
    loop = TrainingLoop(
        recipe,
        model,
        tasks,
        network,
        fabric,
        run_folder,
        facts,
        save_steps=options.save_steps,
        max_steps=options.max_steps,
        progress=progress,
    )
    if not options.resume:
        run_folder.load_state(resume=False)
        write_text(folder / "run.json", json.dumps(facts, indent=2) + "\n")
        write_text(folder / "recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")
    loop.run(resume=options.resume)
    if not options.report:
        return TrainingResult(run_folder.best_path, None, None, loop)
    progress("writing the report")
    report = _assemble_report(loop, facts, sources)
    page = report.write(folder)
    return TrainingResult(run_folder.best_path, page, report, loop)


def _create_fabric(
    recipe: Recipe, options: TrainingOptions, *, has_several: bool
) -> Fabric:
    has_gpu = torch.cuda.is_available()
    count = options.devices or 1
    # batches of one task do not use the other tasks' layers
    ddp = "ddp_find_unused_parameters_true" if has_several else "ddp"
    with warnings.catch_warnings():
        # advice about the machine's settings, which a user has not asked for
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator="cuda" if has_gpu else "cpu",
            devices=count,
            strategy=ddp if count > 1 else "auto",
            precision=recipe.precision if has_gpu else "32-true",  # type: ignore[arg-type]
        )
        fabric.launch()
    return fabric


def _set_teacher(
    tasks: Sequence[Task], model: Model, path: Path, device: torch.device
) -> None:
    """Give every identity task the logits of a teacher's checkpoint."""
    contents = read_checkpoint(path)
    fit = fit_checkpoint(model, contents)
    head = next((name for name in HEADS if name in contents.arrays), None)
    if fit.problems or head is None:
        raise TrainingError(
            f"{path.name} is not a teacher: expected a checkpoint of {model.name} with "
            f"the classifier {' or '.join(HEADS)} that it was trained with; "
            f"{fit.counts or 'no such classifier'}"
        )
    arrays = {**fit.arrays, head: contents.arrays[head]}
    tensors = {k: torch.tensor(v).float().to(device) for k, v in arrays.items()}
    for task in tasks:
        if not isinstance(task, IdentityTask):
            continue
        classes = len(task.heads[head]) if head in task.heads else 0
        if tensors[head].shape[0] != classes:
            raise TrainingError(
                f"{path.name} was trained on {tensors[head].shape[0]} identities, and "
                f"the data set has {classes}; a teacher needs the same ones"
            )

        norms = _connect_stages(task, model, tensors) if task.how.overhaul else ()

        def run(
            inputs: Mapping[str, Tensor],
            task: IdentityTask = task,
            norms: Sequence[str] = norms,
        ) -> tuple[Tensor, list[Tensor]]:
            with torch.no_grad():
                answers = TappedOps(tensors, inputs, norms).collect_answers(model)
                features = answers.features[model.outputs[0].name]
                return task.plain_logits(features, tensors[head]), answers.stages

        task.teacher = run


def _connect_stages(
    task: IdentityTask, teacher: Model, tensors: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Give a task connectors and margins; return the teacher's last norms."""
    ours, theirs = find_stage_norms(task.model), find_stage_norms(teacher)
    layout = task.model.summary.layout
    channels = [layout[f"{name}.weight"].shape[0] for name in ours]
    task.heads |= create_connectors(
        channels, [len(tensors[f"{name}.weight"]) for name in theirs], task.seed
    )
    task.margins = [
        margin_from_norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        for name in theirs
    ]
    return theirs


def _describe_run(
    recipe: Recipe,
    model: Model,
    splits: Sequence[Split],
    options: TrainingOptions,
    fabric: Fabric,
) -> dict[str, Any]:
    """Return everything that is needed to repeat a run, as JSON values."""
    first = options.first_weights
    return {
        "recipe": recipe.name,
        "recipe_sha256": recipe.sha256,
        "model": model.name,
        "variant": model.variant,
        "inputs": {
            "recipe": asdict(recipe),
            "model": [model.name, model.variant],
            "data": [_digest_split(split) for split in splits],
            "first_weights": file_sha256(first) if first else f"seed {recipe.seed}",
            "teacher": file_sha256(options.teacher[1]) if options.teacher else None,
            "devices": fabric.world_size,
            "max_steps": options.max_steps,
        },
        "data": [
            {
                "root": str(split.train.root),
                "how": split.how,
                "train": len(split.train),
                "validation": len(split.validation),
            }
            for split in splits
        ],
        "first_weights": str(first) if first else "random",
        "device": str(fabric.device),
        "precision": recipe.precision if fabric.device.type == "cuda" else "32-true",
        "torch": torch.__version__,
        "lightning_fabric": version("lightning-fabric"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
    }


def _digest_split(split: Split) -> str:
    """Return a digest of names, labels and identities of both parts."""
    digest = hashlib.sha256()
    for part in (split.train, split.validation):
        digest.update("\n".join(part.files).encode())
        for array in (part.labels, part.identities, part.pairs, part.related):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _assemble_report(
    loop: TrainingLoop, facts: Mapping[str, Any], sources: Mapping[str, str]
) -> Report:
    """Judge the best weights and return the page of the run."""
    best = loop.folder.best_path
    loop.load_best()
    headline: dict[str, str] = {}
    sections: list[Section] = [
        describe_next_steps(
            loop.model.name, best, [t.split.train.root for t in loop.tasks]
        ),
        describe_choice(),
        describe_first_weights(sources),
    ]
    confidences: list[Any] = []
    for task in loop.tasks:
        assessment, more = assess_task(task, loop)
        prefix = f"{task.how.output}: " if len(loop.tasks) > 1 else ""
        for name, value in assessment.headline.items():
            headline[prefix + name] = "-" if value is None else f"{value:.4f}"
        confidences.append(dict(assessment.numbers))
        sections += [*describe_data(task), *more, *assessment.sections]
    sections += describe_curves(loop.folder)
    counters = loop.counters
    record = {
        **facts,
        "counters": asdict(counters),
        "images_per_s": loop.images_per_s,
        "numbers": confidences,
    }
    return Report(
        f"{loop.model.name} trained by {loop.recipe.name}",
        {
            "recipe": f"{loop.recipe.summary} ({loop.recipe.source})",
            "recipe's SHA-256": loop.recipe.sha256,
            "first weights": facts["first_weights"],
            "epochs": f"{counters.epoch}, the best is {counters.best_epoch}",
            "steps": f"{counters.step:,}",
            "speed": f"{loop.images_per_s:.0f} images/s",
            "device": f"{facts['device']}, {facts['precision']}",
            "torch": facts["torch"],
            "date": facts["date"],
            **facts["machine"],
        },
        record,
        sections,
        headline,
        mark=f"{loop.model.name}, {loop.recipe.name}, {best.name}",
    )
