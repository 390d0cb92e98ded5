"""Optimisers, learning rates, and the exponential average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from builders.training.recipes import Optimiser, Schedule


def create_optimiser(
    parameters: Iterable[Tensor], how: Optimiser
) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe.

    Args:
        parameters: What it trains.
        how: Its kind and values.
    """
    if how.kind == "adam":
        first, second = how.betas
        return torch.optim.Adam(
            parameters,
            lr=how.learning_rate,
            betas=(first, second),
            weight_decay=how.weight_decay,
        )
    return torch.optim.SGD(
        parameters,
        lr=how.learning_rate,
        momentum=how.momentum,
        weight_decay=how.weight_decay,
    )


class RateSchedule:
    """The learning rate of every step.

    Args:
        how: Its kind and values.
        rate: Rate after the warm-up.
        steps: Number of steps of the whole run.
    """

    def __init__(self, how: Schedule, rate: float, steps: int) -> None:
        self._how, self._rate, self._steps = how, rate, steps
        # torch's own rule for plateaus, on a parameter that only holds the rate
        holder = torch.optim.SGD([torch.zeros(1)], lr=rate)
        self._holder = holder
        self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            holder,
            factor=how.factor,
            patience=how.patience_epochs,
            min_lr=how.floor_rate,
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step.

        Linear warm-up; then constant, or flat and a cosine to the floor (FastReID's
        WarmupFlatCosine), or what the validation losses have made of it.

        Args:
            step: Number of the step, from 0.
        """
        how, rate = self._how, self._rate
        if step < how.warmup_steps:
            share = step / how.warmup_steps
            return rate * (how.warmup_start + share * (1 - how.warmup_start))
        if how.kind == "plateau":
            return float(self._holder.param_groups[0]["lr"])
        flat_until = max(how.warmup_steps, round(how.flat_share * self._steps))
        if how.kind == "constant" or step < flat_until:
            return rate
        share = (step - flat_until) / max(1, self._steps - flat_until)
        cosine = (1 + math.cos(math.pi * min(share, 1.0))) / 2
        return how.floor_rate + (rate - how.floor_rate) * cosine

    def end_epoch(self, validation_loss: float) -> None:
        """Take note of a validation loss.

        Args:
            validation_loss: The loss after an epoch.
        """
        if self._how.kind == "plateau":
            self._plateau.step(validation_loss)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        rate = float(self._holder.param_groups[0]["lr"])
        plateau = self._plateau
        return {
            "rate": rate,
            "best": float(plateau.best),
            "bad_epochs": int(plateau.num_bad_epochs),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another schedule was.

        Args:
            state: What `state_dict` returned.
        """
        self._holder.param_groups[0]["lr"] = state["rate"]
        self._plateau.best = state["best"]
        self._plateau.num_bad_epochs = state["bad_epochs"]


def update_average(
    average: Mapping[str, Tensor], tensors: Mapping[str, Tensor], decay: float
) -> None:
    """Move an exponential average towards the present weights, in place.

    Statistics are averaged too; counters are copied.

    Args:
        average: Averages by checkpoint name.
        tensors: The present values.
        decay: Weight of the average so far.
    """
    with torch.no_grad():
        for key, value in average.items():
            if value.is_floating_point():
                value.lerp_(tensors[key].detach().to(value.dtype), 1 - decay)
            else:
                value.copy_(tensors[key])
