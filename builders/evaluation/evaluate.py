"""One run: a model on a data set through a backend, assessed as its field does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.evaluation import classification, gender, kinship, retrieval
from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import Dataset, EvaluationError, Labelled, Retrieval
from builders.evaluation.predictions import Predictions, backend, predict
from builders.evaluation.report import Run, write_report
from builders.repository import Repository
from builders.spec import Model, Output


@dataclass(frozen=True)
class Options:
    """How answers are made and judged; `batch` is pictures a call."""

    flip: bool = False
    rerank: bool = False
    abstain: float = 0.1
    group_by: tuple[str, ...] = ()
    batch: int = 16


def evaluate_on(
    name: str,
    model: Model,
    data: Dataset,
    about: Mapping[str, Any],
    repository: Repository,
    folder: Path,
    options: Options,
    *,
    address: str | None,
    progress: Callable[[int], None],
) -> Path:
    """Run backend `name`, assess, and write the report below `folder`; its path.

    Raises EvaluationError where model and data do not go together.
    """
    output = judged_output(model, data)
    with backend(name, model, repository, address) as ran:
        place = folder / (ran.label + ("-flip" if options.flip else ""))
        found = predict(
            model,
            data,
            ran,
            place,
            flip=options.flip,
            batch=options.batch,
            progress=progress,
        )
    assessment = _assess(data, output, found, options)
    if options.rerank:
        place /= "reranked"
    return write_report(place, Run(model, ran, about, options.flip), found, assessment)


def judged_output(model: Model, data: Dataset) -> Output:
    """The output of `model` that `data` has the truth for. Raises EvaluationError."""
    images = 1 if isinstance(data, Labelled | Retrieval) else 2
    if isinstance(data, Retrieval):
        wanted, fits = "an embedding", [o for o in model.outputs if o.size > 1]
        fits = [o for o in fits if o.name == "embedding"]
    elif isinstance(data, Labelled):
        wanted = "one of these classes"
        fits = [o for o in model.outputs if o.labels == data.names]
        fits = fits or [o for o in model.outputs if o.name == "logits"]
    else:
        wanted, fits = "P(related)", [o for o in model.outputs if o.labels]
    if not fits or len(model.images) != images:
        raise EvaluationError(
            f"{model.name} takes {len(model.images)} pictures to "
            f"{', '.join(o.name for o in model.outputs)}; these data need a model of "
            f"{images} to {wanted}"
        )
    return fits[0]


def _assess(
    data: Dataset, output: Output, found: Predictions, options: Options
) -> Assessment:
    values = found.outputs[output.name]
    if isinstance(data, Retrieval):
        return retrieval.assess(data, values, found.readable, rerank=options.rerank)
    if not isinstance(data, Labelled):
        return kinship.assess(data, output, values[:, 0], found.readable)
    if output.labels is None:
        return classification.assess(data, values, found.readable)
    return gender.assess(
        data,
        output,
        values[:, 0],
        found.readable,
        abstain=options.abstain,
        group_by=options.group_by,
    )
