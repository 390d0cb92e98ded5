"""Judgement of INT8 plans at the build, by an engine that stands in for a GPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build import plan as plan_module
from builders.build.plan import PlanExporter
from builders.build.source import Artefact, BuildOptions, BuildSource
from builders.progress import no_progress
from builders.quantisation.table import HELD_OUT_FILE
from builders.repository.layout import Repository
from builders.spec.catalogue import models
from builders.tensorrt.engine import Gpu
from builders.tensorrt.plan import Plan
from builders.verify.reference import ReferenceAnswers, VerificationError
from builders.weights import StandIn

(MODEL,) = models(["person_reid_kd_r18"])
(OUTPUT,) = MODEL.outputs
CROPS = 3


class _Library:
    """Stands in for TensorRT: its engines answer what they are given."""

    target = "tensorrt"
    name = "TensorRT"
    version = "8.6.0"
    chooses_gpu = False

    def __init__(self, answers: Any) -> None:
        self._answers = answers
        self.loaded = 0
        self.closed = 0

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def load_engine(self, plan: bytes) -> Any:
        assert plan == b"plan"
        self.loaded += 1
        return self

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        return {OUTPUT.name: self._answers[: len(inputs["crops"])]}

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def reference(tmp_path: Path) -> ReferenceAnswers:
    """Held-out crops in the repository at tmp_path."""
    rows = np.random.default_rng(0).standard_normal((CROPS, OUTPUT.size))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    crops = np.zeros((CROPS, *MODEL.inputs[0].shape), np.uint8)
    reference = ReferenceAnswers({"crops": crops}, {OUTPUT.name: unit}, str(StandIn()))
    path = Repository(tmp_path).artefact_path(MODEL.name, HELD_OUT_FILE)
    path.parent.mkdir(parents=True)
    reference.save(path)
    return reference


def _build(
    library: Any,
    root: Path,
    patch: pytest.MonkeyPatch,
    capability: str | None = "sm_90",
    options: BuildOptions | None = None,
) -> Artefact:
    gpu = Gpu("a GPU", capability, "CUDA 13.0") if capability else None
    patch.setattr(plan_module, "current_gpu", lambda: gpu)
    plan = Plan(b"plan", {"INT8": 26}, "engine inspector")
    patch.setattr(plan_module, "plan_from_model", lambda *_: plan)
    source = BuildSource(MODEL, StandIn(), Repository(root))
    exporter = PlanExporter(library, options or BuildOptions("int8"))
    return exporter.compute(source, no_progress)


def test_a_plan_outside_the_tolerance_is_refused(
    reference: ReferenceAnswers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = reference.answers[OUTPUT.name].copy()
    # one crop of three turns by more than a cosine of 0.99
    answers[1, :100] = 0
    library = _Library(answers)
    with pytest.raises(VerificationError, match=r"in INT8 by TensorRT.*int8_exclude"):
        _build(library, tmp_path, monkeypatch)
    assert library.closed == 1


def test_a_plan_within_the_tolerance_states_its_distance(
    reference: ReferenceAnswers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = _Library(reference.answers[OUTPUT.name] * 1.001)
    artefact = _build(library, tmp_path, monkeypatch)
    assert artefact.data == b"plan"
    assert "against FP32: embedding" in artefact.facts["summary"]
    assert library.closed == 1


@pytest.mark.parametrize(
    ("capability", "options"),
    [
        (None, BuildOptions("int8")),
        ("sm_90", BuildOptions("int8", ("sm_86",))),
        ("sm_90", BuildOptions("fp16")),
    ],
)
def test_what_cannot_run_here_is_left_to_verify(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: str | None,
    options: BuildOptions,
) -> None:
    library = _Library(None)
    artefact = _build(library, tmp_path, monkeypatch, capability, options)
    assert "against FP32" not in artefact.facts["summary"]
    assert library.loaded == 0
