"""Accuracy of a built file on a data set, for the precision report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from builders.evaluation import layouts
from builders.evaluation.evaluation import evaluate_model
from builders.repository.layout import Repository
from builders.spec.model import Network

Accuracy = Mapping[str, float | None]
"""Headline figures by name; None where the data set does not define one."""

MeasureAccuracy = Callable[[Repository, str], Accuracy]
"""Measures the built file of a repository through a runner of `evaluate`."""


def measure_accuracy(
    model: Network, data: Path, folder: Path, repository: Repository, runner: str
) -> Accuracy:
    """Evaluate the built file of a model on a data set.

    Args:
        model: The declaration.
        data: Folder of the data set; its layout is detected.
        folder: Folder for the evaluation's own report and answers.
        repository: The repository with the built file.
        runner: "onnx" or "plan".

    Returns:
        The headline figures of the evaluation.

    Raises:
        EvaluationError: If the layout is unknown, or model and data do not match.
    """
    dataset = layouts.read_dataset(data, layouts.detect_layout(data))
    report = evaluate_model(model, dataset, runner, repository, folder)
    return dict(report.headline)
