"""Variants: choice, refusal, record, and parity with an original checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from builders.build.build import build_all
from builders.build.weights_choice import choose_weights
from builders.commands.app import app
from builders.evaluation.variants import measure_separation, people_from_paths
from builders.repository import layout
from builders.repository.layout import (
    Repository,
    RepositoryError,
    origin_from_record,
)
from builders.spec.catalogue import models
from builders.spec.variants import VariantError
from builders.verify.inputs import seeded_inputs
from builders.verify.verification import open_artefact
from builders.weights import Checkpoint, StandIn, origin_from_text
from tests.references import random_reference

(REID,) = models(["person_reid_kd_r18"])
(CONCAT,) = models(["kinship_concat"])


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    root = tmp_path / "repository"
    monkeypatch.setattr(layout.Repository.__init__, "__defaults__", (root,))
    return Repository(root)


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    """The network of release v0.1.1, with the padded pool and all weights random."""
    module = random_reference(REID.name)
    module.get_submodule("backbone").maxpool = torch.nn.MaxPool2d(3, 2, padding=1)
    return module


@pytest.fixture(scope="module")
def zoo_file(
    original: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A file as in the model zoo."""
    state = {
        f"module.{k}".replace("heads.bottleneck.0.", "heads.bnneck."): v
        for k, v in original.state_dict().items()
    }
    del state["module.heads.weight"]
    state["module.heads.classifier.weight"] = torch.ones(751, 512)
    state["module.pixel_mean"] = state["module.pixel_std"] = torch.ones(1, 3, 1, 1)
    path = tmp_path_factory.mktemp("zoo") / "market_sbs_R18.pth"
    torch.save({"model": state, "iteration": 17}, path)
    return path


def test_an_original_checkpoint_is_refused_until_a_variant_is_chosen(
    zoo_file: Path, original: torch.nn.Module, repository: Repository
) -> None:
    with pytest.raises(VariantError) as refused:
        list(build_all(repository, [REID], "cpu", zoo_file))
    for part in (
        "which stem_pool of person_reid_kd_r18",
        "heads.bnneck.weight",
        "2020-09-10",
        "--variant: ceil (",
        "padded (",
        "compare-variants person_reid_kd_r18",
        "evaluate person_reid_kd_r18",
    ):
        assert part in str(refused.value)
    assert not repository.is_built(REID, "cpu")
    explicit = choose_weights(
        REID, repository, zoo_file, stand_in=False, variant="ceil"
    )
    assert explicit.variant == "default"

    variant = "padded,256x128"
    (result,) = build_all(repository, [REID], "cpu", zoo_file, variant=variant)
    assert result.origin.variant == "padded-256x128"
    run, record = open_artefact(REID, repository, "cpu")
    crops = seeded_inputs(REID.in_variant(variant))
    with torch.inference_mode():
        expected = original(*map(torch.from_numpy, crops.values()))["embedding"]
    np.testing.assert_allclose(run(**crops)["embedding"], expected, atol=2e-6)

    recorded = json.loads((repository.folder(REID.name) / "weights.json").read_text())
    assert recorded["variant"] == record["variant"] == "padded-256x128"
    assert record["variant_options"]["interpolation"] == "cubic"
    assert origin_from_record(record) == result.origin == repository.origin(REID.name)
    served = repository.declarations()
    assert served[REID.name].inputs[0].shape == (256, 128, 3)
    config = (repository.folder(REID.name) / "config.pbtxt").read_text()
    assert 'string_value: "padded-256x128"' in config
    assert "dims: 256" in config
    # the same weights keep their variant, and a command can change it
    assert not next(build_all(repository, [REID], "cpu", zoo_file)).rebuilt
    assert not next(build_all(repository, [REID], "cpu")).rebuilt
    changed = choose_weights(REID, repository, None, stand_in=False, variant="padded")
    assert changed.variant == "padded"


def test_ensembles_cut_the_crops_of_the_variant(repository: Repository) -> None:
    declared = repository.declarations()["person_attributes"]
    repository.set_origin(REID.name, StandIn(variant="256x128-cubic_antialias"))
    served = repository.declarations()["person_attributes"]
    sizes = [
        {(t.shape[1:], p[f"{t.name}.interpolation"]) for t in m.output_tensors}
        for each in (declared, served)
        for m in each.python_models
        for p in [m.parameters]
    ]
    assert ((384, 128, 3), "cubic") in sizes[0]
    assert ((256, 128, 3), "cubic_antialias") in sizes[1]
    repository.set_origin(REID.name, StandIn())
    assert not (repository.folder(REID.name) / "weights.json").exists()


def test_a_recorded_variant_that_is_gone_says_how_to_mend_it(
    repository: Repository,
) -> None:
    repository.set_origin(REID.name, StandIn(variant="oval"))
    with pytest.raises(RepositoryError, match=r"'oval'.*build with --variant"):
        repository.declarations()


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("oval", "no variant 'oval'; it has stem_pool: ceil"),
        ("ceil,padded", "expected one option of stem_pool, got ceil and padded"),
    ],
)
def test_unknown_and_contradicting_options(variant: str, message: str) -> None:
    with pytest.raises(VariantError, match=message):
        REID.in_variant(variant)


def test_variants_have_one_name_each() -> None:
    padded = REID.in_variant("256x128").in_variant("256x128,padded")
    assert padded.variant == "padded-256x128"
    assert padded.in_variant("ceil") is REID
    assert padded.options == {
        "stem_pool": "padded",
        "size": "256x128",
        "interpolation": "cubic",
    }
    assert CONCAT.in_variant("linear_antialias").images[1].interpolation == (
        "linear_antialias"
    )


@pytest.mark.parametrize(
    "origin",
    [
        StandIn(),
        StandIn(3, "padded"),
        Checkpoint("a.pth", "0" * 64),
        Checkpoint("a, b.pth", "0" * 64, "padded-256x128"),
    ],
)
def test_origins_are_read_from_their_text(origin: Any) -> None:
    assert origin_from_text(str(origin)) == origin


def test_variants_are_compared_on_crops(zoo_file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for person in range(3):
        grid = rng.integers(0, 256, (6, 3, 3), np.uint8)
        for camera in (1, 2):
            crop = cv2.resize(grid, (40, 90), interpolation=cv2.INTER_CUBIC)
            noise = rng.integers(0, 20, crop.shape, np.uint8)
            name = f"{person:04}_c{camera}s1_000001_00.jpg"
            cv2.imwrite(str(tmp_path / name), crop // 2 + noise)
    arguments = ["compare-variants", REID.name, str(zoo_file), str(tmp_path)]
    arguments += ["--variant", "padded-256x128", "--variant", "256x128"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if "embedding" in line]
    values = {row[0]: list(map(float, row[2:])) for row in rows if len(row) == 5}
    assert values["padded-256x128"][0] > 0.9999
    assert values["256x128"][1] < 0.999
    assert "separation" in result.output


def test_separation_is_the_area_under_the_roc_curve() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    people = [str(number % 5) for number in range(20)]
    first, second = np.triu_indices(20, k=1)
    labels = [people[i] == people[j] for i, j in zip(first, second, strict=True)]
    expected = sklearn.roc_auc_score(labels, (rows @ rows.T)[first, second])
    assert measure_separation(rows, people) == pytest.approx(expected)


def test_people_are_read_from_names_or_folders() -> None:
    market = [Path(f"{p}_c1s1_{n}.jpg") for p in ("0002", "0003") for n in "ab"]
    assert people_from_paths(market) == ["0002", "0002", "0003", "0003"]
    folders = [Path(f"{p}/{n}.jpg") for p in "xy" for n in "ab"]
    assert people_from_paths(folders) == ["x", "x", "y", "y"]
    assert people_from_paths([Path("x/a.jpg"), Path("x/b.jpg")]) == []
