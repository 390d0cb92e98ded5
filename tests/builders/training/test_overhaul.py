"""Distillation of features beside FastReID's formulas on independent modules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn

from builders.training.examples import Split
from builders.training.initial import random_weights
from builders.training.network import TappedOps, TrainedNetwork
from builders.training.overhaul import (
    create_connectors,
    find_stage_norms,
    margin_from_norm,
    overhaul_loss,
)
from builders.training.recipes import TrainingError
from builders.training.training import TrainingOptions, train_on
from builders.weights import fit_checkpoint, read_checkpoint, write_checkpoint
from tests.builders.training import material
from tests.references import load_reference

CHANNELS = ((64, 128, 256, 512), (256, 512, 1024, 2048))


def _random_module(name: str) -> nn.Module:
    torch.manual_seed(3)
    module = load_reference(name).eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, -0.5, 1.0)
            nn.init.normal_(norm.bias, 0, 0.3)
    return module


def _tap_stages(module: nn.Module, norm: str) -> list[Tensor]:
    """Return a list that a forward call fills: sums of a stage's last block."""
    stages: list[Tensor] = []
    for number in range(1, 5):
        layer = module.get_submodule(f"backbone.layer{number}")
        block = list(layer.children())[-1]
        inputs: list[Tensor] = []
        block.register_forward_pre_hook(lambda _, x, i=inputs: i.append(x[0]))

        def enter(
            _m: nn.Module, _x: object, y: Tensor, i: list[Tensor] = inputs
        ) -> None:
            stages.append(y + i[-1].relu())

        block.get_submodule(norm).register_forward_hook(enter)
    return stages


def test_margins_are_means_of_the_negative_part() -> None:
    scale = np.array([1.0, -0.5, 2.0, 0.3, 0.1])
    shift = np.array([0.0, 0.4, -1.0, 0.2, 5.0])
    std = np.abs(scale)
    expected = truncnorm.mean(-np.inf, -shift / std, loc=shift, scale=std)
    expected[-1] = -3 * std[-1]  # less than 0.1 % of this channel is negative
    own = margin_from_norm(torch.tensor(scale), torch.tensor(shift))
    assert own.shape == (1, 5, 1, 1)
    np.testing.assert_allclose(own.flatten().numpy(), expected, rtol=1e-5)


def test_the_loss_is_that_of_independent_modules() -> None:
    student = material.small_model("person_reid_kd_r18")
    teacher = material.small_model("person_reid_bot_r50_ibn")
    modules = [_random_module(m.name) for m in (student, teacher)]
    modules[0].train()
    states = [
        {k: v.detach().clone() for k, v in m.state_dict().items()} for m in modules
    ]
    heads = create_connectors(*CHANNELS, seed=1)
    norms = [find_stage_norms(m) for m in (student, teacher)]
    arrays = {k: v.numpy() for k, v in states[0].items()}
    network = TrainedNetwork(student, arrays, heads, stage_norms=norms[0])
    crops = torch.from_numpy(material.people(3, 2, student).crops)
    ours = network({"crops": crops}).stages
    with torch.no_grad():
        ops = TappedOps(states[1], {"crops": crops}, norms[1])
        theirs = ops.collect_answers(teacher).stages
    margins = [
        margin_from_norm(states[1][f"{n}.weight"], states[1][f"{n}.bias"])
        for n in norms[1]
    ]
    own = overhaul_loss(ours, theirs, margins, network.tensors())
    own.backward()

    taps = [_tap_stages(modules[0], "bn2"), _tap_stages(modules[1], "bn3")]
    modules[0](crops)
    with torch.no_grad():
        modules[1](crops)
    total = torch.zeros(())
    connectors = []
    for number, (x, y, margin) in enumerate(zip(*taps, margins, strict=True)):
        connector = nn.Sequential(
            nn.Conv2d(x.shape[1], y.shape[1], 1, bias=False), nn.BatchNorm2d(y.shape[1])
        )
        kernel = torch.from_numpy(heads[f"connectors.{number}.0.weight"])
        connector.load_state_dict({"0.weight": kernel}, strict=False)
        connectors.append(connector)
        mapped, target = connector(x), y.clamp(min=margin)
        # nothing where the teacher is cut off and the student is below it too
        is_settled = (target <= 0) & (mapped <= target)
        squares = nn.functional.mse_loss(mapped, target, reduction="none")
        total = total + squares[~is_settled].sum() * 2.0 ** (number - 3)
    total = total / (6 * 10000)
    total.backward()
    torch.testing.assert_close(own, total, rtol=1e-4, atol=0)
    kernels = dict(network.named_parameters())
    for number, connector in enumerate(connectors):
        expected = connector[0].weight.grad
        actual = kernels[f"connectors.{number}.0.weight"].grad
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-7)
        statistics = network.tensors()[f"connectors.{number}.1.running_var"]
        torch.testing.assert_close(statistics, connector[1].running_var)
    key = "backbone.layer2.0.conv1.weight"
    expected = dict(modules[0].named_parameters())[key].grad
    torch.testing.assert_close(kernels[key].grad, expected, rtol=1e-3, atol=1e-6)


def test_a_student_is_trained_by_stages_and_its_checkpoint_fits(tmp_path: Path) -> None:
    model = material.small_model("person_reid_kd_r18")
    parts = [material.people(2, 2, model, first) for first in (0, 1000)]
    teacher = tmp_path / "teacher.safetensors"
    head = np.random.default_rng(0).normal(0, 0.01, (2, 512)).astype(np.float32)
    arrays = {**random_weights(model, 5), "heads.weight": head}
    write_checkpoint(teacher, teacher.suffix, arrays)
    plan = material.quick_recipe("reid_distil", batch=4, rate=1e-3, epochs=1)
    task = replace(plan.tasks[0], images=2, overhaul=1.0)
    options = TrainingOptions(report=False, teacher=(model, teacher), max_steps=1)
    split = Split(parts[0], parts[1], "synthetic")
    plan = replace(plan, tasks=(task,))
    best = train_on(plan, model, [split], tmp_path / "student", options).best
    contents = read_checkpoint(best)
    assert contents.arrays["connectors.3.0.weight"].shape == (512, 512, 1, 1)
    assert not np.array_equal(
        contents.arrays["connectors.0.1.running_var"], np.ones(64)
    )
    assert fit_checkpoint(model, contents).problems == ()


def test_a_network_without_stages_is_refused() -> None:
    model = material.small_model("person_reid_osnet_x0_25")
    with pytest.raises(TrainingError, match=r"no residual stages.*overhaul"):
        find_stage_norms(model)
