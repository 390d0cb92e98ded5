"""The doctor: deployed models, missing files and packages, and grouped stand-ins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from typing_extensions import Self

from builders.build.build import build
from builders.commands.app import app
from builders.doctor import Problem, find_problems, packages, vulnerabilities
from builders.doctor import server as doctor_server
from builders.repository import layout
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.spec.catalogue import models
from builders.weights import StandIn
from personserve import ModelState

(PAIR,) = models(["kinship_pair"])
PREPROCESSING = ("cv2", "simplejpeg")


@pytest.fixture(autouse=True)
def _no_tritonserver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its published vulnerabilities are tested in test_vulnerabilities.py."""
    monkeypatch.setattr(vulnerabilities, "find_triton_version", lambda: None)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A rendered repository in which only kinship_pair is built, for the CPU."""
    repository = Repository(tmp_path)
    render_repository(repository)
    build("cpu", PAIR, StandIn(), repository)
    return repository


def _texts(repository: Repository, **options: Any) -> list[str]:
    return [str(problem) for problem in find_problems(repository, **options)]


def test_models_without_a_file_are_named_in_one_line(repository: Repository) -> None:
    (text,) = (t for t in _texts(repository) if "does not exist" in t)
    assert text.startswith("model.onnx of kinship_compact, kinship_embedding, person_")
    assert "kinship_pair" not in text
    assert "kinship_concat" not in text, "on request and not built, so not deployed"
    assert "python -m builders build --target cpu MODEL" in text


def test_a_target_can_be_asked_for(repository: Repository) -> None:
    (text,) = (
        t for t in _texts(repository, target="tensorrt") if "does not exist" in t
    )
    assert text.startswith("model.plan of ")
    assert "kinship_pair" in text


def test_only_deployed_models_are_judged(repository: Repository) -> None:
    for folder in repository.root.iterdir():
        if folder.name != PAIR.name:
            shutil.rmtree(folder)
    texts = _texts(repository)
    assert not any("does not exist" in text for text in texts)
    assert texts[-1].startswith("kinship_pair: stand-in weights")


def test_a_repository_without_built_files_says_so(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render_repository(repository)
    assert any("no model is built" in text for text in _texts(repository))


def test_stand_ins_are_one_line_after_everything_else(repository: Repository) -> None:
    texts = _texts(repository)
    assert [("stand-in weights" in text) for text in texts].count(True) == 1
    assert "stand-in weights" in texts[-1]


def test_missing_packages_of_the_server_are_named(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("Python module" in text for text in _texts(repository))
    find_spec = packages.find_spec
    missing = {*PREPROCESSING, "onnxruntime"}
    monkeypatch.setattr(
        packages, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    texts = [text for text in _texts(repository) if "Python module" in text]
    assert [text.split(": ")[0] for text in texts] == [
        "person_preprocess",
        "kinship_pair",
        "person_preprocess",
    ]
    assert all("server-side" in text for text in texts)
    container = _texts(repository, container="26.08")
    assert not any("Python module" in text for text in container)


def test_numpy_2_with_the_wheel_is_named(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builders.serve import wheel

    monkeypatch.setattr(packages.shutil, "which", lambda _name: None)
    monkeypatch.setattr(packages, "find_spec", lambda _name: object())
    monkeypatch.setattr(wheel, "version", lambda _name: "2.1.0")
    assert any("NumPy 2.1.0 is installed" in text for text in _texts(repository))


def test_a_file_built_by_other_code_is_named(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builders.doctor import artefacts

    assert not any("built by other code" in text for text in _texts(repository))
    monkeypatch.setattr(artefacts, "graph_digest", lambda *_arguments: "other")
    texts = [text for text in _texts(repository) if "built by other code" in text]
    assert [text.split(": ")[0] for text in texts] == ["kinship_pair/model.onnx"]


def _severities(repository: Repository, **options: Any) -> dict[str, str]:
    """Severity by the first word of each problem."""
    problems = find_problems(repository, **options)
    return {problem.subject.split()[0]: problem.severity for problem in problems}


@pytest.fixture
def command(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`python -m builders doctor` on that repository."""
    defaults = (repository.root,)
    monkeypatch.setattr(layout.Repository.__init__, "__defaults__", defaults)
    monkeypatch.setattr(layout, "REPOSITORY", repository.root)
    return lambda *words: CliRunner().invoke(app, ["doctor", *words])


def test_what_is_not_built_and_stand_ins_are_warnings(
    repository: Repository, command: Any
) -> None:
    assert _severities(repository) == {"model.onnx": "warning", PAIR.name: "warning"}
    done = command()
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines] == ["warning", "warning", "2"]
    assert lines[-1] == "2 warnings"


def test_faults_of_deployed_models_are_errors(
    repository: Repository, command: Any
) -> None:
    (repository.folder(PAIR.name) / "config.pbtxt").write_text("stale")
    (repository.folder("kinship_compact") / "config.pbtxt").write_text("stale")
    severities = _severities(repository)
    assert severities[f"{PAIR.name}/config.pbtxt"] == "error"
    assert severities["kinship_compact/config.pbtxt"] == "warning", "not deployed"
    done = command("--json")
    assert done.exit_code == 1
    problems = json.loads(done.output)["problems"]
    assert problems[0]["subject"] == f"{PAIR.name}/config.pbtxt"
    assert [p["severity"] for p in problems] == ["error", *["warning"] * 3]
    named = command("--json", "--model", PAIR.name)
    assert [p["severity"] for p in json.loads(named.output)["problems"]] == [
        "error",
        "warning",
    ], "nothing about models that were not named"


def test_named_models_must_be_built(repository: Repository, command: Any) -> None:
    assert _severities(repository, models=[PAIR.name]) == {PAIR.name: "warning"}
    done = command("--model", "kinship_compact", "--model", PAIR.name)
    assert done.exit_code == 1
    assert "error    model.onnx of kinship_compact: does not exist" in done.output
    asked = _severities(repository, target="cpu")
    assert asked["model.onnx"] == "error", "named by its target"
    wrong = command("--model", "nobody")
    assert "unknown model 'nobody'" in str(wrong.exception)


class _Server:
    """A server that has one model loaded, one unloaded and one that failed."""

    states = (
        ModelState("kinship_compact", "1", ready=False, reason="unloaded"),
        ModelState("person_gender", "", ready=False, reason="no such file"),
    )

    def __init__(self, _address: str, timeout_s: float) -> None:
        assert timeout_s > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def models(self) -> tuple[ModelState, ...]:
        return self.states

    def ready(self, model: str | None = None) -> bool:
        return model is None


def test_only_models_that_failed_to_load_are_findings(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_server, "Client", _Server)
    for name in ("kinship_compact", "person_gender"):
        shutil.copytree(
            repository.folder(PAIR.name) / "1",
            repository.folder(name) / "1",
            dirs_exist_ok=True,
        )

    def on_server(**options: Any) -> list[Problem]:
        problems = find_problems(repository, server="host:1", **options)
        return [p for p in problems if p.subject.endswith("on host:1")]

    (problem,) = on_server()
    assert problem.severity == "error"
    assert str(problem).startswith(
        "person_gender on host:1: failed to load: no such file"
    )
    (named,) = on_server(models=[PAIR.name])
    assert named.fault == "is not loaded"


def test_packages_that_the_container_lacks_are_a_note(repository: Repository) -> None:
    problems = list(find_problems(repository, container="26.08"))
    (note,) = (p for p in problems if p.severity == "note")
    assert "its Python has no cv2, numpy, onnxruntime" in note.fault
    assert "requirements/server-side.txt" in note.remedy
