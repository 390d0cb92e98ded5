"""Tasks: losses on the batches of one data set, and scores of its validation part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from builders.evaluation.datasets import UNKNOWN
from builders.spec.model import Model
from builders.training.examples import Examples, IntArray, Split
from builders.training.losses import (
    binary_loss,
    circle_logits,
    class_loss,
    divergence_loss,
    triplet_loss,
)
from builders.training.network import Answers
from builders.training.overhaul import overhaul_loss
from builders.training.recipes import TaskRecipe, TrainingError
from builders.training.sampling import (
    IdentitySampler,
    PairSampler,
    Sampler,
    ShuffledSampler,
)
from builders.training.scores import binary_scores, class_scores, retrieval_scores

Arrays = dict[str, npt.NDArray[Any]]
Predict = Callable[[Examples, Sequence[IntArray]], Answers]
"""Runs the network on examples: rows for each of the model's images; on the CPU."""

Teacher = Callable[[Mapping[str, Tensor]], tuple[Tensor, list[Tensor]]]
"""Returns a teacher's logits [N, K] of a batch of inputs, and its residual stages."""

HEAD_STD = 0.01
"""Standard deviation of a new classifier's weights in FastReID's EmbeddingHead."""

HEADS = ("heads.weight", "classifier.weight")
"""Names of the classifier of training in FastReID's and torchreid's checkpoints."""


class Task:
    """What all kinds of tasks have.

    Args:
        how: The recipe's part.
        split: Training and validation examples.
        model: The model.
        seed: Seed of order and new heads.
    """

    def __init__(self, how: TaskRecipe, split: Split, model: Model, seed: int) -> None:
        self.how, self.split, self.model, self.seed = how, split, model, seed
        names = [output.name for output in model.outputs]
        if how.output not in names:
            raise TrainingError(
                f"{model.name} has no output {how.output!r}, only {', '.join(names)}; "
                "choose another --model, or change tasks.output"
            )
        for part in (split.train, split.validation):
            if not len(part):
                raise TrainingError(f"{part.name}: no images; both parts need some")
        self.heads: Arrays = {}
        self.teacher: Teacher | None = None
        self.margins: list[Tensor] = []
        self.sampler: Sampler = ShuffledSampler(len(split.train), how.batch, seed)

    def rows(self, number: int) -> list[IntArray]:
        """Return the training rows of a batch, for each of the model's images.

        Args:
            number: Number of the task's batch, from 0.
        """
        return [self.sampler.rows(number)]

    def loss(
        self,
        answers: Answers,
        rows: Sequence[IntArray],
        tensors: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            answers: What the network has computed.
            rows: The batch's rows.
            tensors: Parameters by checkpoint name, for the heads.
            inputs: The batch, for a teacher.
        """
        raise NotImplementedError

    def validate(self, predict: Predict) -> dict[str, float]:
        """Return the scores of the validation part; "loss" decides which step is best.

        Args:
            predict: Runs the network on examples.
        """
        raise NotImplementedError


class AttributeTask(Task):
    """A probability of one attribute; rows without a label do not count."""

    def __init__(self, how: TaskRecipe, split: Split, model: Model, seed: int) -> None:
        super().__init__(how, split, model, seed)
        labels = split.train.labels
        known = labels[labels != UNKNOWN]
        for part in (split.train, split.validation):
            require_classes(part)
        self._labels = torch.from_numpy(labels)
        share = float(np.mean(known == 1))
        self._share = share if how.loss == "weighted_bce" else None

    def loss(
        self,
        answers: Answers,
        rows: Sequence[IntArray],
        tensors: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the cross-entropy; see `Task.loss`."""
        logits = answers.logits[self.how.output]
        return binary_loss(logits, self._labels[rows[0]].to(logits.device), self._share)

    def validate(self, predict: Predict) -> dict[str, float]:
        """Return loss, accuracy and macro F1."""
        part = self.split.validation
        known = np.flatnonzero(part.labels != UNKNOWN)
        probabilities = predict(part, [known]).outputs[self.how.output]
        return binary_scores(probabilities.numpy()[:, 0], part.labels[known])


class IdentityTask(Task):
    """An embedding by which people are recognised."""

    def __init__(self, how: TaskRecipe, split: Split, model: Model, seed: int) -> None:
        super().__init__(how, split, model, seed)
        names, labels = np.unique(split.train.identities, return_inverse=True)
        if len(names) < 2 or UNKNOWN in names:
            raise TrainingError(
                f"{split.train.name}: {len(names)} identities; expected at least two, "
                "and a known one for every image"
            )
        self._labels = torch.from_numpy(labels.astype(np.int64))
        self.sampler = IdentitySampler(
            split.train.identities, max(2, how.batch // how.images), how.images, seed
        )
        size = next(o.size for o in model.outputs if o.name == how.output)
        self._head = HEADS["classifier.*" in model.dropped]
        if how.classifier != "none":
            rng = np.random.default_rng([seed, len(names)])
            weight = rng.normal(0, HEAD_STD, (len(names), size)).astype(np.float32)
            self.heads = {self._head: weight}

    def loss(
        self,
        answers: Answers,
        rows: Sequence[IntArray],
        tensors: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the sum of the recipe's losses; see `Task.loss`."""
        how, features = self.how, answers.features[self.how.output]
        labels = self._labels[rows[0]].to(features.device)
        loss = features.new_zeros(())
        if how.classifier != "none":
            plain = self.plain_logits(features, tensors[self._head])
            logits = plain
            if how.classifier == "circle":
                logits = circle_logits(plain / how.scale, labels, how.scale, how.margin)
            loss = loss + class_loss(logits, labels, how.label_smoothing)
            if self.teacher is not None and (how.distil or how.overhaul):
                theirs, stages = self.teacher(inputs)
                loss = loss + how.distil * divergence_loss(
                    plain, theirs, how.distil_temperature
                )
                if how.overhaul:
                    loss = loss + how.overhaul * overhaul_loss(
                        answers.stages, stages, self.margins, tensors
                    )
        if how.triplet != "none":
            compared = features
            if how.triplet_side == "before" and answers.before_neck is not None:
                compared = answers.before_neck
            loss = loss + triplet_loss(compared, labels)
        return loss

    def plain_logits(self, features: Tensor, weight: Tensor) -> Tensor:
        """Return logits [N, K] without margins, as FastReID's distiller compares.

        Args:
            features: FP32 [N, D].
            weight: The classifier's weights [K, D].
        """
        if self.how.classifier == "circle":
            cosines = functional.normalize(features) @ functional.normalize(weight).T
            return self.how.scale * cosines
        return features @ weight.float().T

    def validate(self, predict: Predict) -> dict[str, float]:
        """Return rank-1 and mAP; their loss is 1 - mAP."""
        part = self.split.validation
        answers = predict(part, [np.arange(len(part))])
        return retrieval_scores(
            answers.outputs[self.how.output], part.identities, part.cameras
        )


class KinshipTask(Task):
    """The probability that two faces are of one family."""

    def __init__(self, how: TaskRecipe, split: Split, model: Model, seed: int) -> None:
        super().__init__(how, split, model, seed)
        train = split.train
        count = int(train.members.max()) + 1
        rows = [np.flatnonzero(train.members == member) for member in range(count)]
        families = np.array([train.identities[r[0]] for r in rows], np.int64)
        self.sampler = PairSampler(train.pairs, rows, families, how.batch, seed)

    def rows(self, number: int) -> list[IntArray]:
        """Return the rows of the first and of the second faces of a batch."""
        pairs = self.sampler.rows(number)
        return [pairs[:, 0], pairs[:, 1]]

    def loss(
        self,
        answers: Answers,
        rows: Sequence[IntArray],
        tensors: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the cross-entropy of both halves; see `Task.loss`."""
        logits = answers.logits[self.how.output]
        families = torch.from_numpy(self.split.train.identities)
        # a part of a batch on another device has both halves too
        is_related = families[rows[0]] == families[rows[1]]
        return binary_loss(logits, is_related.long().to(logits.device))

    def validate(self, predict: Predict) -> dict[str, float]:
        """Return loss, accuracy and macro F1 on the pairs of held-out families."""
        part = self.split.validation
        answers = predict(part, [part.pairs[:, 0], part.pairs[:, 1]])
        return binary_scores(
            answers.outputs[self.how.output].numpy()[:, 0], part.related
        )


class ClassesTask(Task):
    """One of many classes."""

    def __init__(self, how: TaskRecipe, split: Split, model: Model, seed: int) -> None:
        super().__init__(how, split, model, seed)
        size = next(o.size for o in model.outputs if o.name == how.output)
        if len(split.train.names) > size or split.train.names != split.validation.names:
            raise TrainingError(
                f"{split.train.name} has {len(split.train.names)} classes, validation "
                f"has {len(split.validation.names)}; expected the same ones, at most "
                f"{size}, as {model.name} has"
            )
        require_classes(split.train)
        self._labels = torch.from_numpy(split.train.labels)

    def loss(
        self,
        answers: Answers,
        rows: Sequence[IntArray],
        tensors: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the cross-entropy with smoothed labels; see `Task.loss`."""
        logits = answers.outputs[self.how.output]
        labels = self._labels[rows[0]].to(logits.device)
        return class_loss(logits, labels, self.how.label_smoothing)

    def validate(self, predict: Predict) -> dict[str, float]:
        """Return loss and top-1 accuracy."""
        part = self.split.validation
        known = np.flatnonzero(part.labels != UNKNOWN)
        answers = predict(part, [known])
        return class_scores(
            answers.outputs[self.how.output].numpy(), part.labels[known]
        )


KINDS: Mapping[str, type[Task]] = {
    "attribute": AttributeTask,
    "identity": IdentityTask,
    "kinship": KinshipTask,
    "classes": ClassesTask,
}


def create_task(how: TaskRecipe, split: Split, model: Model, seed: int) -> Task:
    """Return the task of a recipe's part.

    Args:
        how: The recipe's part.
        split: Its examples.
        model: The model.
        seed: Seed of order and new heads.

    Raises:
        TrainingError: The examples or the model do not suit the task.
    """
    return KINDS[how.kind](how, split, model, seed)


def require_classes(examples: Examples) -> None:
    """Require at least one example of each class.

    Args:
        examples: One part of a data set.

    Raises:
        TrainingError: A class has no example.
    """
    known = set(np.unique(examples.labels).tolist())
    absent = [name for label, name in enumerate(examples.names) if label not in known]
    if absent:
        raise TrainingError(
            f"{examples.name}: no example of {', '.join(absent[:5])} "
            f"({len(absent)} of {len(examples.names)} classes); add some, or use "
            "another split"
        )
