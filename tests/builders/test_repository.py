"""Rendering, building and discovery."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from builders.build.build import BuildResult, build
from builders.build.weights_choice import choose_weights
from builders.repository import model_table, versions
from builders.repository.config import (
    COMMITTED_CORES,
    GPU_PROCESSES,
    config_text,
    render_configs,
)
from builders.repository.layout import ROOT, Repository
from builders.repository.render import render_for_cores, render_repository
from builders.serve.errors import ServeError
from builders.serve.tritonserver import TritonServer
from builders.spec.catalogue import UnknownModelError, catalogue, models, networks
from builders.spec.execution import PlanExecution
from builders.spec.model import Network
from builders.verify.reference import VerificationError
from builders.weights import (
    Checkpoint,
    CheckpointError,
    Origin,
    StandIn,
    file_sha256,
    stand_in_weights,
    write_checkpoint,
)
from personserve.internal.files import atomic_write

(GENDER,) = models(["person_gender"])


def _build(origin: Origin, repository: Repository) -> BuildResult:
    return build("cpu", GENDER, origin, repository)


def test_committed_configs_are_what_the_declarations_say() -> None:
    assert render_repository(Repository(), check=True) == []


def test_the_readmes_table_is_what_the_declarations_say(tmp_path: Path) -> None:
    assert model_table.render_model_tables(check=True) == []
    path = tmp_path / "README.md"
    path.write_text(f"a\n{model_table.BEGIN}stale\n{model_table.END}b\n")
    pages = {path: model_table.format_short_table}
    assert model_table.render_model_tables(pages, check=True) == [path]
    assert model_table.render_model_tables(pages) == [path]
    text = path.read_text()
    assert "stale" not in text
    assert text.startswith("a\n")
    assert text.endswith("b\n")
    for model in models():
        assert f"`{model.name}`" in text
    assert "23.54 M | 6.088" in text


def test_a_drifted_config_is_noticed_and_mended(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    config = tmp_path / "person_gender" / "config.pbtxt"
    config.write_text(config.read_text().replace("224", "225"))
    assert render_repository(repository, check=True) == [config]
    assert "225" in config.read_text()
    render_repository(repository)
    assert render_repository(repository, check=True) == []


def test_targets_differ_in_execution_only(repository: Repository) -> None:
    folder = repository.folder("person_gender")
    read = []
    # those with a number belong to this machine; a server may have written them
    targets = sorted((folder / "configs").glob("*[!0-9].pbtxt"))
    for path in (folder / "config.pbtxt", *targets):
        config = model_config_pb2.ModelConfig()
        text_format.Parse(path.read_text(), config)
        read.append((config.input, config.output, config.max_batch_size, config.name))
        assert config.HasField("dynamic_batching") == (path.name != "cpu.pbtxt")
        assert config.parameters["female_probability.labels"].string_value
        assert "untrained" in config.parameters["weights"].string_value
    assert len(read) == 5
    assert all(config == read[0] for config in read)


def test_instance_counts_follow_the_machine(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    render_for_cores(repository, 16)

    def counts(model: str, config: str) -> list[int]:
        parsed = model_config_pb2.ModelConfig()
        text_format.Parse((tmp_path / model / config).read_text(), parsed)
        return [group.count for group in parsed.instance_group]

    assert counts("person_gender", "configs/cpu.pbtxt") == [COMMITTED_CORES]
    assert counts("person_gender", "configs/cpu-16.pbtxt") == [16]
    assert counts("person_preprocess", "configs/cpu-16.pbtxt") == [16]
    assert counts("person_preprocess", "configs/onnxruntime-16.pbtxt") == [16]
    assert counts("person_preprocess", "configs/tensorrt-16.pbtxt") == [GPU_PROCESSES]
    assert counts("person_gender", "configs/rtx-16.pbtxt") == [1]
    assert not (tmp_path / "person_attributes" / "configs").exists()


def test_local_configs_are_kept_up_to_date_and_not_checked(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    render_for_cores(repository, 16)
    path = tmp_path / "person_gender" / "configs" / "cpu-16.pbtxt"
    path.write_text(path.read_text().replace("224", "225"))
    assert render_repository(repository, check=True) == []
    assert path in render_repository(repository)
    assert "225" not in path.read_text()


def test_a_model_on_request_is_rendered_once_it_is_built(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    assert not repository.folder("kinship_concat").exists()
    repository.store("kinship_concat", "model.onnx", b"onnx", {})
    render_repository(repository)
    assert (repository.folder("kinship_concat") / "config.pbtxt").is_file()


def test_rendered_python_files_import_no_package_of_ours(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    paths = list(tmp_path.glob("*/1/*.py"))
    assert len(paths) > len(models())
    for path in paths:
        modules = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for name in [node.module.partition(".")[0]]
        }
        assert not modules & {"builders", "personserve", "ensembles"}, path


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(Exception, match="max_batchsize"):
        config_text({"max_batchsize": 3})


def test_a_model_is_found_by_its_file_alone() -> None:
    files = {path.stem for path in (ROOT / "builders" / "models").glob("[!_]*.py")}
    assert files == {n for n, d in catalogue().items() if isinstance(d, Network)}
    on_request = {n for n in files if networks([n])[0].on_request}
    assert files - on_request == {model.name for model in models()}
    with pytest.raises(UnknownModelError, match=r"one of: .*person_gender,"):
        models(["person_gendre"])


def test_unchanged_inputs_are_not_built_again(repository: Repository) -> None:
    path = repository.artefact_path("person_gender", "model.onnx")
    before = path.stat().st_mtime_ns
    built = _build(StandIn(), repository)
    assert not built.rebuilt
    assert path.stat().st_mtime_ns == before


def test_a_damaged_artefact_is_built_again(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    _build(StandIn(), repository)
    path = repository.artefact_path("person_gender", "model.onnx")
    path.write_bytes(path.read_bytes()[:1000])
    assert _build(StandIn(), repository).rebuilt


def test_a_built_file_counts_only_with_its_record(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    repository.store(GENDER.name, "model.onnx", b"onnx", {})
    path = repository.artefact_path(GENDER.name, "model.onnx")
    record = path.with_name("model.onnx.json")
    assert repository.is_built(GENDER, "cpu")
    assert GENDER.name in TritonServer(repository).loaded

    path.write_bytes(b"0nnx")
    assert not repository.is_built(GENDER, "cpu")
    with pytest.raises(
        ServeError, match=r"model.onnx: .*not the file .*cpu person_gen"
    ):
        TritonServer(repository)
    path.write_bytes(b"onnx")
    record.unlink()
    assert not repository.is_built(GENDER, "cpu")
    with pytest.raises(ServeError, match="has no record"):
        TritonServer(repository, models=[GENDER.name])


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_changed_file_becomes_a_version_beside_the_old_one(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    name = GENDER.name
    render_repository(repository)
    repository.store(name, "model.onnx", b"1", {})
    repository.store(name, "model.plan", b"plan", {})
    assert repository.version(name) == 1
    first = _contents(tmp_path / name / "1")
    repository.store(name, "model.onnx", b"2", {})
    assert repository.version(name) == 2
    assert _contents(tmp_path / name / "1") == first
    second = _contents(tmp_path / name / "2")
    assert second.keys() == first.keys()
    changed = {file for file in first if first[file] != second[file]}
    assert changed == {"model.onnx", "model.onnx.json"}
    assert repository.is_built(GENDER, "cpu")
    assert repository.is_built(GENDER, "tensorrt")
    assert repository.previous_version(name, "model.onnx", 2) == 1


def test_old_versions_are_removed_and_numbers_are_not_used_again(
    tmp_path: Path,
) -> None:
    repository = Repository(tmp_path)
    name = GENDER.name
    folder = tmp_path / name
    render_repository(repository)
    for data in (b"1", b"2", b"3"):
        repository.store(name, "model.onnx", data, {})
    assert versions.hide_versions(folder, above=1) == [2, 3]
    assert repository.version(name) == 1
    assert repository.previous_version(name, "model.onnx", 1) is None
    versions.show_version(folder, 2)
    assert repository.version(name) == 2
    assert versions.hide_versions(folder, 1, versions.PENDING) == [2]
    assert versions.latest_pending(folder) == 2
    versions.show_version(folder, 2)
    assert versions.latest_pending(folder) is None
    for data in (b"4", b"5"):
        repository.store(name, "model.onnx", data, {})
    assert versions.list_versions(folder) == [1, 2, 4, 5]
    assert {path.suffix for path in (folder / "1").iterdir()} == {".py"}, "committed"
    assert not list(folder.glob("withdrawn-*"))
    repository.store(name, "model.onnx", b"6", {})
    assert versions.list_versions(folder) == [1, 4, 5, 6]
    assert render_repository(repository) == []
    (folder / "5" / "cpu_model.py").unlink()
    assert render_repository(repository) == [folder / "5" / "cpu_model.py"]


def test_a_build_that_fails_leaves_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(tmp_path)
    repository.store(GENDER.name, "model.onnx", b"1", {})
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*")}

    def refuse(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Repository, "write_record", refuse)
    with pytest.raises(OSError, match="No space"):
        repository.store(GENDER.name, "model.onnx", b"2", {})
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("place", "recorded"),
    [("elsewhere/a.npz", "a.npz"), ("project/w/a.npz", "w/a.npz")],
)
def test_weights_json_has_no_path_of_this_machine(
    place: str, recorded: str, tmp_path: Path
) -> None:
    """And the checkpoint is found again, as long as it is where it was."""
    (model,) = models(["kinship_pair"])
    repository = Repository(tmp_path / "project" / "models")
    render_repository(repository)
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, ".npz", stand_in_weights(model, seed=5).arrays)
    build(
        "cpu",
        model,
        choose_weights(model, repository, path, stand_in=False),
        repository,
    )
    text = (repository.folder(model.name) / "weights.json").read_text()
    assert json.loads(text)["file"] == recorded
    assert str(tmp_path) not in text
    assert choose_weights(model, repository, None, stand_in=False) == Checkpoint(
        str(path), file_sha256(path)
    )
    moved = path.rename(tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match=r"a\.npz is not here; pass --weights"):
        choose_weights(model, repository, None, stand_in=False)
    origin = choose_weights(model, repository, moved, stand_in=False)
    assert not build("cpu", model, origin, repository).rebuilt
    assert choose_weights(model, repository, None, stand_in=False) == origin


def test_a_checkpoint_is_recorded_and_shown(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    render_repository(repository)
    path = tmp_path / "gender.pth"
    arrays = stand_in_weights(GENDER, seed=5).arrays
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, path)
    origin = choose_weights(GENDER, repository, path, stand_in=False)
    _build(origin, repository)

    record = json.loads((repository.folder(GENDER.name) / "weights.json").read_text())
    assert record["file"] == path.name
    config = (repository.folder(GENDER.name) / "configs" / "cpu.pbtxt").read_text()
    assert record["sha256"] in config
    assert "untrained" not in config
    ensemble = (repository.folder("person_attributes") / "config.pbtxt").read_text()
    assert "person_reid_kd_r18" in ensemble.split("stand_in_weights")[1]
    assert "person_gender" not in ensemble.split("stand_in_weights")[1].split("}")[0]

    path.unlink()
    with pytest.raises(CheckpointError, match="is not here"):
        choose_weights(GENDER, repository, None, stand_in=False)
    stand_in = choose_weights(GENDER, repository, None, stand_in=True)
    assert stand_in == StandIn()


def test_a_build_outside_tolerance_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builders.ops.onnx import OnnxOps

    monkeypatch.setattr(OnnxOps, "relu", lambda _self, x: x)
    repository = Repository(tmp_path)
    with pytest.raises(VerificationError, match="differs from the torch reference"):
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


def test_two_processes_may_write_a_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    with atomic_write(path) as first:
        first.write_text("first")
        with atomic_write(path) as second:
            second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_plan_execution_is_rendered_for_the_native_backend_alone(
    tmp_path: Path,
) -> None:
    execution = PlanExecution(graph_batch_sizes=(1, 8), busy_wait_events=True)
    declared = replace(GENDER, execution=execution)
    configs = {}
    for path, text in render_configs(declared, Repository(tmp_path)):
        configs[path.stem] = model_config_pb2.ModelConfig()
        text_format.Parse(text, configs[path.stem])
    cuda = configs["config"].optimization.cuda
    assert cuda.graphs
    assert cuda.busy_wait_events
    assert not cuda.output_copy_stream
    assert [each.batch_size for each in cuda.graph_spec] == [1, 8]
    assert [list(each.input["crops"].dim) for each in cuda.graph_spec] == [
        [224, 224, 3],
        [224, 224, 3],
    ]
    others = {name for name, each in configs.items() if each.HasField("optimization")}
    assert others == {"config"}, "Python models run the plan themselves elsewhere"
