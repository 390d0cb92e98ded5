"""The page of a run: data, curves, accuracy, confidence, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builders.evaluation import classification, gender, kinship, retrieval
from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import (
    IDENTITY_COLUMN,
    UNKNOWN,
    ImagePairs,
    LabelledImages,
    RetrievalImages,
)
from builders.training.confidence import (
    Confidence,
    draw_reliability,
    measure_confidence,
    sigmoid,
)
from builders.training.examples import (
    Examples,
    IntArray,
    Split,
)
from builders.training.leaks import count_classes
from builders.training.loop import STEPS_TABLE, VALIDATION_TABLE, TrainingLoop
from builders.training.run_folder import RunFolder
from builders.training.tasks import Task
from personserve.internal.figures import new_figure, place_legend
from personserve.internal.sections import Listing, Paragraph, Plot, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOSEN_ON_THE_SAME = (
    "Temperature, threshold and band are fitted on the validation part, and so are the "
    "errors beside them. Other people will meet slightly worse figures."
)
VALIDATION_CHOSE = (
    "All accuracy on this page is that of the validation part, which has also chosen "
    "the best epoch. For a figure to quote, evaluate on a part that took no part in "
    "training."
)

MAX_GROUPS = 4
"""Columns whose groups are compared without being asked for."""
MAX_VALUES = 12
"""Values of a column that is a group; more would be names."""


def describe_data(task: Task) -> list[Section]:
    """Return sizes, class balance and original sizes of a task's data.

    Args:
        task: The task.
    """
    split = task.split
    rows = [_describe_part(part) for part in (split.train, split.validation)]
    return [
        Table(
            f"Data of {task.how.output}",
            ["part", "images", "identities", "cameras", "classes", "unreadable"],
            rows,
            split.how,
        ),
        Plot(
            f"Balance of {task.how.output}",
            _draw_balance(split),
            f"balance-{task.how.output}",
        ),
    ]


def _describe_part(part: Examples) -> list[str]:
    people = np.unique(part.identities[part.identities != UNKNOWN])
    classes = ", ".join(f"{k} {v}" for k, v in count_classes(part).items() if v)
    return [
        part.name,
        str(len(part)),
        str(len(people)) if len(people) else "-",
        str(len(np.unique(part.cameras))),
        classes if part.names and len(part.names) < MAX_VALUES else "-",
        str(len(part.unreadable)),
    ]


def _draw_balance(split: Split) -> Figure:
    figure = new_figure()
    axes = figure.subplots()
    for part in (split.train, split.validation):
        if part.names:
            counts = np.bincount(
                part.labels[part.labels != UNKNOWN], minlength=len(part.names)
            )
            what = "class"
        else:
            counts = np.unique(part.identities, return_counts=True)[1]
            what = "identity"
        order = np.sort(counts)[::-1]
        axes.step(range(len(order)), order, where="mid", marker=".", label=part.name)
    axes.set(xlabel=f"{what}, the largest first", ylabel="images", ylim=(0, None))
    place_legend(figure, [axes])
    return figure


def describe_curves(folder: RunFolder) -> list[Section]:
    """Return plots of losses, learning rate and validation scores.

    Args:
        folder: The run.
    """
    steps = folder.read_table(STEPS_TABLE)
    epochs = folder.read_table(VALIDATION_TABLE)
    if not steps or not epochs:
        return []
    figure = new_figure(6.5, 6.0)
    loss_axes, score_axes, rate_axes = figure.subplots(3, sharex=True)
    for task in sorted({row["task"] for row in steps}):
        rows = [row for row in steps if row["task"] == task]
        loss_axes.plot(
            [int(r["step"]) for r in rows],
            [float(r["loss"]) for r in rows],
            linewidth=0.8,
            label=f"loss {task}",
        )
    for column in epochs[0]:
        if column not in {"epoch", "step"} and "queries" not in column:
            axes = loss_axes if column.endswith("loss") else score_axes
            axes.plot(
                [int(row["step"]) for row in epochs],
                [float(row[column]) for row in epochs],
                marker=".",
                label=f"validation {column}",
            )
    rate_axes.plot([int(r["step"]) for r in steps], [float(r["rate"]) for r in steps])
    loss_axes.set(ylabel="loss")
    score_axes.set(ylabel="score", ylim=(0, 1.02))
    rate_axes.set(xlabel="step", ylabel="learning rate", yscale="log")
    place_legend(figure, [loss_axes, score_axes])
    return [Plot("Loss, scores and learning rate", figure, "curves")]


def assess_task(task: Task, loop: TrainingLoop) -> tuple[Assessment, list[Section]]:
    """Return a task's accuracy on the validation part, by its field's protocol.

    Args:
        task: The task.
        loop: The run, with the weights to judge.

    Returns:
        The assessment, and further sections: the confidence of a probability.
    """
    part, output = task.split.validation, task.how.output
    declared = next(o for o in task.model.outputs if o.name == output)
    rows = [np.arange(len(part))]
    if task.how.kind == "kinship":
        rows = [part.pairs[:, 0], part.pairs[:, 1]]
    answers = loop.predict(part, rows)
    values = answers.outputs[output].numpy()
    readable = np.ones(len(values), np.bool_)
    if task.how.kind == "identity":
        dataset, order = _as_retrieval(part)
        readable = np.ones(len(order), np.bool_)
        return retrieval.assess(dataset, values[order], readable, rerank=False), []
    images = LabelledImages(part.root, part.files, part.names, part.labels, part.groups)
    if task.how.kind == "classes":
        return classification.assess(images, values, readable), []
    labels = part.related if task.how.kind == "kinship" else part.labels
    known = labels != UNKNOWN
    logits = answers.logits[output].numpy()[known]
    confidence = measure_confidence(logits, labels[known])
    sections = _describe_confidence(output, confidence, logits, labels[known])
    if task.how.kind == "kinship":
        items: list[tuple[str, ...]] = [
            tuple(part.files[row] for row in pair) for pair in part.pairs
        ]
        pairs = ImagePairs(part.root, items, part.related)
        return kinship.assess(pairs, declared, values[:, 0], readable), sections
    assessment = gender.assess(
        images,
        declared,
        values[:, 0],
        readable,
        abstain=confidence.abstain or 0.0,
        group_by=_choose_groups(part),
    )
    return assessment, sections


def _choose_groups(part: Examples) -> list[str]:
    """Return columns with few values, at most MAX_GROUPS."""
    names = [
        name
        for name, values in part.groups.items()
        if name != IDENTITY_COLUMN and 1 < len(set(values) - {""}) <= MAX_VALUES
    ]
    return names[:MAX_GROUPS]


def _as_retrieval(part: Examples) -> tuple[RetrievalImages, IntArray]:
    """Return queries and gallery, and the row of each of their images.

    Queries are the first image of each person and camera; the gallery is all. That is
    how Market-1501's queries were chosen. A set of one camera counts every image as a
    camera of its own.
    """
    cameras = part.cameras
    if len(np.unique(cameras)) == 1:
        cameras = np.arange(len(part))
    both = np.stack((part.identities, cameras), axis=1)
    first = np.sort(np.unique(both, axis=0, return_index=True)[1])
    order = np.concatenate((first, np.arange(len(part))))
    files = tuple(part.files[row] for row in order)
    people = part.identities[order]
    return RetrievalImages(part.root, files, people, cameras[order], len(first)), order


def _describe_confidence(
    output: str, confidence: Confidence, logits: Any, labels: Any
) -> list[Section]:
    band = confidence.abstain
    rows = [
        ["temperature", f"{confidence.temperature:.3f}"],
        ["threshold with the best macro F1", f"{confidence.threshold:.2f}"],
        [
            "band without an answer for 95 % right",
            "none achieves it" if band is None else f"± {band:.2f}",
        ],
        ["share with an answer then", f"{confidence.coverage:.1%}"],
        ["calibration error as served", f"{confidence.error_before:.4f}"],
        ["calibration error with the temperature", f"{confidence.error_after:.4f}"],
    ]
    series = [
        ("as served", sigmoid(logits)),
        ("with the temperature", sigmoid(logits / confidence.temperature)),
    ]
    return [
        Table(f"Confidence of {output}", ["", "value"], rows, CHOSEN_ON_THE_SAME),
        Plot(
            f"Reliability of {output}",
            draw_reliability(series, labels),
            f"reliability-{output}",
        ),
    ]


def describe_next_steps(model: str, best: Path, data: Sequence[Path]) -> Listing:
    """Return the commands that build, verify, evaluate and serve the result.

    Args:
        model: Name of the model.
        best: The best weights.
        data: Data sets of the run.
    """
    lines = [
        f"python -m builders build {model} --weights {best}",
        f"python -m builders verify {model}",
        *(f"python -m builders evaluate {model} {each}" for each in data),
        f"python -m builders serve --model {model}",
    ]
    return Listing("Next", "\n".join(lines), "sh")


def describe_first_weights(sources: Mapping[str, str]) -> Paragraph:
    """Return which parts of the network started from a file.

    Args:
        sources: "file" or "random" by part.
    """
    by_source: dict[str, list[str]] = {}
    for part, source in sources.items():
        by_source.setdefault(source, []).append(part)
    text = "; ".join(f"{k}: {', '.join(v)}" for k, v in by_source.items())
    return Paragraph("First weights", text)


def describe_choice() -> Paragraph:
    """Return the limits of the accuracy on the page, as sentences."""
    return Paragraph("What is shown", VALIDATION_CHOSE)
