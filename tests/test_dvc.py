"""The DVC pipeline on a copy of the project.

Weights become a model, verified and evaluated, pushed to a local remote and pulled.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from builders.repository.layout import ROOT
from builders.spec.catalogue import models
from builders.weights import file_sha256, stand_in_weights, write_checkpoint

pytest.importorskip("dvc", reason="needs the extra `dvc`")


(GENDER,) = models(["person_gender_gennet_recon"])
MODEL = f"model_repository/{GENDER.name}/1/model.onnx"
RECORD = f"{MODEL}.json"
PARAMS = f"""
target: cpu
precision: fp32
file: model.onnx
runner: onnx
run: onnx
models:
  {GENDER.name}:
    weights: weights/gender.safetensors
    data: data
    set: genders
    part: all
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the checkout without ignored files, with weights and images."""
    root = tmp_path / "project"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.strip("\0").split("\0"):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    (root / "builders" / "params.yaml").write_text(PARAMS)
    (root / "weights").mkdir()
    arrays = stand_in_weights(GENDER, seed=7).arrays
    write_checkpoint(root / "weights" / "gender.safetensors", ".safetensors", arrays)
    for label in ("male", "female"):
        folder = root / "data" / "genders" / label
        folder.mkdir(parents=True)
        for number in range(2):
            image = np.roll(skimage.data.astronaut(), 99 * number, axis=1)
            cv2.imwrite(str(folder / f"{label}{number}.jpg"), image)
    return root


def test_weights_to_metrics_and_through_a_remote(project: Path, tmp_path: Path) -> None:
    def run(*command: str) -> str:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{project}{os.pathsep}{project / 'client'}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
            "HOME": str(tmp_path),
        }
        done = subprocess.run(
            command,
            cwd=project,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    run("git", "init", "--quiet")
    run("dvc", "init", "--quiet")
    run("dvc", "remote", "add", "--default", "local", str(tmp_path / "remote"))
    run("dvc", "add", "--quiet", "weights/gender.safetensors", "data/genders")
    run("dvc", "repro", "builders/dvc.yaml")

    built = project / MODEL
    sha256 = file_sha256(built)
    record = json.loads((project / RECORD).read_text())
    assert record["sha256"] == sha256
    assert all(comparison["passed"] for comparison in record["parity"])
    metrics = run("dvc", "metrics", "show", "--json")
    assert f"evaluations/{GENDER.name}/genders-all/onnx/report.json" in metrics
    assert "macro F1" in metrics

    again = run("dvc", "repro", "builders/dvc.yaml")
    assert "Running stage" not in again

    run("dvc", "push")
    shutil.rmtree(project / ".dvc" / "cache")
    built.unlink()
    (project / RECORD).unlink()
    (project / "weights" / "gender.safetensors").unlink()
    run("dvc", "pull")
    assert file_sha256(built) == sha256
    assert "up to date" in run(sys.executable, "-m", "builders", "build", GENDER.name)
