"""Commands: errors of users in one line, bugs as tracebacks, help texts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from builders.build import build as building
from builders.commands import app as commands_app
from builders.commands import models as model_commands
from builders.commands.app import app, run, show_progress
from builders.errors import BuildersError
from builders.repository import layout
from builders.repository.built_files import BuiltFile, list_built_files
from builders.repository.layout import ROOT
from builders.spec.catalogue import models
from builders.spec.model import OnnxModel

SERVER = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def empty_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands work on a repository of this test's own."""
    defaults = (tmp_path / "repository",)
    monkeypatch.setattr(layout.Repository.__init__, "__defaults__", defaults)
    return defaults[0]


def _run(
    arguments: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[int, str]:
    """Run `python -m builders` in this process: (exit code, standard error)."""
    monkeypatch.setattr(sys, "argv", ["builders", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        run()
    code = exit_info.value.code
    assert isinstance(code, int)
    return code, capfd.readouterr().err


MISTAKES = {
    "unknown model": (["build", "person_gendre"], 1, "person_gender"),
    "unknown model for verify": (["verify", "nobody"], 1, "unknown model 'nobody'"),
    "unknown model for report": (["report", "nobody"], 1, "unknown model 'nobody'"),
    "unknown target": (["build", "--target", "tpu"], 2, "expected cpu, tensorrt, rtx"),
    "unknown precision": (["build", "--precision", "fp8"], 2, "expected fp32"),
    "nothing built": (["verify"], 1, "no model is built for cpu"),
    "no such checkpoint": (
        ["build", "person_gender", "--weights", "no.pth"],
        1,
        "no.pth: no such file",
    ),
    "two models for one checkpoint": (["build", "--weights", "no.pth"], 1, "name the"),
    "no INT8 table": (
        ["build", "person_gender", "--precision", "int8"],
        1,
        "no INT8 table yet",
    ),
    "no such ONNX file": (["import", "no.onnx", "--name", "new"], 1, "cannot be read"),
    "not an ONNX file": (["import", __file__, "--name", "new"], 1, "not an ONNX file"),
    "a reference without a model": (
        ["verify", "--reference", "no.npz"],
        1,
        "for exactly one MODEL",
    ),
    "no such reference": (
        ["verify", "person_gender", "--reference", "no.npz"],
        1,
        "not a saved reference",
    ),
    "no such data set": (["evaluate", "person_gender", "no-such-folder"], 1, "no-such"),
    "not a checkpoint": (["inspect", __file__], 1, "expected one of"),
    "a checkpoint of no known format": (
        ["convert", "a.pth", "b.onnx"],
        1,
        "b.onnx: expected one of .pth, .pt, .safetensors, .wts, .npz, got '.onnx'",
    ),
    "no such images": (
        ["calibrate", "person_gender", "--images", "no-such-folder"],
        1,
        "no-such-folder",
    ),
}


@pytest.mark.parametrize(
    ("arguments", "code", "message"), MISTAKES.values(), ids=MISTAKES
)
def test_a_mistake_is_one_message_without_a_traceback(
    arguments: list[str],
    code: int,
    message: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exit_code, text = _run(arguments, capfd, monkeypatch)
    assert exit_code == code
    assert message in " ".join(text.replace("│", " ").split())
    assert "Traceback" not in text
    if code == 1:
        assert text.count("\n") == 1
        assert text.startswith("error: ")


def test_a_corrupt_weights_json_is_one_message(
    empty_repository: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = empty_repository / "kinship_pair" / "weights.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"file": "gender.pth"}))
    for command in (["build", "kinship_pair"], ["doctor"], ["list"]):
        code, text = _run(command, capfd, monkeypatch)
        assert code == 1
        assert "weights.json: expected {file, sha256}" in text
        assert "Traceback" not in text


def test_without_a_server_the_doctor_says_so() -> None:
    result = CliRunner().invoke(app, ["doctor", "--server", SERVER])
    assert result.exit_code == 1
    assert f"server {SERVER}: does not answer" in result.output


def test_an_absent_server_is_one_message(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for label in ("female", "male"):
        (tmp_path / label).mkdir()
        shutil.copyfile(
            Path(__import__("skimage").__file__).parent / "data" / "astronaut.png",
            tmp_path / label / "a.png",
        )
    arguments = ["evaluate", "person_gender", str(tmp_path), "--with", "server"]
    code, text = _run(
        [*arguments, "--server", SERVER, "--output", str(tmp_path / "out")],
        capfd,
        monkeypatch,
    )
    assert code == 1
    assert text.startswith("error: ")
    assert "Traceback" not in text


def test_a_bug_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(building, "choose_weights", broken)
    monkeypatch.setattr(sys, "argv", ["builders", "build", "kinship_pair"])
    with pytest.raises(KeyError, match="planted"):
        run()


def test_imported_onnx_models_are_refused_by_name(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair,) = models(["kinship_pair"])
    imported = OnnxModel("my_reid", pair.source, pair.inputs, pair.output_tensors)
    monkeypatch.setattr(commands_app, "networks", lambda _names: [imported])
    for command in (
        ["verify", "my_reid"],  # no file was built
        ["sensitivity", "my_reid"],
        ["report", "my_reid"],
        ["reference", "my_reid", "--output", "no.npz"],
        ["calibrate", "my_reid"],
        ["finetune-int8", "my_reid", "--images", "."],
    ):
        code, text = _run(command, capfd, monkeypatch)
        assert code == 1
        assert "my_reid is an imported ONNX file" in text


def test_render_check_finds_a_stale_file(empty_repository: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["render"]).exit_code == 0
    config = empty_repository / "person_gender" / "config.pbtxt"
    config.write_text("stale")
    result = runner.invoke(app, ["render", "--check"])
    assert result.exit_code == 1
    assert "config.pbtxt" in result.output
    assert config.read_text() == "stale"


def test_build_prints_a_line_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    first = runner.invoke(app, ["build", "kinship_pair"])
    assert first.exit_code == 0
    assert "built      kinship_pair: fp32 by onnxruntime" in first.output
    again = runner.invoke(app, ["build", "kinship_pair"])
    assert "up to date kinship_pair" in again.output
    verified = runner.invoke(app, ["verify", "kinship_pair"])
    assert "passed kinship_pair related_probability: max abs" in verified.output
    assert "Stand-in weights: untrained" in verified.output
    monkeypatch.setattr(model_commands, "console", Console(width=160))
    lines = runner.invoke(app, ["list"]).output.splitlines()
    assert lines[0].split()[4:] == [*model_commands.FILE_COLUMNS]
    rows = {line.split()[0]: line.split() for line in lines}
    built = ["cpu", "fp32", "onnxruntime", "stand-in", "1", "now"]
    assert rows["kinship_pair"] == ["kinship_pair", "0.07", "M", "0.00", *built]
    assert rows["kinship_compact"][-2:] == ["-", "stand-in"], "not built"


def test_each_version_and_target_is_listed(empty_repository: Path) -> None:
    repository = layout.Repository()
    moment = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)

    def write(number: int, file: str, age: timedelta, **facts: object) -> None:
        path = empty_repository / "m" / str(number) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"built")
        origin = f"gender.pth, sha256 {'ab12' * 16}"
        built = (moment - age).isoformat()
        repository.write_record(
            path, {"inputs": {"weights": origin}, "built": built, **facts}
        )

    write(1, "model.onnx", timedelta(days=3), runtime="onnxruntime")
    write(2, "model.onnx", timedelta(hours=5), runtime="openvino", precision="int8")
    plan = {"library": "TensorRT-RTX", "version": "1.7", "precision": "fp16"}
    write(2, "model.plan", timedelta(minutes=7), **plan)
    weights = "gender.pth ab12ab12"
    assert list_built_files(repository, "m", moment) == [
        BuiltFile(2, "cpu", "int8", "openvino", weights, "5 h"),
        BuiltFile(2, "rtx", "fp16", "TensorRT-RTX 1.7", weights, "7 min"),
        BuiltFile(1, "cpu", "fp32", "onnxruntime", weights, "3 d"),
    ]


@pytest.mark.parametrize("command", ["calibrate", "sensitivity", "finetune-int8"])
def test_int8_of_untrained_weights_is_announced(command: str) -> None:
    images = ["--images", "."] if command == "finetune-int8" else []
    done = CliRunner().invoke(app, [command, "person_gender", *images])
    assert isinstance(done.exception, BuildersError), "no table, or no images"
    assert "Stand-in weights: untrained" in done.output


def test_every_option_has_a_help_text() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert command.help, name
        for parameter in command.params:
            if parameter.name != "help":
                assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_progress_has_known_and_unknown_lengths() -> None:
    with show_progress() as progress:
        progress("reading")
        for done in range(3):
            progress("measuring", done, 3)
        progress("writing")


def test_the_module_is_not_shadowed_by_the_application() -> None:
    assert commands_app.__name__ == "builders.commands.app"
    assert model_commands.app is app


def test_help_of_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "builders", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("build", "verify", "doctor", "evaluate", "serve", "inspect"):
        assert command in done.stdout
