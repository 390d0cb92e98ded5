"""Speed of training steps on this machine, beside plain PyTorch of the same network.

The baselines are the independent modules of tests/references with PyTorch's own layers:
eager, with torch.compile, and with torch.compile's CUDA graphs, in channels-last BF16
where the GPU trains in BF16. All have the same batch, the same kind of loss, and Adam.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.training.examples import Examples, Split
from builders.training.initial import random_weights
from builders.training.loop import TrainingLoop
from builders.training.network import TrainedNetwork
from builders.training.recipes import Length, Recipe, Schedule, TaskRecipe, read_recipe
from builders.training.run_folder import RunFolder
from builders.training.tasks import create_task

MODELS = ("person_gender", "person_reid_kd_r18", "person_reid_sbs_r50_ibn")
IDENTITIES, IMAGES = 64, 16
BACKWARD_FACTOR = 3
"""Multiply-accumulates of a training step over those of inference: the gradients of
inputs and of weights take as many each (Kaplan et al., arXiv:2001.08361, section 2.1).
"""
MATMUL_SIZE, MATMUL_RUNS = 8192, 20

Step = Callable[[], Any]


@dataclass(frozen=True)
class Speed:
    """One measured way of training.

    Attributes:
        model: Name of the model.
        how: The way.
        precision: Fabric's name of the precision.
        batch: Images in a step.
        images_per_s: Its speed.
        peak_share: Its arithmetic over this GPU's BF16 matrix product.
    """

    model: str
    how: str
    precision: str
    batch: int
    images_per_s: float
    peak_share: float


def measure_speeds(steps: int, batch: int) -> list[Speed]:
    """Return the speed of each model in each way.

    Args:
        steps: Steps that are timed.
        batch: Images in a step.
    """
    has_gpu = torch.cuda.is_available()
    torch.backends.cudnn.benchmark = True
    peak = measure_peak_flops()
    precisions = ("32-true", "16-mixed", "bf16-mixed") if has_gpu else ("32-true",)
    speeds = []
    for model in models(MODELS):
        flops = 2 * BACKWARD_FACTOR * model.summary.total_macs
        for precision in precisions:
            rate = _measure_own(model, precision, steps, batch)
            share = rate * flops / peak
            speeds.append(
                Speed(model.name, "this project", precision, batch, rate, share)
            )
        modes: list[tuple[str, str | None]] = [("eager", None)]
        if has_gpu:
            modes += [("compile", "default"), ("CUDA graphs", "reduce-overhead")]
        for name, mode in modes:
            rate = _measure_plain(model, mode, precisions[-1], steps, batch)
            share = rate * flops / peak
            speeds.append(
                Speed(
                    model.name, f"PyTorch, {name}", precisions[-1], batch, rate, share
                )
            )
    return speeds


def measure_peak_flops() -> float:
    """Return the operations per second of a large matrix product."""
    has_gpu = torch.cuda.is_available()
    size = MATMUL_SIZE if has_gpu else 512
    kind = torch.bfloat16 if has_gpu else torch.float32
    a = torch.randn(size, size, device="cuda" if has_gpu else "cpu", dtype=kind)
    seconds = _time_steps(lambda: a @ a, MATMUL_RUNS)
    return 2 * size**3 / seconds


def _time_steps(step: Step, count: int) -> float:
    """Return seconds per step after a third as many more."""
    for _ in range(max(3, count // 3)):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def make_noise_split(model: Model, rows: int) -> Split:
    """Return random crops with identities and genders.

    Args:
        model: The model, for the size of its crops.
        rows: Number of crops.
    """
    rng = np.random.default_rng(0)
    shape = (rows, *model.images[0].tensor.shape)
    numbers = np.arange(rows)
    part = Examples(
        "noise",
        Path(),
        tuple(map(str, numbers)),
        rng.integers(0, 256, shape, np.uint8),
        labels=numbers % 2,
        identities=numbers // IMAGES,
        cameras=numbers,
        names=("male", "female"),
    )
    return Split(part, part, "noise")


def speed_recipe(model: Model, precision: str, batch: int) -> Recipe:
    """Return a recipe with one plain loss, as the baselines have.

    Args:
        model: The model.
        precision: Fabric's name of the precision.
        batch: Images in a step.
    """
    output = model.outputs[0]
    kind = "attribute" if output.labels else "identity"
    task = TaskRecipe(kind, output.name, batch=batch, classifier="linear")
    recipe = replace(read_recipe("reid_scratch"), tasks=(task,), precision=precision)
    return replace(recipe, schedule=Schedule(), length=Length(max_epochs=1_000_000))


def _measure_own(model: Model, precision: str, steps: int, batch: int) -> float:
    recipe = speed_recipe(model, precision, batch)
    has_gpu = torch.cuda.is_available()
    fabric = Fabric(
        accelerator="cuda" if has_gpu else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
    )
    split = make_noise_split(model, IDENTITIES * IMAGES)
    task = create_task(recipe.tasks[0], split, model, 0)
    network = TrainedNetwork(model, random_weights(model, 0), task.heads)
    with TemporaryDirectory() as folder:
        loop = TrainingLoop(
            recipe, model, [task], network, fabric, RunFolder(Path(folder), ""), {}
        )
        return loop.measure_speed(steps, max(3, steps // 3))


def _measure_plain(
    model: Model, mode: str | None, precision: str, steps: int, batch: int
) -> float:
    """Return images per second of PyTorch's own layers, in eager mode or compiled."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module: nn.Module = import_module(f"tests.references.{model.name}").REFERENCE()
    module = module.to(device).train()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    output = model.outputs[0]
    head = nn.Linear(output.size, IDENTITIES, bias=False).to(device)
    parameters = [*module.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam([p for p in parameters if p.numel()], lr=1e-4)
    crops = torch.randint(
        0, 256, (batch, *model.images[0].tensor.shape), dtype=torch.uint8
    ).to(device)
    labels = (torch.arange(batch) % 2).to(device)

    def compute_loss() -> Tensor:
        enabled = precision != "32-true"
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            answer = module(crops)[output.name]
        if output.labels:
            return functional.binary_cross_entropy(
                answer.float().flatten().clamp(1e-6, 1 - 1e-6), labels.float()
            )
        return functional.cross_entropy(head(answer.float()), labels)

    run = compute_loss if mode is None else torch.compile(compute_loss, mode=mode)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        run().backward()
        optimiser.step()

    return batch / _time_steps(step, steps)
