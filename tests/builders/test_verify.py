"""Verification: one comparison for all targets, saved references, publishing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build.build import build
from builders.repository.layout import Repository
from builders.repository.verified import read_verified
from builders.spec.catalogue import models
from builders.verify.comparison import (
    Comparison,
    compare_outputs,
    require_tolerance,
    tolerance_text,
)
from builders.verify.inputs import INPUT_COUNT, RunnerError, onnx_runner
from builders.verify.reference import (
    PHOTOGRAPHS,
    REAL_WINDOWS,
    ReferenceAnswers,
    VerificationError,
    compute_reference,
)
from builders.verify.verification import publish_verification, verify_artefact
from builders.weights import StandIn, stand_in_weights

PAIR, RECON, EMBEDDING = models(
    ["kinship_pair", "person_gender_gennet_recon", "kinship_embedding"]
)


def _compare(change: float, target: str, precision: str) -> Comparison:
    """Compare RECON's exact answers, moved by `change`, with themselves."""
    answers = {
        "female_probability": np.linspace(0.1, 0.9, 8, dtype=np.float32)[:, None]
    }
    inputs = {"crops": np.zeros((8, 1), np.uint8)}
    reference = ReferenceAnswers(inputs, answers, "any")

    def run(**_inputs: Any) -> dict[str, Any]:
        return {name: array + np.float32(change) for name, array in answers.items()}

    (comparison,) = compare_outputs(RECON, reference, run, target, precision)
    return comparison


@pytest.mark.parametrize(
    ("target", "precision", "allowed", "refused"),
    [
        ("cpu", "fp32", 1e-5, 1e-3),
        ("tensorrt", "fp32", 5e-4, 2e-3),
        ("tensorrt", "fp16", 0.015, 0.025),
        ("cpu", "bf16", 0.015, 0.025),
        ("cpu", "int8", 0.045, 0.055),
        ("cpu", "fp32", 0.0, float("nan")),
    ],
)
def test_each_precision_has_its_tolerance(
    target: str, precision: str, allowed: float, refused: float
) -> None:
    assert _compare(allowed, target, precision).passed
    comparison = _compare(refused, target, precision)
    assert not comparison.passed
    with pytest.raises(VerificationError, match=r"outside its tolerance .*max abs"):
        require_tolerance(
            [comparison], "it", tolerance_text(RECON.tolerance, precision), "Do this"
        )


def _answer_with(answers: dict[str, Any]) -> Any:
    return lambda **_inputs: answers


def test_zero_has_no_direction() -> None:
    """A sure network's probability is exactly zero; an embedding never is."""
    for model, size, cosine in ((RECON, 1, 1.0), (EMBEDDING, 512, 0.0)):
        answers = {model.outputs[0].name: np.zeros((2, size), np.float32)}
        inputs = {"crops": np.zeros((2, 1), np.uint8)}
        reference = ReferenceAnswers(inputs, answers, "any")
        (comparison,) = compare_outputs(
            model, reference, _answer_with(answers), "cpu", "fp32"
        )
        assert comparison.cosine == cosine


def test_references_have_noise_and_real_crops() -> None:
    arrays = stand_in_weights(RECON).arrays
    reference = compute_reference(RECON, arrays, StandIn())
    count = INPUT_COUNT + len(PHOTOGRAPHS) * len(REAL_WINDOWS)
    assert {len(array) for array in reference.inputs.values()} == {count}
    assert {len(array) for array in reference.answers.values()} == {count}


def test_builds_are_judged_on_real_crops_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FP32 by ONNX Runtime, too: a fault that noise does not show is noticed."""
    import builders.build.cpu

    exact = onnx_runner

    def broken(*arguments: Any) -> Any:
        run = exact(*arguments)

        def run_broken(**inputs: Any) -> dict[str, Any]:
            outputs = {name: np.array(array) for name, array in run(**inputs).items()}
            for array in outputs.values():
                array[INPUT_COUNT:] += 0.5
            return outputs

        return run_broken

    monkeypatch.setattr(builders.build.cpu, "onnx_runner", broken)
    with pytest.raises(VerificationError, match="fp32 by onnxruntime"):
        build("cpu", RECON, StandIn(), Repository(tmp_path))
    assert list(tmp_path.rglob("*")) == []


def test_results_are_recorded_always_and_published_on_request(tmp_path: Path) -> None:
    repository, verified = Repository(tmp_path / "repository"), tmp_path / "verified"
    build("cpu", PAIR, StandIn(), repository)
    with pytest.raises(VerificationError, match="has not passed verification"):
        publish_verification(PAIR, repository, "cpu", verified)
    reference = compute_reference(PAIR, stand_in_weights(PAIR).arrays, StandIn())
    (comparison,) = verify_artefact(PAIR, repository, "cpu", "fp32", reference)
    assert comparison.passed
    record = repository.record(repository.artefact_path(PAIR.name, "model.onnx"))
    assert record is not None
    assert record["parity"][0]["passed"]
    assert read_verified(PAIR.name, verified) == {}

    path = publish_verification(PAIR, repository, "cpu", verified)
    assert path == verified / f"{PAIR.name}.json"
    assert list(read_verified(PAIR.name, verified)) == ["cpu fp32"]
    facts = json.loads(path.read_text())["cpu fp32"]
    assert facts["by"].startswith("ONNX Runtime ")
    assert facts["weights"] == str(StandIn())
    assert facts["parity"] == record["parity"]

    other = compute_reference(RECON, stand_in_weights(RECON).arrays, StandIn())
    with pytest.raises(VerificationError, match="but kinship_pair has inputs"):
        verify_artefact(PAIR, repository, "cpu", None, other)

    wrong = {name: 1 - array for name, array in reference.answers.items()}
    failing = ReferenceAnswers(reference.inputs, wrong, reference.origin)
    (comparison,) = verify_artefact(PAIR, repository, "cpu", None, failing)
    assert not comparison.passed
    with pytest.raises(VerificationError, match="has not passed verification"):
        publish_verification(PAIR, repository, "cpu", verified)


def test_a_missing_runtime_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(RunnerError, match="openvino"):
        onnx_runner(b"", {"runtime": "openvino"})
