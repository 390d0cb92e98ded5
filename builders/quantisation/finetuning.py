"""Quantisation-aware fine-tuning: weights and steps that bear INT8.

The float network teaches, so that no labels are needed; the student is the same wiring
with INT8 simulated. Batch-norm statistics stay as they are. What comes out are weights
and a table, which every backend takes like calibrated ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from builders.check import Check
from builders.ops.placement import Placement, placement_of
from builders.ops.torch import TorchOps
from builders.quantisation.simulation import Int8TorchOps
from builders.quantisation.table import Int8Table
from builders.spec import Model, Output

Arrays = Mapping[str, npt.NDArray[Any]]

SEED = 0
EPS = 1e-6
ACTIVATIONS_SHARE = 0.05
"""What the activations' distance counts beside the outputs': enough to lead where one
probability says little, too little to hold on to channels that do not matter."""
JUDGE_EVERY = 20
STEP_RATE = 300.0
"""Steps are learnt as logarithms, so many times faster than weights: they may have to
move by factors, weights by thousandths."""


@dataclass(frozen=True)
class Training:
    """How long and how fast; `batch` crops a step."""

    steps: int = 300
    batch: int = 16
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class Finetuned:
    """The best state seen: weights, table, and the loss on the held-out crops before
    and after.
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
    held: Check,
    training: Training,
    progress: Callable[[str, int, int], None],
) -> Finetuned:
    """Train `model` from `arrays` and `table` on `crops`; judged on `held`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = _Student(model, arrays, table, device)
    rate = training.learning_rate
    optimiser = torch.optim.Adam(
        [
            # relative to their size, so that one rate suits kernels and norms
            *(
                {
                    "params": [value],
                    "lr": rate * float(value.detach().square().mean()) ** 0.5,
                }
                for value in student.trained.values()
            ),
            {"params": list(student.log_steps.values()), "lr": rate * STEP_RATE},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps)
    order = _order(len(next(iter(crops.values()))), training)
    before = best = student.judged(held)
    kept = student.state()
    for number in range(training.steps):
        rows = order[number]
        inputs = {name: _tensor(array[rows], device) for name, array in crops.items()}
        optimiser.zero_grad()
        loss = student.loss(inputs, *student.taught(inputs))
        loss.backward()
        optimiser.step()
        schedule.step()
        if (number + 1) % JUDGE_EVERY == 0 or number + 1 == training.steps:
            found = student.judged(held)
            if found < best:
                best, kept = found, student.state()
        progress("fine-tuning", number + 1, training.steps)
    weights, steps = kept
    finetuned = replace(
        table,
        method=f"fine-tuned, {training.steps} steps, from {table.method}",
        made_by=f"torch {torch.__version__}",
        date=datetime.now(timezone.utc).date().isoformat(),
        steps=steps,
    )
    return Finetuned(weights, finetuned, before, best)


class _Student:
    """The network with INT8 simulated, what of it is trained, and its teacher."""

    def __init__(
        self, model: Model, arrays: Arrays, table: Int8Table, device: torch.device
    ) -> None:
        self._model = model
        self._device = device
        self._placement: Placement = placement_of(model, model.int8_exclude)
        layout = model.survey.layout
        kinds = {k: layout[k].kind for k in arrays}
        self._teacher = {k: _tensor(a, device) for k, a in arrays.items()}
        self._weights = {k: value.clone() for k, value in self._teacher.items()}
        self.trained = {
            key: value.requires_grad_()
            for key, value in self._weights.items()
            if kinds[key] == "parameter"
        }
        self.log_steps = {
            key: torch.tensor(table.steps[key], device=device).log().requires_grad_()
            for key in self._placement.keys
        }

    def taught(
        self, inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The teacher's outputs, and its activations on the way."""
        ops = _TappedOps(self._teacher, inputs)
        with torch.no_grad():
            return dict(self._model.wire(ops)), ops.taps

    def loss(
        self,
        inputs: Mapping[str, Tensor],
        taught: Mapping[str, Tensor],
        activations: list[Tensor],
    ) -> Tensor:
        """Of the outputs, and of the activations, each channel by its own spread."""
        steps = {key: value.exp() for key, value in self.log_steps.items()}
        ops = _TappedInt8Ops(
            self._weights, inputs, self._placement, steps, requantised=True
        )
        found = self._model.wire(ops)
        losses = [_loss(o, found[o.name], taught[o.name]) for o in self._model.outputs]
        if activations:
            gaps = [_gap(a, b) for a, b in zip(ops.taps, activations, strict=True)]
            losses.append(ACTIVATIONS_SHARE * torch.stack(gaps).mean())
        return torch.stack(losses).sum()

    def judged(self, held: Check) -> float:
        """The outputs' loss on the held-out crops."""
        inputs = {n: _tensor(a, self._device) for n, a in held.inputs.items()}
        taught = {n: _tensor(a, self._device) for n, a in held.answers.items()}
        with torch.no_grad():
            return float(self.loss(inputs, taught, []))

    def state(self) -> tuple[Arrays, dict[str, float]]:
        arrays = {k: v.detach().cpu().numpy().copy() for k, v in self._weights.items()}
        steps = {k: float(v.detach().exp()) for k, v in self.log_steps.items()}
        return arrays, steps


class _TappedOps(TorchOps):
    """TorchOps that keeps its activations."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self.taps: list[Tensor] = []

    def relu(self, x: Tensor) -> Tensor:
        self.taps.append(super().relu(x))
        return self.taps[-1]


class _TappedInt8Ops(_TappedOps, Int8TorchOps):
    """Int8TorchOps that keeps them."""


def _gap(found: Tensor, taught: Tensor) -> Tensor:
    """Squared error over variance, channel by channel: one loud channel must not
    drown the others.
    """
    axes = [axis for axis in range(taught.ndim) if axis != 1]
    spread = taught.var(dim=axes) + EPS
    return ((found - taught).square().mean(dim=axes) / spread).mean()


def _loss(output: Output, found: Tensor, taught: Tensor) -> Tensor:
    """How far `found` is: for probabilities their divergence, for others the angle."""
    if output.labels:
        return functional.binary_cross_entropy(
            found, taught
        ) - functional.binary_cross_entropy(taught, taught)
    return (1 - functional.cosine_similarity(found, taught, dim=1)).mean()


def _order(count: int, training: Training) -> npt.NDArray[np.int64]:
    """Rows of each step: every crop as often as any other, in seeded order."""
    rng = np.random.default_rng(SEED)
    wanted = training.steps * training.batch
    rounds = [rng.permutation(count) for _ in range(-(-wanted // count))]
    rows: npt.NDArray[np.int64] = np.concatenate(rounds)[:wanted]
    return rows.reshape(training.steps, training.batch)


def _tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)
