"""Ensembles over any networks: their cuts, names, files and rendering on request."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from builders.commands.app import app
from builders.errors import BuildersError
from builders.models import (
    kinship_compact,
    kinship_pair,
    person_gender,
    person_gender_reid,
    person_gender_rmnet,
    person_reid_kd_r18,
    person_reid_kd_r34,
    person_reid_sbs_r50_ibn,
    se_resnet50,
)
from builders.repository import compose
from builders.repository.config import render_configs
from builders.repository.frame_ensembles import crops_ensemble, frame_ensemble
from builders.repository.layout import Repository
from builders.repository.render import render_on_request, render_repository
from builders.serve.selection import choose_models
from builders.spec.catalogue import catalogue, with_python_models
from builders.spec.ensemble import Ensemble, PythonModel
from builders.spec.model import Batching
from builders.tensors import SpecError

GENDER, REID = person_gender.MODEL, person_reid_kd_r18.MODEL
RMNET, R34 = person_gender_rmnet.MODEL, person_reid_kd_r34.MODEL
SHARED = "person_attributes_shared"


def _preprocessing(ensemble: Ensemble) -> PythonModel:
    (model,) = ensemble.python_models
    return model


def test_ensembles_with_the_same_cuts_share_their_preprocessing() -> None:
    pairs = [
        frame_ensemble("a", (GENDER, REID)),
        frame_ensemble("b", (REID, GENDER)),
        frame_ensemble("c", (GENDER, person_reid_sbs_r50_ibn.MODEL)),
    ]
    assert {_preprocessing(pair).name for pair in pairs} == {"person_preprocess"}
    declared = with_python_models(pairs)
    assert declared["person_preprocess"] == catalogue()["person_preprocess"]
    assert pairs[1].outputs == ("embedding", "female_probability")


def test_preprocessing_cuts_exactly_what_the_networks_need() -> None:
    two = frame_ensemble("two", (RMNET, R34))
    model = _preprocessing(two)
    assert model.name == "preprocess_256x128_linear_384x128_cubic"
    assert [(t.name, t.shape) for t in model.output_tensors] == [
        ("crops_256x128_linear", (-1, 256, 128, 3)),
        ("crops_384x128_cubic", (-1, 384, 128, 3)),
    ]
    assert [step.inputs["crops"] for step in two.steps[1:]] == [
        "crops_256x128_linear",
        "crops_384x128_cubic",
    ]
    one = frame_ensemble("one", (person_gender_reid.MODEL,))
    assert _preprocessing(one).name == "preprocess_224x224_linear"
    assert [t.name for t in _preprocessing(one).output_tensors] == ["crops"]
    assert one.outputs == ("female_probability", "embedding")
    edge = _preprocessing(frame_ensemble("edge", (se_resnet50.MODEL,)))
    assert edge.name == "preprocess_224x224_cubic_of_256"
    assert edge.parameters["crops.shorter_edge"] == "256"


def test_the_smallest_batch_limits_the_people_and_is_part_of_the_name() -> None:
    small = replace(RMNET, batching=Batching(max_batch_size=4, opt_batch_size=4))
    ensemble = frame_ensemble("small", (small, R34))
    assert ensemble.max_batch_size == 4
    assert _preprocessing(ensemble).parameters["max_people"] == "4"
    assert _preprocessing(ensemble).name.endswith("_up_to_4")


def test_networks_share_one_input_of_crops() -> None:
    names = {"person_reid_kd_r34.embedding": "second"}
    crops = crops_ensemble("crops", (REID, R34), roles=names)
    assert [(t.name, t.shape) for t in crops.inputs] == [("crops", (384, 128, 3))]
    assert crops.outputs == ("embedding", "second")
    frame = frame_ensemble("frame", (REID, R34), roles=names)
    assert [t.name for t in _preprocessing(frame).output_tensors] == ["crops"]
    config = next(iter(render_configs(crops, Repository())))[1]
    assert config.count("crops.interpolation") == 1


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "none": (lambda: frame_ensemble("e", ()), "at least one network"),
    "twice": (lambda: frame_ensemble("e", (REID, REID)), "kd_r18 is there twice"),
    "role": (
        lambda: frame_ensemble("e", (REID, R34)),
        "person_reid_kd_r18 and person_reid_kd_r34 both answer 'embedding'",
    ),
    "output": (
        lambda: frame_ensemble("e", (REID,), roles={"person_reid_kd_r18.x": "y"}),
        "no output person_reid_kd_r18.x; there are: person_reid_kd_r18.embedding",
    ),
    "vectors": (
        lambda: crops_ensemble("e", (kinship_pair.MODEL,)),
        r"one image as input .* kinship_pair takes embedding_a FP32 \[256\]",
    ),
    "two images": (
        lambda: frame_ensemble("e", (kinship_compact.MODEL,)),
        "kinship_compact takes face_a UINT8 .*, face_b UINT8",
    ),
    "one name": (
        lambda: with_python_models(
            [
                frame_ensemble("a", (GENDER, REID)),
                replace(_preprocessing(frame_ensemble("b", (GENDER, REID))), inputs=()),
            ]
        ),
        "ensemble a: its step person_preprocess differs",
    ),
}


@pytest.mark.parametrize(("declare", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(
    declare: Callable[[], object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        declare()


def test_an_ensemble_follows_the_variants_of_its_networks() -> None:
    ensemble = frame_ensemble("e", (GENDER, REID))
    small = replace(REID, images=(replace(REID.images[0], height=256),))
    changed = ensemble.with_models(lambda model: small if model is REID else model)
    assert changed.name == "e"
    assert _preprocessing(changed).name == "preprocess_224x224_linear_256x128_cubic"
    assert small in changed.models


def _network_config(repository: Repository) -> str:
    return (repository.folder("person_gender_reid") / "config.pbtxt").read_text()


def test_an_ensemble_on_request_is_rendered_when_it_is_served(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    assert not repository.folder(SHARED).exists()
    assert not repository.folder("preprocess_224x224_linear").exists()
    before = _network_config(repository)
    assert "default_queue_policy" in before
    repository.store("person_gender_reid", "model.onnx", b"onnx", {})
    assert choose_models(repository, "cpu", [SHARED])[0] == [SHARED]
    assert (repository.folder("preprocess_224x224_linear") / "1/model.py").is_file()
    config = _network_config(repository)
    assert "default_queue_policy" not in config, "it is a step now"
    assert f'"{SHARED}"' in config
    assert render_repository(repository) == [], "and it stays"
    assert render_on_request(repository, [SHARED, "person_gender"]) == []
    (repository.folder(SHARED) / "config.pbtxt").unlink()
    render_repository(repository)
    assert _network_config(repository) == before


def test_an_ensemble_without_built_networks_says_what_to_build(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    with pytest.raises(BuildersError, match=r"build --target cpu person_gender_reid$"):
        choose_models(repository, "cpu", [SHARED])
    name = "person_attributes_osnet"
    with pytest.raises(BuildersError, match="cpu person_gender_rmnet person_reid_osn"):
        choose_models(repository, "cpu", [name])
    assert not repository.folder(name).exists(), "its networks are not there"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    defaults = dict(compose.compose_ensemble.__kwdefaults__, folder=tmp_path)
    monkeypatch.setattr(compose.compose_ensemble, "__kwdefaults__", defaults)
    return tmp_path


def _compose(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["compose", *arguments])
    if result.exception is None or isinstance(result.exception, SystemExit):
        assert result.exit_code == code, result.output
        return result.output
    assert isinstance(result.exception, BuildersError), result.exception
    assert code == 1
    return str(result.exception)


def _load(path: Path) -> Ensemble:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module.MODEL, Ensemble)
    return module.MODEL


def test_compose_writes_an_ensemble_and_says_what_comes_next(folder: Path) -> None:
    models = "person_gender_rmnet,person_reid_kd_r34"
    output = _compose("my_pair", "--models", models)
    assert "my_pair: encoded_frame, raw_frame, frame_size, boxes -> " in output
    assert "python -m builders serve --model my_pair" in output
    expected = frame_ensemble("my_pair", (RMNET, R34))
    assert _load(folder / "my_pair.py") == expected
    _compose(
        *("my_crops", "--crops", "--models", "person_reid_kd_r18,person_reid_kd_r34"),
        *("--role", "person_reid_kd_r34.embedding=second"),
    )
    crops = _load(folder / "my_crops.py")
    assert crops.batched
    assert crops.outputs == ("embedding", "second")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("My-Pair", "--models", "person_gender"), "ensemble name 'My-Pair'"),
        (("class", "--models", "person_gender"), "no keyword of Python"),
        (("e" * 101, "--models", "person_gender"), "at most 100"),
        (
            ("e", "--models", "person_gender", "--role", 'x=y", **exit(), "z": "'),
            "role name 'y\", **exit()",
        ),
        (("e", "--models", "person_gendr"), "did you mean 'person_gender'"),
        (("e", "--models", ""), "at least one network"),
        (("e", "--models", "person_attributes"), "is an ensemble of models"),
        (("e", "--models", "kinship_pair"), "kinship_pair takes embedding_a"),
        (("se_resnet50", "--models", "person_gender"), "'se_resnet50' is there"),
        (("e", "--models", "person_gender", "--role", "x=y"), "no output x; there"),
    ],
)
def test_compose_refuses_what_does_not_fit(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in _compose(*arguments, code=1)
    assert list(folder.iterdir()) == []


def test_compose_replaces_a_file_only_by_force(folder: Path) -> None:
    (folder / "mine.py").write_text("# by hand\n")
    assert "--force replaces it" in _compose(
        "mine", "--models", "person_gender", code=1
    )
    assert (folder / "mine.py").read_text() == "# by hand\n"
    _compose("mine", "--models", "person_gender", "--force")
    assert _load(folder / "mine.py").outputs == ("female_probability",)
