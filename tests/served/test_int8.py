"""INT8 on the real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builders.build import BuildOptions, build, render
from builders.catalogue import models
from builders.check import Check
from builders.ops.torch import Reference
from builders.parity import onnx_runner, parity_inputs
from builders.quantisation.table import CHECK_FILE
from builders.repository import Repository
from builders.server import Ports, TritonServer
from builders.weights import StandIn, stand_in_weights
from personserve import Client
from tests.int8_tables import steps_of, table_of

(GENDER,) = models(["person_gender"])


def test_int8_is_served_as_it_was_built(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    render(repository)
    arrays = stand_in_weights(GENDER).arrays
    inputs = parity_inputs(GENDER)
    answers = Reference(GENDER, arrays)(**inputs)
    Check(inputs, answers, str(StandIn())).save(
        repository.built(GENDER.name, CHECK_FILE)
    )
    table_of(GENDER, steps_of(GENDER, arrays, inputs)).save(repository)
    options = BuildOptions("int8")
    built = build("cpu", GENDER, StandIn(), repository, options, lambda _: None)
    expected = onnx_runner(str(built.path))(**inputs)["female_probability"]
    server = TritonServer(repository, models=[GENDER.name], ports=Ports.free())
    with server, Client(server.grpc_address, timeout_s=60) as client:
        found = client.infer(GENDER.name, timeout_s=60, **inputs)["female_probability"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    gap = np.abs(found - answers["female_probability"]).max()
    assert 0 < gap < GENDER.tolerance.int8_abs
