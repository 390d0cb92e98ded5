"""Reduced precisions on the real server, by either runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build.build import build
from builders.build.source import BuildOptions
from builders.ops.torch import Reference
from builders.quantisation.table import HELD_OUT_FILE
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.repository.runtimes.cpu_session import has_bf16
from builders.repository.verified import read_verified
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.tensorrt.library import PlanError, Precision
from builders.verify.inputs import RunnerError, onnx_runner, seeded_inputs
from builders.verify.reference import ReferenceAnswers
from builders.verify.verification import publish_verification, verify_artefact
from builders.weights import StandIn, stand_in_weights
from personserve import Client
from personserve.bulk import open_deployed_client
from tests.int8_tables import scales_of, table_of

(GENDER,) = models(["person_gender"])


@pytest.mark.parametrize(
    ("precision", "runtime"),
    [
        ("int8", "onnxruntime"),
        ("int8", "openvino"),
        ("bf16", "openvino"),
        ("fp32", "openvino"),
    ],
)
def test_what_was_built_is_served(
    tmp_path: Path, precision: Precision, runtime: str
) -> None:
    if precision == "bf16" and not has_bf16():
        pytest.skip("this CPU does not compute in BF16")
    repository = Repository(tmp_path)
    render_repository(repository)
    arrays = stand_in_weights(GENDER).arrays
    inputs = seeded_inputs(GENDER)
    answers = Reference(GENDER, arrays)(**inputs)
    check = ReferenceAnswers(inputs, answers, str(StandIn()))
    check.save(repository.artefact_path(GENDER.name, HELD_OUT_FILE))
    table_of(GENDER, scales_of(GENDER, arrays, inputs)).save(repository)
    options = BuildOptions(precision, runtime=runtime)
    built = build("cpu", GENDER, StandIn(), repository, options)
    record = repository.record(built.path)
    assert (record["runtime"], record["precision"]) == (runtime, precision)
    expected = onnx_runner(str(built.path), record)(**inputs)["female_probability"]
    server = TritonServer(repository, models=[GENDER.name], ports=Ports.free())
    with server, Client(server.grpc_address, timeout_s=60) as client:
        found = client.infer(GENDER.name, inputs, timeout_s=60)["female_probability"]
    with open_deployed_client(repository.root) as client:
        deployed = client.infer(GENDER.name, inputs)["female_probability"]
    # BF16, which few CPUs have, was not compared bit for bit
    np.testing.assert_allclose(
        deployed, found, rtol=0, atol=5e-3 if precision == "bf16" else 0
    )
    # BF16 rounds otherwise in another chunk
    np.testing.assert_allclose(
        found, expected, atol=5e-3 if precision == "bf16" else 1e-5
    )
    gap = np.abs(found - answers["female_probability"]).max()
    floor = 0 if precision == "fp32" else 1e-5
    assert floor <= gap < GENDER.tolerance.int8_abs
    for measure in verify_artefact(GENDER, repository, "cpu", precision, check):
        assert measure.passed
    publish_verification(GENDER, repository, "cpu", tmp_path / "verified")
    ((what, facts),) = read_verified(GENDER.name, tmp_path / "verified").items()
    assert what.split()[:2] == ["cpu", precision]
    assert facts["by"].startswith("OpenVINO" if runtime == "openvino" else "ONNX")


def test_what_cannot_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(tmp_path)

    def fails(match: str, **how: Any) -> None:
        with pytest.raises((PlanError, RunnerError), match=match):
            build(
                "cpu",
                GENDER,
                StandIn(),
                repository,
                BuildOptions(**how),
            )

    fails("cpu target builds fp32, bf16, int8, not fp16", precision="fp16")
    fails("onnxruntime does not run bf16", precision="bf16", runtime="onnxruntime")
    monkeypatch.setitem(sys.modules, "openvino", None)
    fails(r'pip install -e "\.\[openvino\]"', precision="bf16")
    assert not repository.artefact_path(GENDER.name, "model.onnx").exists()
