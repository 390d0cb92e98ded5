"""What serve chooses, refuses and shows before and after tritonserver runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.serve.errors import ServeError
from builders.serve.log_file import describe_failure
from builders.serve.selection import (
    MAIN_MODELS,
    choose_models,
    list_stand_ins,
    with_steps,
)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A rendered repository in which only person_gender counts as built."""
    repository = Repository(tmp_path)
    render_repository(repository)
    repository.store("person_gender", "model.onnx", b"onnx", {})
    return repository


def test_the_main_job_is_two_ensembles_and_their_steps() -> None:
    steps = {"person_preprocess", "person_gender", "person_reid_kd_r18"}
    assert set(with_steps(MAIN_MODELS)) == {*MAIN_MODELS, *steps}


def test_stand_ins_of_an_ensemble_are_those_of_its_steps(
    repository: Repository,
) -> None:
    names = list_stand_ins(repository, MAIN_MODELS)
    assert names == ["person_gender", "person_reid_kd_r18"]


def test_what_is_not_built_is_left_out_or_refused(repository: Repository) -> None:
    built, missing = choose_models(repository, "cpu", ())
    assert built == ["person_gender", "person_preprocess"]
    assert "person_attributes" in missing
    assert "kinship_concat" not in missing, "on request, and not asked for"
    with pytest.raises(
        ServeError, match=r"build --target cpu person_gender person_reid_kd_r18$"
    ):
        choose_models(repository, "cpu", MAIN_MODELS)


def test_a_target_without_any_network_is_refused(repository: Repository) -> None:
    with pytest.raises(ServeError, match=r"not built for target tensorrt: .*person"):
        choose_models(repository, "tensorrt", ())


def test_unknown_names_are_answered_with_the_known_ones(
    repository: Repository,
) -> None:
    with pytest.raises(ServeError, match=r"no target 'tensort' \(did you mean 'tens"):
        choose_models(repository, "tensort", ())
    with pytest.raises(ServeError, match=r"no model 'x'; there are: .*kinship_pair"):
        choose_models(repository, "cpu", ["x"])


def test_a_failed_run_shows_its_last_words(tmp_path: Path) -> None:
    log, copy = tmp_path / "log", tmp_path / "copy"
    log.write_text(
        "E1124 12:00:00.1 1 cuda.cc:1] CUDA driver version is insufficient\n"
        "I1124 12:00:00.1 1 server.cc:1] started\n"
        "malloc(): corrupted top size\n"
        "Signal (6) received.\n"
        " 0# 0x000055D0 in tritonserver\n"
    )
    assert describe_failure(log, copy, at_start=False).splitlines() == [
        "  malloc(): corrupted top size",
        "  Signal (6) received.",
        f"  log kept as {copy}",
    ]
    assert copy.read_text() == log.read_text()


def test_an_unknown_option_is_shown_without_the_usage_text(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("t: unrecognized option '--x'\nUsage: t\n" + "  --help\n" * 30)
    text = describe_failure(log, tmp_path / "copy", at_start=True)
    assert text.splitlines()[0] == "  t: unrecognized option '--x'"
    assert "serve --help" in text
    assert "Usage" not in text


def test_a_run_without_a_log_is_described(tmp_path: Path) -> None:
    text = describe_failure(tmp_path / "none", tmp_path / "copy", at_start=True)
    assert "its log holds no error" in text
    assert "log not kept" in text
