"""Recipes on tiny data: they learn, resume to the bit, and explain bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.spec.catalogue import models
from builders.training.examples import Split, hold_out
from builders.training.initial import load_first_weights, random_weights
from builders.training.leaks import drop_leaks, find_leaks
from builders.training.network import TrainedNetwork
from builders.training.recipes import (
    TrainingError,
    list_recipes,
    read_recipe,
    recipe_from_table,
)
from builders.training.training import TrainingOptions, train_on
from builders.weights import fit_checkpoint, read_checkpoint, write_checkpoint
from tests.builders.training import material

QUIET = TrainingOptions(report=False)
KILL_TIMEOUT_S = 600.0


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other's parts of tiny layers take longer than one."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def _losses(folder: Path, task: str) -> list[float]:
    lines = (folder / "steps.tsv").read_text(encoding="utf-8").splitlines()
    rows = [
        dict(zip(lines[0].split("\t"), r.split("\t"), strict=True)) for r in lines[1:]
    ]
    return [float(row["loss"]) for row in rows if row["task"] == task]


@pytest.mark.parametrize(
    ("recipe", "model", "size", "batch", "rate", "epochs", "share"),
    [
        ("gender", "person_gender_gennet_recon", (64, 32), 32, 0.01, 15, 0.1),
        ("gender_weighted", "person_gender_gennet_recon", (64, 32), 32, 0.01, 15, 0.1),
        ("gender_strong", "person_gender_gennet_recon", (64, 32), 32, 0.01, 15, 0.1),
        ("reid_sbs", "person_reid_osnet_x0_25", (64, 32), 16, 3e-3, 10, 0.6),
        ("reid_scratch", "person_reid_osnet_x0_25", (64, 32), 16, 3e-3, 10, 0.6),
        ("classes", "se_resnet50", (32, 32), 8, 0.02, 6, 0.6),
    ],
)
def test_a_recipe_overfits_one_batch(
    tmp_path: Path,
    recipe: str,
    model: str,
    size: tuple[int, int],
    batch: int,
    rate: float,
    epochs: int,
    share: float,
) -> None:
    network = material.small_model(model, *size)
    plan = material.quick_recipe(recipe, batch=batch, rate=rate, epochs=epochs)
    split = material.split_of_people(network, count=batch // 4)
    train_on(plan, network, [split], tmp_path, QUIET)
    losses = _losses(tmp_path, plan.tasks[0].output)
    assert len(losses) == epochs
    assert losses[-1] < share * losses[0], losses


def test_the_concurrent_recipe_learns_both_and_keeps_statistics_apart(
    tmp_path: Path,
) -> None:
    (model,) = models(["person_gender_reid"])
    plan = material.quick_recipe("gender_reid", batch=4, rate=1e-3, epochs=1)
    tasks = tuple(
        replace(task, images=2, weight=weight)
        for task, weight in zip(plan.tasks, (1.0, 1e-9), strict=True)
    )
    splits = [
        material.split_of_people(model, 2, 2),
        material.split_of_people(model, 4, 2),
    ]
    validation = splits[0].validation.select(np.array([0, 1, 2, 3]))
    splits = [replace(split, validation=validation) for split in splits]
    options = replace(QUIET, max_steps=2)
    result = train_on(replace(plan, tasks=tasks), model, splits, tmp_path, options)
    first, arrays = random_weights(model, 0), read_checkpoint(result.best).arrays
    # both batches were of gender, so that the ReID stage has not moved
    own, other = "gender_conv.1.running_mean", "backbone.layer4.0.bn1.running_mean"
    assert not np.array_equal(arrays[own], first[own])
    np.testing.assert_array_equal(arrays[other], first[other])
    assert arrays["heads.weight"].shape == (4, 512)
    assert fit_checkpoint(model, read_checkpoint(result.best)).problems == ()


def test_kinship_learns_pairs(tmp_path: Path) -> None:
    model = material.small_model("kinship_compact", 32, 32)
    plan = material.quick_recipe("kinship", batch=16, rate=1e-3, epochs=60)
    train_on(plan, model, [material.split_of_families(model)], tmp_path, QUIET)
    losses = _losses(tmp_path, "related_probability")
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_a_student_follows_its_teacher(tmp_path: Path) -> None:
    model = material.small_model("person_reid_osnet_x0_25")
    split = material.split_of_people(model)
    plan = material.quick_recipe("reid_distil", batch=32, rate=3e-3, epochs=8)
    (task,) = plan.tasks
    task = replace(task, distil=0.0)
    teacher = train_on(
        replace(plan, tasks=(task,)), model, [split], tmp_path / "teacher", QUIET
    )
    plan = replace(plan, tasks=(replace(task, distil=1.0),), seed=1)
    options = replace(QUIET, teacher=(model, teacher.best))
    train_on(plan, model, [split], tmp_path / "student", options)
    losses = _losses(tmp_path / "student", "embedding")
    assert losses[-1] < 0.6 * losses[0]
    other = material.split_of_people(model, count=4)
    with pytest.raises(TrainingError, match=r"trained on 8 identities, and .* has 4"):
        train_on(plan, model, [other], tmp_path / "wrong", options)


def test_norms_train_as_those_of_torch() -> None:
    """One step on the wiring and on torch.nn's own layers: gradients and statistics."""
    model = material.small_model("person_gender_gennet_recon")
    arrays = random_weights(model, 3)
    network = TrainedNetwork(model, arrays, {})
    from tests.references.person_gender_gennet_recon import REFERENCE

    reference = REFERENCE().train()
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):  # the wiring has none
            module.eval()
    reference.load_state_dict(
        {k: v.detach().clone() for k, v in network.state_dict().items()}
    )
    crops = torch.from_numpy(material.split_of_people(model).train.crops)
    own = network({"crops": crops}).outputs["female_probability"]
    theirs = reference(crops)["female_probability"]
    torch.testing.assert_close(own, theirs)
    own.sum().backward()
    theirs.sum().backward()
    gradients = dict(reference.named_parameters())
    for key, value in network.named_parameters():
        torch.testing.assert_close(value.grad, gradients[key].grad, msg=key)
    torch.testing.assert_close(network.state_dict(), reference.state_dict())


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.builders.training import material
from builders.training.recipes import Augmentation
from builders.training.training import TrainingOptions, train_on
model = material.small_model("person_reid_osnet_x0_25")
plan = material.quick_recipe("reid_scratch", batch=16, rate=1e-3, epochs=4)
plan = replace(plan, augmentation=Augmentation(flip=0.5, pad_px=4, erase=0.5),
    optimiser=replace(plan.optimiser, average_decay=0.9))
options = TrainingOptions(report=False, save_steps=1, resume="--resume" in sys.argv)
split = material.split_of_people(model)
train_on(plan, model, [split], Path(sys.argv[1]), options)
"""


def test_a_killed_run_resumes_to_the_bit(tmp_path: Path) -> None:
    def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SCRIPT, str(folder), *options]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    broken = start(tmp_path / "broken")
    unbroken = start(tmp_path / "unbroken")
    state = tmp_path / "broken" / "last.pt"
    limit = time.monotonic() + KILL_TIMEOUT_S
    while broken.poll() is None and time.monotonic() < limit:
        if state.is_file():
            content = torch.load(state, weights_only=True)
            if content["state"]["counters"]["step"] >= 3:
                break
        time.sleep(0.01)
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    step = torch.load(state, weights_only=True)["state"]["counters"]["step"]
    assert step < 8, "killed too late to tell anything"
    assert start(tmp_path / "broken", "--resume").wait(KILL_TIMEOUT_S) == 0
    assert unbroken.wait(KILL_TIMEOUT_S) == 0
    for name in ("best.safetensors", "steps.tsv", "validation.tsv"):
        both = [(tmp_path / run / name).read_bytes() for run in ("broken", "unbroken")]
        assert both[0] == both[1], name


def _train_gender(folder: Path, split: Split, rate: float = 0.01) -> None:
    model = material.small_model("person_gender_gennet_recon")
    plan = material.quick_recipe("gender", batch=16, rate=rate, epochs=2)
    train_on(plan, model, [split], folder, QUIET)


def test_bad_input_is_explained(tmp_path: Path) -> None:
    model = material.small_model("person_gender_gennet_recon")
    split = material.split_of_people(model)
    men = split.train.select(np.flatnonzero(split.train.labels == 0))
    with pytest.raises(TrainingError, match="no example of female"):
        _train_gender(tmp_path / "men", replace(split, train=men))
    empty = split.validation.select(np.empty(0, np.int64))
    with pytest.raises(TrainingError, match="no images"):
        _train_gender(tmp_path / "empty", replace(split, validation=empty))
    with pytest.raises(TrainingError, match="1 identities, of which 20% would"):
        hold_out(split.train.select(np.arange(4)), 0.2, 0)
    with pytest.raises(TrainingError, match=r"the loss is .* the batch has .*-\d"):
        _train_gender(tmp_path / "nan", split, rate=1e30)
    _train_gender(tmp_path / "run", split)
    with pytest.raises(TrainingError, match="--resume"):
        _train_gender(tmp_path / "run", split)


def test_a_gpu_without_enough_memory_says_the_batch_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = material.small_model("person_gender_gennet_recon")
    split = material.split_of_people(model)

    def run_out(*_args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(TrainedNetwork, "forward", run_out)
    with pytest.raises(TrainingError, match=r"for a batch of 16; .*--batch 8"):
        _train_gender(tmp_path / "run", split)


def test_one_identity_is_refused(tmp_path: Path) -> None:
    model = material.small_model("person_reid_osnet_x0_25")
    split = material.split_of_people(model)
    one = replace(split, train=split.train.select(np.arange(4)))
    plan = material.quick_recipe("reid_scratch", batch=8, rate=1e-3, epochs=1)
    with pytest.raises(TrainingError, match="1 identities; expected at least two"):
        train_on(plan, model, [one], tmp_path, QUIET)


def test_leaks_are_named_and_dropped() -> None:
    model = material.small_model("person_gender_gennet_recon")
    split = material.split_of_people(model)
    assert find_leaks(split).describe(split) == []
    crops = split.validation.crops.copy()
    crops[2] = np.clip(split.train.crops[5].astype(int) + 3, 0, 255)
    people = split.validation.identities.copy()
    people[-1] = split.train.identities[0]
    dirty = replace(
        split, validation=replace(split.validation, crops=crops, identities=people)
    )
    leaks = find_leaks(dirty)
    lines = leaks.describe(dirty)
    assert "identity 0 is on both sides" in lines
    copy = f"{dirty.validation.files[2]} (validation) is nearly {dirty.train.files[5]}"
    assert any(line.startswith(copy) for line in lines), lines
    clean = drop_leaks(dirty, leaks)
    assert len(clean.train) == len(split.train) - 5
    assert find_leaks(clean).duplicates == ()


def test_a_trunk_is_taken_from_an_imagenet_file(tmp_path: Path) -> None:
    (model,) = models(["person_gender"])
    published = {
        key.removeprefix("backbone."): array
        for key, array in random_weights(model, 5).items()
        if key.startswith("backbone.")
    }
    path = tmp_path / "resnet18_ibn_a.safetensors"
    write_checkpoint(path, path.suffix, {**published, "fc.bias": np.zeros(3, "f4")})
    arrays, sources = load_first_weights(model, path, seed=0)
    np.testing.assert_array_equal(
        arrays["backbone.layer3.1.conv2.weight"], published["layer3.1.conv2.weight"]
    )
    assert sources["backbone.layer1"] == "file"
    assert sources["gender_conv.0"] == "random"
    del published["layer2.0.conv1.weight"]
    write_checkpoint(path, path.suffix, published)
    with pytest.raises(TrainingError, match=r"missing \['backbone.layer2.0.conv1.wei"):
        load_first_weights(model, path, seed=0)


def test_every_recipe_suits_its_models() -> None:
    for name in list_recipes():
        recipe = read_recipe(name)
        for model in models(recipe.models):
            names = {output.name for output in model.outputs}
            assert {task.output for task in recipe.tasks} <= names, (name, model.name)


def test_a_recipe_with_an_unknown_key_is_refused() -> None:
    task = {"kind": "attribute", "output": "female_probability"}
    good = {"summary": "a", "source": "b", "models": ["person_gender"], "tasks": [task]}
    assert recipe_from_table(good, "good", "").tasks[0].batch == 64
    for change, message in (
        ({"optimiser": {"rate": 1}}, "unknown keys .'rate'"),
        ({"tasks": [{**task, "batch": "many"}]}, "batch is 'many'; expected .* int"),
        ({"tasks": [{**task, "loss": "mse"}]}, "tasks.loss is 'mse'; expected one of"),
        ({"tasks": [{**task, "batch": 1}]}, "batch of less than 2 rows"),
    ):
        with pytest.raises(TrainingError, match=message):
            recipe_from_table({**good, **change}, "bad", "")
