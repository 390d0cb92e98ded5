"""Building: digests, composition, and reports of progress."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builders.build.build import build, build_all
from builders.build.digest import (
    EXPORTER_SOURCES,
    STAND_IN_SOURCES,
    GraphFormat,
    graph_digest,
)
from builders.build.source import BuildOptions
from builders.build.weights_choice import choose_weights
from builders.ops import Conv
from builders.repository.layout import ROOT, Repository, RepositoryError
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.weights import Checkpoint, StandIn

SMALL, GENDER = models(["kinship_pair", "person_gender"])
FORMATS: tuple[GraphFormat, ...] = ("onnx", "plan", "parser")


def _digests(**options: Any) -> dict[tuple[str, GraphFormat], str]:
    return {
        (model.name, graph_format): graph_digest(
            model, StandIn(), graph_format, **options
        )
        for model in models()
        for graph_format in FORMATS
    }


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Copies of the files that digests cover."""
    covered = {source for f in FORMATS for source in EXPORTER_SOURCES[f]}
    for source in {*STAND_IN_SOURCES, *covered}:
        copy = tmp_path / source
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / "builders" / source, copy)
    return tmp_path


def test_digests_differ_between_models_and_formats() -> None:
    digests = _digests()
    assert len(set(digests.values())) == len(digests)


def test_docstrings_and_comments_of_exporters_make_nothing_stale(sources: Path) -> None:
    before = _digests(folder=sources)
    assert before == _digests()
    for path in sources.rglob("*.py"):
        text = path.read_text().replace('"""', '"""Changed. ', 1)
        path.write_text("# a comment\n\n" + text.replace("\ndef ", "\n\n\ndef ") + "\n")
    assert _digests(folder=sources) == before


@pytest.mark.parametrize(
    ("source", "stale"),
    [
        ("ops/onnx.py", {"onnx", "parser"}),
        ("tensorrt/network.py", {"plan"}),
        ("ops/folding.py", {"onnx", "plan", "parser"}),
    ],
)
def test_code_of_an_exporter_makes_its_files_stale(
    sources: Path, source: str, stale: set[str]
) -> None:
    before = _digests(folder=sources)
    with (sources / source).open("a") as file:
        file.write("\nADDED = 1\n")
    after = _digests(folder=sources)
    assert {key[1] for key in before if before[key] != after[key]} == stale


def test_code_of_stand_ins_counts_for_stand_ins_only(sources: Path) -> None:
    trained = Checkpoint("gender.pth", "0" * 64)
    before = [graph_digest(GENDER, o, "onnx", sources) for o in (StandIn(), trained)]
    with (sources / "weights" / "standin.py").open("a") as file:
        file.write("\nADDED = 1\n")
    after = [graph_digest(GENDER, o, "onnx", sources) for o in (StandIn(), trained)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True]


class _OtherStride:
    """Passes every operation on, the first convolution with another stride."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops
        self._is_first = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def convolution(self, x: Any, conv: Conv) -> Any:
        if self._is_first:
            self._is_first = False
            conv = dataclasses.replace(conv, stride=conv.stride * 2)
        return self._ops.convolution(x, conv)


def test_a_changed_stride_makes_exactly_that_model_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = _digests()
    network = GENDER.network

    def changed(ops: Any, *images: Any) -> Mapping[str, Any]:
        return network(_OtherStride(ops), *images)

    monkeypatch.setitem(GENDER.__dict__, "network", changed)
    after = _digests()
    stale = {key for key in before if before[key] != after[key]}
    assert stale == {(GENDER.name, graph_format) for graph_format in FORMATS}


def test_a_new_model_makes_nothing_stale(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    assert build("cpu", SMALL, StandIn(), repository).rebuilt
    digest = graph_digest(SMALL, StandIn(), "onnx")
    record = repository.record(repository.artefact_path(SMALL.name, "model.onnx"))
    assert record is not None
    assert record["inputs"] == {
        "weights": str(StandIn()),
        "graph": digest,
        "runtime": "onnxruntime",
        "precision": "fp32",
    }
    new = dataclasses.replace(SMALL, name="kinship_new")
    assert isinstance(new, Model)
    build("cpu", new, StandIn(), repository)
    assert not build("cpu", SMALL, StandIn(), repository).rebuilt


def test_other_weights_become_the_next_version(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    (first,) = build_all(repository, [SMALL], "cpu")
    assert first.path == tmp_path / SMALL.name / "1" / "model.onnx"
    before = first.path.read_bytes()
    second = build("cpu", SMALL, StandIn(1), repository)
    assert second.path == tmp_path / SMALL.name / "2" / "model.onnx"
    assert first.path.read_bytes() == before != second.path.read_bytes()
    assert not build("cpu", SMALL, StandIn(1), repository).rebuilt
    assert repository.version(SMALL.name) == 2


def test_models_are_built_one_after_another_and_progress_names_them(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    repository = Repository(tmp_path)

    def progress(what: str, _done: int = 0, _total: int = 0) -> None:
        told.append(what)

    results = build_all(repository, [SMALL], "cpu", progress=progress)
    assert told == []
    assert [result.model for result in results] == [SMALL.name]
    assert f"{SMALL.name}: exporting to ONNX" in told
    assert told[-1] == f"{SMALL.name}: writing"
    assert (tmp_path / SMALL.name / "config.pbtxt").is_file()
    (again,) = build_all(repository, [SMALL], "cpu")
    assert not again.rebuilt
    assert again.summary.startswith("fp32 by onnxruntime; related_probability: max abs")


def test_a_batch_limit_matters_to_plans_only(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    build("cpu", SMALL, StandIn(), repository)
    batching = dataclasses.replace(SMALL.batching, max_batch_size=2048)
    larger = dataclasses.replace(SMALL, batching=batching)
    assert not build("cpu", larger, StandIn(), repository).rebuilt
    pytest.importorskip("tensorrt_rtx")
    options = BuildOptions(gpus=("sm_86",))
    assert build("rtx", SMALL, StandIn(), repository, options).rebuilt
    assert not build("rtx", SMALL, StandIn(), repository, options).rebuilt
    assert build("rtx", larger, StandIn(), repository, options).rebuilt


def test_a_corrupt_weights_json_says_how_to_mend_it(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    path = repository.folder(SMALL.name) / "weights.json"
    path.parent.mkdir()
    path.write_text(json.dumps(["not", "a", "record"]))
    with pytest.raises(RepositoryError, match=r"--weights FILE or --stand-in"):
        choose_weights(SMALL, repository, None, stand_in=False)
