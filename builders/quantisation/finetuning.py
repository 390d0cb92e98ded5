"""Quantisation-aware fine-tuning: weights and scales trained for INT8.

The network with simulated INT8 learns to answer like the float network (distillation),
so no labels are needed. Batch-norm statistics stay as they are. The results are weights
and a table, which every backend takes like calibrated ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from builders.ops.placement import Placement, placement_from_model
from builders.ops.torch import TorchOps
from builders.progress import Progress, no_progress
from builders.quantisation.simulation import Int8TorchOps
from builders.quantisation.table import Int8Table
from builders.spec.model import Model
from builders.tensors import Output
from builders.verify.reference import ReferenceAnswers

Arrays = Mapping[str, npt.NDArray[Any]]

SEED = 0
EPS = 1e-6
ACTIVATION_WEIGHT = 0.05
"""Weight of the activations' distance in the loss; that of the outputs is 1. It is
enough to guide training where a single probability says little, and too little to
preserve channels that do not matter."""
JUDGE_EVERY = 20
SCALE_RATE = 300.0
"""Learning rate of the scales' logarithms as a multiple of the weights' rate: scales
may have to change by factors, weights by thousandths."""


@dataclass(frozen=True)
class Training:
    """Length and speed of training.

    Attributes:
        steps: Number of training steps.
        batch: Crops per step.
        learning_rate: Adam's learning rate, relative to the RMS of each weight tensor.
    """

    steps: int = 300
    batch: int = 16
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class FinetuningResult:
    """State with the smallest loss on the held-out crops.

    Attributes:
        arrays: Weights by checkpoint name.
        table: Table with the trained scales.
        loss_before: Loss on the held-out crops before training.
        loss_after: The same loss of this state.
    """

    arrays: Arrays
    table: Int8Table
    loss_before: float
    loss_after: float


def finetune(
    model: Model,
    arrays: Arrays,
    table: Int8Table,
    crops: Mapping[str, npt.NDArray[np.uint8]],
    reference: ReferenceAnswers,
    training: Training,
    progress: Progress = no_progress,
) -> FinetuningResult:
    """Train weights and scales so that INT8 answers like FP32.

    Args:
        model: The declaration.
        arrays: Weights by checkpoint name, to start from.
        table: Table to start from.
        crops: Training crops [N, height, width, 3] by input name.
        reference: Held-out crops and the float network's answers, to judge by.
        training: Length and speed.
        progress: Called with the number of training steps.

    Returns:
        The best state among those judged.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = _Student(model, arrays, table, device)
    optimiser = _create_optimiser(student, training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps)
    order = _order_rows(len(next(iter(crops.values()))), training)
    loss_before = loss_best = student.held_out_loss(reference)
    best_arrays, best_scales = student.state()
    for step, rows in enumerate(order, start=1):
        inputs = {name: _tensor(array[rows], device) for name, array in crops.items()}
        optimiser.zero_grad()
        loss = student.loss(inputs, *student.run_teacher(inputs))
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % JUDGE_EVERY == 0 or step == training.steps:
            loss_now = student.held_out_loss(reference)
            if loss_now < loss_best:
                loss_best = loss_now
                best_arrays, best_scales = student.state()
        progress("fine-tuning", step, training.steps)
    finetuned = replace(
        table,
        method=f"fine-tuned, {training.steps} steps, from {table.method}",
        made_by=f"torch {torch.__version__}",
        date=datetime.now(timezone.utc).date().isoformat(),
        scales=best_scales,
    )
    return FinetuningResult(best_arrays, finetuned, loss_before, loss_best)


def _create_optimiser(student: _Student, rate: float) -> torch.optim.Optimizer:
    # rates are relative to the tensors' size, so that one suits kernels and norms
    groups: list[dict[str, Any]] = [
        {"params": [value], "lr": rate * float(value.detach().square().mean()) ** 0.5}
        for value in student.trainable.values()
    ]
    groups.append(
        {"params": list(student.log_scales.values()), "lr": rate * SCALE_RATE}
    )
    return torch.optim.Adam(groups)


class _Student:
    """The network with simulated INT8, its trainable tensors, and its float teacher."""

    def __init__(
        self, model: Model, arrays: Arrays, table: Int8Table, device: torch.device
    ) -> None:
        self._model = model
        self._device = device
        self._placement: Placement = placement_from_model(model, model.int8_exclude)
        layout = model.summary.layout
        kinds = {k: layout[k].kind for k in arrays}
        self._teacher = {k: _tensor(a, device) for k, a in arrays.items()}
        self._weights = {k: value.clone() for k, value in self._teacher.items()}
        self.trainable = {
            key: value.requires_grad_()
            for key, value in self._weights.items()
            if kinds[key] == "parameter"
        }
        self.log_scales = {
            key: torch.tensor(table.scales[key], device=device).log().requires_grad_()
            for key in self._placement.keys
        }

    def run_teacher(
        self, inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the teacher's outputs and its activations."""
        ops = _TappedOps(self._teacher, inputs)
        with torch.no_grad():
            return dict(self._model.wire(ops)), ops.taps

    def loss(
        self,
        inputs: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        activations: list[Tensor],
    ) -> Tensor:
        """Return the distance from the teacher's outputs and activations."""
        scales = {key: value.exp() for key, value in self.log_scales.items()}
        ops = _TappedInt8Ops(
            self._weights, inputs, self._placement, scales, requantised=True
        )
        outputs = self._model.wire(ops)
        losses = [
            _output_loss(output, outputs[output.name], targets[output.name])
            for output in self._model.outputs
        ]
        if activations:
            distances = [
                _activation_distance(a, b)
                for a, b in zip(ops.taps, activations, strict=True)
            ]
            losses.append(ACTIVATION_WEIGHT * torch.stack(distances).mean())
        return torch.stack(losses).sum()

    def held_out_loss(self, reference: ReferenceAnswers) -> float:
        """Return the loss of the outputs on the held-out crops."""
        inputs = {n: _tensor(a, self._device) for n, a in reference.inputs.items()}
        targets = {n: _tensor(a, self._device) for n, a in reference.answers.items()}
        with torch.no_grad():
            return float(self.loss(inputs, targets, []))

    def state(self) -> tuple[Arrays, dict[str, float]]:
        """Return copies of the weights and the scales."""
        arrays = {k: v.detach().cpu().numpy().copy() for k, v in self._weights.items()}
        scales = {k: float(v.detach().exp()) for k, v in self.log_scales.items()}
        return arrays, scales


class _TappedOps(TorchOps):
    """TorchOps that records the outputs of its ReLUs."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.taps: list[Tensor] = []

    def relu(self, x: Tensor) -> Tensor:
        self.taps.append(super().relu(x))
        return self.taps[-1]


class _TappedInt8Ops(_TappedOps, Int8TorchOps):
    """Int8TorchOps that records the outputs of its ReLUs."""


def _activation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return squared error over variance, averaged over channels.

    Each channel counts alike, so that one with large values does not hide the others.
    """
    axes = [axis for axis in range(teacher.ndim) if axis != 1]
    variance = teacher.var(dim=axes) + EPS
    return ((student - teacher).square().mean(dim=axes) / variance).mean()


def _output_loss(output: Output, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence of probabilities, or 1 - cosine of embeddings."""
    if output.labels:
        return functional.binary_cross_entropy(
            student, teacher
        ) - functional.binary_cross_entropy(teacher, teacher)
    return (1 - functional.cosine_similarity(student, teacher, dim=1)).mean()


def _order_rows(count: int, training: Training) -> npt.NDArray[np.int64]:
    """Return the rows of each step [steps, batch]: all crops alike, in seeded order."""
    rng = np.random.default_rng(SEED)
    size = training.steps * training.batch
    epochs = [rng.permutation(count) for _ in range(-(-size // count))]
    rows: npt.NDArray[np.int64] = np.concatenate(epochs)[:size]
    return rows.reshape(training.steps, training.batch)


def _tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)
