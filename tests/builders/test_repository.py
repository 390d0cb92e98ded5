"""Rendering, building and discovery."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from builders import build as building
from builders import readme
from builders.catalogue import catalogue, models
from builders.config import config_text
from builders.parity import ParityError
from builders.repository import ROOT, Repository
from builders.spec import Network
from builders.weights import CheckpointError, Origin, StandIn, stand_in_weights
from personserve._files import atomic_write

(GENDER,) = models(["person_gender"])


def _build(origin: Origin, repository: Repository) -> building.Built:
    options = building.BuildOptions()
    return building.build(
        "cpu", GENDER, origin, repository, options, lambda _doing: None
    )


def test_committed_configs_are_what_the_declarations_say() -> None:
    assert building.render(Repository(), check=True) == []


def test_the_readmes_table_is_what_the_declarations_say(tmp_path: Path) -> None:
    assert readme.render(Repository(), check=True) == []
    path = tmp_path / "README.md"
    path.write_text(f"a\n{readme.BEGIN}stale\n{readme.END}b\n")
    assert readme.render(Repository(), path, check=True) == [path]
    assert readme.render(Repository(), path) == [path]
    text = path.read_text()
    assert "stale" not in text
    assert text.startswith("a\n")
    assert text.endswith("b\n")
    for model in models():
        assert f"`{model.name}`" in text
    assert "23.54 M | 6.088" in text


def test_a_drifted_config_is_noticed_and_mended(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    building.render(repository)
    config = tmp_path / "person_gender" / "config.pbtxt"
    config.write_text(config.read_text().replace("224", "225"))
    assert building.render(repository, check=True) == [config]
    assert "225" in config.read_text()
    building.render(repository)
    assert building.render(repository, check=True) == []


def test_targets_differ_in_execution_only(repository: Repository) -> None:
    folder = repository.folder("person_gender")
    read = []
    for path in (folder / "config.pbtxt", *sorted((folder / "configs").iterdir())):
        config = model_config_pb2.ModelConfig()
        text_format.Parse(path.read_text(), config)
        read.append((config.input, config.output, config.max_batch_size, config.name))
        assert config.HasField("dynamic_batching") == (path.name != "cpu.pbtxt")
        assert config.parameters["female_probability.labels"].string_value
        assert "untrained" in config.parameters["weights"].string_value
    assert len(read) == 5
    assert all(config == read[0] for config in read)


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(Exception, match="max_batchsize"):
        config_text({"max_batchsize": 3})


def test_a_model_is_found_by_its_file_alone() -> None:
    files = {path.stem for path in (ROOT / "builders" / "models").glob("[!_]*.py")}
    assert files == {n for n, d in catalogue().items() if isinstance(d, Network)}
    assert files - {"kinship_concat"} == {model.name for model in models()}
    with pytest.raises(KeyError, match=r"there are: .*person_gender,"):
        models(["person_gendre"])


def test_unchanged_inputs_are_not_built_again(repository: Repository) -> None:
    path = repository.built("person_gender", "model.onnx")
    before = path.stat().st_mtime_ns
    built = _build(StandIn(), repository)
    assert not built.fresh
    assert path.stat().st_mtime_ns == before


def test_a_damaged_artefact_is_built_again(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    _build(StandIn(), repository)
    path = repository.built("person_gender", "model.onnx")
    path.write_bytes(path.read_bytes()[:1000])
    assert _build(StandIn(), repository).fresh


def test_a_checkpoint_is_recorded_and_shown(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    building.render(repository)
    path = tmp_path / "gender.pth"
    arrays = stand_in_weights(GENDER, seed=5).arrays
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, path)
    origin = building.choose_weights(GENDER, repository, path, stand_in=False)
    _build(origin, repository)

    record = json.loads((repository.folder(GENDER.name) / "weights.json").read_text())
    assert record["file"] == str(path)
    config = (repository.folder(GENDER.name) / "configs" / "cpu.pbtxt").read_text()
    assert record["sha256"] in config
    assert "untrained" not in config
    ensemble = (repository.folder("person_attributes") / "config.pbtxt").read_text()
    assert "person_reid_kd_r18" in ensemble.split("stand_in_weights")[1]
    assert "person_gender" not in ensemble.split("stand_in_weights")[1].split("}")[0]

    path.unlink()
    with pytest.raises(CheckpointError, match="is not here"):
        building.choose_weights(GENDER, repository, None, stand_in=False)
    stand_in = building.choose_weights(GENDER, repository, None, stand_in=True)
    assert stand_in == StandIn()


def test_a_build_outside_tolerance_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builders.ops.onnx import OnnxOps

    monkeypatch.setattr(OnnxOps, "relu", lambda _self, x: x)
    repository = Repository(tmp_path)
    with pytest.raises(ParityError, match="differs from the torch reference"):
        _build(StandIn(), repository)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_broken_write_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")

    def break_off() -> None:
        with atomic_write(path) as partial:
            partial.write_text("ne")
            raise error

    with pytest.raises(error):
        break_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_build_left_is_cleaned_up(tmp_path: Path) -> None:
    stale = tmp_path / ".model.onnx.abc.partial"
    stale.write_text("half")
    with atomic_write(tmp_path / "model.onnx") as partial:
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
