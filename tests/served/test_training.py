"""What `train` has learnt is what the real server answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from builders.commands.app import app
from builders.repository import layout
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.training.network import run_inference
from builders.weights import read_checkpoint
from personserve import Client
from tests.builders.training import material

(GENDER,) = models(["person_gender_gennet_recon"])
OUTPUT = "female_probability"
TOLERANCE = 1e-4
"""FP32 sums of two libraries, in another order."""


def _run(*arguments: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)


def test_a_network_learns_from_scratch_and_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repository"
    monkeypatch.setattr(layout.Repository.__init__, "__defaults__", (folder,))
    run = tmp_path / "run"
    data = material.write_gender_folder(tmp_path / "crops", count=48, images=3)
    train = ("train", "gender", str(data), "--model", GENDER.name, "--output", str(run))
    _run(*train, "--epochs", "8", "--batch", "16")
    assert (run / "report.html").is_file()
    best = run / "best.safetensors"
    _run("build", GENDER.name, "--weights", str(best))

    # people who neither train nor choose the best epoch
    strangers = material.people(16, 2, GENDER, first=5000)
    server = TritonServer(
        layout.Repository(), models=[GENDER.name], ports=Ports.free(), cores=1
    )
    with server, Client(server.grpc_address, timeout_s=120) as client:
        served = np.concatenate(
            [
                client.infer(GENDER.name, {"crops": part})[OUTPUT]
                for part in np.split(strangers.crops, 4)
            ]
        )
    arrays = read_checkpoint(best).arrays
    weights = {key: torch.from_numpy(np.array(a)) for key, a in arrays.items()}
    inputs = {"crops": torch.from_numpy(strangers.crops)}
    trained = run_inference(GENDER, weights, inputs).outputs[OUTPUT].numpy()
    np.testing.assert_allclose(served, trained, atol=TOLERANCE)
    right = (served[:, 0] >= 0.5) == strangers.labels
    assert right.mean() >= 0.95
