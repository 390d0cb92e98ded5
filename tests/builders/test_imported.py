"""Imported ONNX files: every command works on them, or refuses the kind by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from builders.build import onnx_import
from builders.build.build import build
from builders.build.onnx_import import declaration_from_onnx
from builders.commands.app import app
from builders.errors import BuildersError
from builders.precision import timing
from builders.repository import layout
from builders.repository.frame_ensembles import frame_ensemble
from builders.repository.layout import Repository
from builders.spec.catalogue import catalogue
from builders.spec.ensemble import Ensemble, Step
from builders.spec.model import OnnxModel
from builders.tensors import SpecError, Tensor
from builders.weights import Checkpoint, file_sha256
from personserve.internal.files import write_text

REID, RAW = "my_reid", "my_raw"
SIZE_HW, LENGTH = (16, 8), 6


def _write_reid(path: Path) -> None:
    """Write a network of crops, with its normalisation inside and names of torch."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, LENGTH)).astype(np.float32)
    scale = np.array(1 / 255, np.float32)
    nodes = [
        helper.make_node("Cast", ["input.1"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["feat"]),
    ]
    _save(
        path,
        nodes,
        ("input.1", TensorProto.UINT8, ["N", *SIZE_HW, 3]),
        ("feat", TensorProto.FLOAT, ["N", LENGTH]),
        {"weights": weights, "scale": scale},
    )


def _write_raw(path: Path) -> None:
    """Write a network of normalised pixels, channels first."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    _save(
        path,
        nodes,
        ("x", TensorProto.FLOAT, ["N", 3, *SIZE_HW]),
        ("y", TensorProto.FLOAT, ["N", 3]),
        {},
    )


def _save(
    path: Path, nodes: list[Any], given: Any, computed: Any, weights: dict[str, Any]
) -> None:
    graph = helper.make_graph(
        nodes,
        "imported",
        [helper.make_tensor_value_info(*given)],
        [helper.make_tensor_value_info(*computed)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    paths = {REID: folder / "osnet.onnx", RAW: folder / "raw.onnx"}
    _write_reid(paths[REID])
    _write_raw(paths[RAW])
    return paths


@pytest.fixture(scope="module")
def declarations(files: dict[str, Path]) -> dict[str, OnnxModel]:
    return {name: declaration_from_onnx(path, name) for name, path in files.items()}


@pytest.fixture(autouse=True)
def repository(
    files: dict[str, Path],
    declarations: dict[str, OnnxModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Repository:
    """Both files are declared and built, in a repository of this test's own."""
    defaults = (tmp_path / "repository",)
    monkeypatch.setattr(layout.Repository.__init__, "__defaults__", defaults)
    # the files are tried once, above, and not for each test again
    monkeypatch.setattr(
        "builders.build.cpu.read_imported_file",
        lambda _model, origin: Path(origin.file).read_bytes(),
    )
    repository = Repository()
    for name, path in files.items():
        monkeypatch.setitem(catalogue(), name, declarations[name])
        origin = Checkpoint(str(path), file_sha256(path))
        build("cpu", declarations[name], origin, repository)
    return repository


def _command(*words: object, code: int = 0) -> str:
    """Run a command; return what it prints, or its error."""
    done = CliRunner().invoke(app, [*map(str, words)])
    if isinstance(done.exception, BuildersError):
        assert code == 1
        return str(done.exception)
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def test_inputs_that_are_crops_are_known(declarations: dict[str, OnnxModel]) -> None:
    (image,) = declarations[REID].images
    assert (image.name, image.tensor.shape) == ("input.1", (*SIZE_HW, 3))
    assert declarations[RAW].images == ()
    (output,) = declarations[REID].outputs
    assert (output.name, output.size) == ("feat", LENGTH)


def test_verify_compares_with_onnx_runtime(repository: Repository) -> None:
    for name, output in ((REID, "feat"), (RAW, "y")):
        text = _command("verify", name)
        assert "compared with ONNX Runtime" in text
        assert f"passed {name} {output}: max abs" in text
        record = repository.record(repository.artefact_path(name, "model.onnx")) or {}
        assert record["parity"][0]["passed"]
    assert "my_raw" in _command("verify"), "all that is built"

    # another file under the same declaration is noticed
    path = repository.artefact_path(REID, "model.onnx")
    record = repository.record(path) or {}
    changed = onnx.load(str(path))
    (weights,) = (t for t in changed.graph.initializer if t.name == "weights")
    array = onnx.numpy_helper.to_array(weights) * np.float32(1.01)
    weights.CopyFrom(onnx.numpy_helper.from_array(array, "weights"))
    path.write_bytes(changed.SerializeToString())
    write_text(
        path.with_name("model.onnx.json"),
        json.dumps(record | {"sha256": file_sha256(path)}),
    )
    text = _command("verify", REID, code=1)
    assert "outside tolerance: my_reid" in text


def test_a_saved_reference_serves_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    _command("reference", REID, "--output", path)
    assert "passed my_reid feat" in _command("verify", REID, "--reference", path)


def test_evaluate_reads_crops(tmp_path: Path) -> None:
    root = tmp_path / "market"
    rng = np.random.default_rng(0)
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
    for person in range(1, 5):
        colour = rng.integers(0, 256, 3)
        for folder, camera in (("query", 1), ("bounding_box_test", 2)):
            image = np.full((*SIZE_HW, 3), colour, np.uint8)
            name = f"{person:04}_c{camera}s1_000001_00.png"
            cv2.imwrite(str(root / folder / name), image)
    output = tmp_path / "out"
    text = _command("evaluate", REID, root, "--compare", "--output", output)
    assert "rank-1 1.0000" in text
    run = output / REID / "market-test" / "onnx"
    assert np.load(run / "feat.npy").shape == (8, LENGTH)
    assert (run / "report.html").is_file()
    refused = _command("evaluate", REID, root, "--with", "torch", code=1)
    assert "my_reid is an imported ONNX file" in refused
    assert "--with onnx" in refused
    refused = _command("evaluate", RAW, root, code=1)
    assert "takes x FP32 [3, 16, 8]" in refused


def test_a_data_set_of_classes_needs_their_output(tmp_path: Path) -> None:
    for label in ("male", "female"):
        (tmp_path / label).mkdir()
        image = np.zeros((*SIZE_HW, 3), np.uint8)
        cv2.imwrite(str(tmp_path / label / "a.png"), image)
    refused = _command("evaluate", REID, tmp_path, code=1)
    assert "my_reid computes feat from 1 image" in refused
    assert "one of these classes (male, female)" in refused


def test_deepstream_takes_one_crop() -> None:
    assert 'tensor_name: "input.1"' in _command("deepstream", REID)
    refused = _command("deepstream", RAW, code=1)
    assert "does not take one crop of a person" in refused
    assert "it takes x FP32 [3, 16, 8]" in refused


def test_report_measures_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SECONDS_PER_BATCH", 0.0)
    monkeypatch.setattr(timing, "LARGEST_BATCH", 2)
    monkeypatch.setattr(onnx_import, "_read_and_try", lambda path, _: path.read_bytes())
    options = ("--precision", "fp32", "--precision", "int8", "--output", tmp_path)
    text = _command("report", RAW, *options)
    assert "file://" in text
    rows = json.loads((tmp_path / RAW / "report.json").read_text())["rows"]
    assert [(r["runner"], r["precision"], bool(r["ms"])) for r in rows] == [
        ("ONNX Runtime", "fp32", True),
        ("OpenVINO", "fp32", True),
        ("ONNX Runtime", "int8", False),
        ("OpenVINO", "int8", False),
    ]
    assert "quantise the file and import that" in rows[-1]["parity"]
    assert "--target cpu" in _command("report", RAW, "--target", "torch", code=1)


@pytest.mark.parametrize("command", ["calibrate", "sensitivity", "finetune-int8"])
def test_int8_is_placed_in_declared_networks_only(command: str) -> None:
    images = ["--images", "."] if command != "sensitivity" else []
    text = _command(command, REID, *images, code=1)
    assert "my_reid is an imported ONNX file" in text
    assert "import the result" in text


def test_an_ensemble_refuses_imported_steps_that_take_or_give_something_else(
    declarations: dict[str, OnnxModel],
) -> None:
    wide = replace(declarations[REID], output_tensors=(Tensor("feat", "FP32", (-1,)),))
    for model, reason in (
        (declarations[RAW], r"step my_raw is an imported .* \[height, width, 3\]"),
        (wide, r"step my_reid is an imported .*expected FP32 of fixed sizes"),
    ):
        (given,), (answer,) = model.inputs, model.output_tensors
        step = Step(model, {given.name: "c"}, {answer.name: "e"})
        with pytest.raises(SpecError, match=reason):
            Ensemble("mine", (step,), ("e",), batched=False)


def test_an_imported_network_of_crops_stands_behind_a_frame(
    declarations: dict[str, OnnxModel],
) -> None:
    roles = {f"{REID}.feat": "embedding"}
    ensemble = frame_ensemble("mine", [declarations[REID]], roles=roles)
    assert ensemble.output_tensors == (Tensor("embedding", "FP32", (-1, LENGTH)),)
    (preprocessing,) = ensemble.python_models
    assert preprocessing.name == "preprocess_16x8_linear"
