"""Distillation of features: "overhaul", as FastReID's FastDistill computes it.

A connector (1x1 convolution and batch norm) maps each stage of the student, before its
ReLU, to the channels of the teacher's. What the teacher's ReLU would cut off counts
only down to a margin, and only where the student is above it.

Sources: Heo et al., "A Comprehensive Overhaul of Feature Distillation"
(arXiv:1904.01866), and projects/FastDistill/fastdistill/overhaul.py of
github.com/JDAI-CV/fast-reid, including the names of the connectors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from builders.spec.model import Model
from builders.training.recipes import TrainingError

DIVISOR = 10_000
"""FastReID divides the sum over all channels and pixels by it."""

SMALLEST_SHARE = 0.001
"""Share of negative values below which a channel's margin is -3 standard deviations."""

STAGE_END = re.compile(r"(backbone\.layer(\d)\.)(\d+)\.bn([23])\.weight")


def find_stage_norms(model: Model) -> tuple[str, ...]:
    """Return the last batch norm of each residual stage, before its ReLU.

    Args:
        model: The model.

    Raises:
        TrainingError: The model has no residual stages.
    """
    ends: dict[str, tuple[int, int]] = {}
    for key in model.summary.layout:
        match = STAGE_END.fullmatch(key)
        if match:
            place = int(match[3]), int(match[4])
            ends[match[1]] = max(place, ends.get(match[1], place))
    if not ends:
        raise TrainingError(
            f"{model.name} has no residual stages, whose features tasks.overhaul "
            "compares; set it to 0, or choose student and teacher with a ResNet"
        )
    return tuple(
        f"{stage}{block}.bn{norm}" for stage, (block, norm) in sorted(ends.items())
    )


def create_connectors(
    student: Sequence[int], teacher: Sequence[int], seed: int
) -> dict[str, npt.NDArray[Any]]:
    """Return first weights of the connectors, by checkpoint name.

    Args:
        student: Channels of each of the student's stages.
        teacher: Channels of each of the teacher's stages.
        seed: Seed of the random values.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for number, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        rng = np.random.default_rng([seed, number])
        kernel = rng.normal(0, math.sqrt(2 / theirs), (theirs, ours, 1, 1))
        name = f"connectors.{number}"
        arrays[f"{name}.0.weight"] = kernel.astype(np.float32)
        for part, value in (
            ("weight", 1),
            ("bias", 0),
            ("running_mean", 0),
            ("running_var", 1),
        ):
            arrays[f"{name}.1.{part}"] = np.full(theirs, value, np.float32)
    return arrays


def margin_from_norm(weight: Tensor, bias: Tensor) -> Tensor:
    """Return the mean of the negative part of each channel behind a batch norm.

    A channel is taken as normal with mean `bias` and standard deviation |`weight`|.

    Args:
        weight: Scale of the norm [C].
        bias: Shift of the norm [C].

    Returns:
        FP32 [1, C, 1, 1].
    """
    # a scale of 0 has the limit of small ones
    std, mean = weight.double().abs().clamp(min=1e-12), bias.double()
    share = torch.special.ndtr(-mean / std)
    density = (-((mean / std) ** 2) / 2).exp() / math.sqrt(2 * math.pi)
    margin = torch.where(
        share > SMALLEST_SHARE,
        mean - std * density / share.clamp(min=SMALLEST_SHARE),
        -3 * std,
    )
    return margin.float()[None, :, None, None]


def overhaul_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    margins: Sequence[Tensor],
    tensors: Mapping[str, Tensor],
    momentum: float = 0.1,
) -> Tensor:
    """Return the distance of both networks' stages; each counts twice the one before.

    Args:
        student: Stages before ReLU [N, C, H, W]; C differs.
        teacher: Stages before ReLU [N, C', H, W], without gradient.
        margins: FP32 [1, C', 1, 1] of each stage.
        tensors: Parameters and statistics of the connectors by checkpoint name.
        momentum: Weight of a batch in the connectors' running statistics.
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    for number, (ours, theirs, margin) in enumerate(
        zip(student, teacher, margins, strict=True)
    ):
        name = f"connectors.{number}"
        mapped = functional.batch_norm(
            functional.conv2d(ours.float(), tensors[f"{name}.0.weight"]),
            tensors[f"{name}.1.running_mean"],
            tensors[f"{name}.1.running_var"],
            tensors[f"{name}.1.weight"],
            tensors[f"{name}.1.bias"],
            training=True,
            momentum=momentum,
        )
        target = torch.maximum(theirs.float(), margin)
        counts = (mapped > target) | (target > 0)
        distance = ((mapped - target).square() * counts).sum()
        total = total + distance / 2 ** (len(student) - number - 1)
    return total / len(student[0]) / DIVISOR
