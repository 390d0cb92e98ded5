"""One evaluation: a model on a data set through a runner, by the field's protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builders.evaluation import classification, gender, kinship, retrieval
from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import (
    Dataset,
    EvaluationError,
    ImagePairs,
    LabelledImages,
    RetrievalImages,
)
from builders.evaluation.predictions import Predictions, predict
from builders.evaluation.report import Run, RunReport, write_report
from builders.evaluation.runners import open_runner
from builders.progress import Progress, no_progress
from builders.repository.layout import Repository
from builders.spec.model import Network, OnnxModel
from builders.tensors import Output

MAX_NAMED = 3
"""Classes of a data set that a message names; ImageNet has a thousand."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How predictions are made and assessed.

    Attributes:
        flip: Average the outputs of each image and its mirror image.
        rerank: Retrieval: sort by k-reciprocal re-ranking.
        abstain: Gender: half-width of the band around the threshold in which an image
            gets no answer.
        group_by: Gender: columns of the data set to break the error rate down by.
        batch: Items per call of the runner, at most.
    """

    flip: bool = False
    rerank: bool = False
    abstain: float = 0.1
    group_by: tuple[str, ...] = ()
    batch: int = 16


def evaluate_model(
    model: Network,
    dataset: Dataset,
    runner_name: str,
    repository: Repository,
    folder: Path,
    options: EvaluationOptions | None = None,
    *,
    server_url: str | None = None,
    progress: Progress = no_progress,
) -> RunReport:
    """Run a model on a data set, assess its outputs and write the report.

    Args:
        model: The model.
        dataset: The data set; its kind decides the protocol.
        runner_name: One of runners.RUNNERS.
        repository: Repository with the model's weights and artefacts.
        folder: Folder below which the run gets a folder of its own, named like the
            runner.
        options: How predictions are made and assessed; None for the defaults.
        server_url: Server of the runner "server"; None starts one.
        progress: Callback, called after every batch.

    Returns:
        The written report.

    Raises:
        EvaluationError: If model and data set do not go together, or the data set
            cannot be evaluated.
        BuildersError: If the runner cannot be opened.
        PersonServeError: If the server does not answer.
    """
    options = options or EvaluationOptions()
    output = choose_output(model, dataset)
    with open_runner(runner_name, model, repository, server_url) as runner:
        run_folder = folder / (runner.label + ("-flip" if options.flip else ""))
        predictions = predict(
            model,
            dataset,
            runner,
            run_folder,
            flip=options.flip,
            batch=options.batch,
            progress=progress,
        )
    assessment = _assess(dataset, output, predictions, options)
    if options.rerank:
        run_folder /= "reranked"
    run = Run(model, runner, dataset, options.flip)
    return write_report(run_folder, run, predictions, assessment)


def choose_output(model: Network, dataset: Dataset) -> Output:
    """Return the output of a model that a data set has labels for.

    Args:
        model: The model.
        dataset: The data set.

    Raises:
        EvaluationError: If there is none, or the model takes another number of images.
    """
    if isinstance(model, OnnxModel):
        _require_crops(model)
    if isinstance(dataset, RetrievalImages):
        expected = "an embedding"
        outputs = _find_embeddings(model)
    elif isinstance(dataset, LabelledImages):
        names = ", ".join(dataset.names[:MAX_NAMED])
        expected = f"one of these classes ({names})"
        outputs = [o for o in model.outputs if o.labels == dataset.names]
        outputs = outputs or [o for o in model.outputs if o.name == "logits"]
    else:
        expected = "P(related)"
        outputs = [o for o in model.outputs if o.labels]
    images = 2 if isinstance(dataset, ImagePairs) else 1
    if not outputs or len(model.images) != images:
        raise EvaluationError(
            f"{model.name} computes {', '.join(o.name for o in model.outputs)} from "
            f"{_count_images(len(model.images))}; this data set needs a model that "
            f"computes {expected} from {_count_images(images)}"
        )
    return outputs[0]


def _find_embeddings(model: Network) -> list[Output]:
    """Return the output "embedding" or, of an imported file, its only vector."""
    vectors = [output for output in model.outputs if output.size > 1]
    embeddings = [output for output in vectors if output.name == "embedding"]
    if not embeddings and isinstance(model, OnnxModel) and len(vectors) == 1:
        return vectors
    return embeddings


def _require_crops(model: OnnxModel) -> None:
    if not model.takes_crops_only:
        takes = ", ".join(f"{t.name} {t.data_type} {[*t.shape]}" for t in model.inputs)
        raise EvaluationError(
            f"{model.name} is an imported ONNX file that takes {takes}. Evaluation "
            "sends RGB crops, UINT8 [height, width, 3]; export the file with its "
            "normalisation and transposition inside, and import that"
        )


def _count_images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _assess(
    dataset: Dataset,
    output: Output,
    predictions: Predictions,
    options: EvaluationOptions,
) -> Assessment:
    values, readable = predictions.outputs[output.name], predictions.readable
    if isinstance(dataset, RetrievalImages):
        return retrieval.assess(dataset, values, readable, rerank=options.rerank)
    if isinstance(dataset, ImagePairs):
        return kinship.assess(dataset, output, values[:, 0], readable)
    if output.labels is None:
        return classification.assess(dataset, values, readable)
    return gender.assess(
        dataset,
        output,
        values[:, 0],
        readable,
        abstain=options.abstain,
        group_by=options.group_by,
    )
