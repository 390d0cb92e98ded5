"""A zero-shot split of PETA in training: its parts, and people on both sides."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from builders.training.examples import read_split
from builders.training.leaks import find_leaks
from builders.training.recipes import TrainingError, read_recipe
from builders.training.training import TrainingOptions, train
from tests.builders.training import material

IMAGES = 8


def _write_peta(root: Path, people: list[int | str]) -> None:
    """Write PETA.mat, images, and a split: 5 train, 2 val, 1 test."""
    rng = np.random.default_rng(0)
    values = np.zeros((IMAGES, 5), np.uint16)
    values[::2, 4] = 1
    partitions = np.empty((5, 1), object)
    part = {name: np.array([[1], [2]]) for name in ("train", "val", "test")}
    partitions.ravel()[:] = [part] * 5
    names = np.empty((1, 1), object)
    names[0, 0] = "personalMale"
    peta = {"data": values, "attributes": names, "selected": 1, "partition": partitions}
    savemat(root / "PETA.mat", {"peta": peta})
    (root / "images").mkdir()
    parts = ["train"] * 5 + ["val"] * 2 + ["test"]
    lines = ["file,part,identity"]
    for row in range(IMAGES):
        file = f"images/{row + 1:05}.png"
        crop = material.draw_person(rng, row, is_female=bool(row % 2))
        cv2.imwrite(str(root / file), crop)
        lines.append(f"{file},{parts[row]},{people[row]}")
    (root / "zero_shot.csv").write_text("\n".join(lines), encoding="utf-8")


def test_parts_and_people_are_those_of_the_file(tmp_path: Path) -> None:
    _write_peta(tmp_path, [40, 40, 41, "", 42, 43, "", 44])
    model = material.small_model("person_gender_gennet_recon")
    (task,) = read_recipe("gender").tasks
    split = read_split(task, model.images[0], tmp_path, tmp_path / "cache")
    assert split.how == "zero-shot split"
    assert split.train.identities.tolist() == [40, 40, 41, -1, 42]
    assert split.validation.identities.tolist() == [43, -1]
    assert split.validation.labels.tolist() == [1, 0]
    assert find_leaks(split).people == ()


def test_a_person_on_both_sides_stops_the_run(tmp_path: Path) -> None:
    _write_peta(tmp_path, [40, 40, 41, 41, 42, 43, 40, 44])
    model = material.small_model("person_gender_gennet_recon")
    recipe = material.quick_recipe("gender", batch=2, rate=0.01, epochs=1)
    options = TrainingOptions(report=False)
    with pytest.raises(TrainingError, match="identity 40 is on both sides"):
        train(recipe, model, [tmp_path], tmp_path / "run", options)
    assert not (tmp_path / "run" / "best.safetensors").exists()
