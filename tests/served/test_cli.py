"""The command line against the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from builders.server import TritonServer


@pytest.fixture
def run(server: TritonServer, tmp_path: Path):
    def command(*arguments: str, code: int = 0, address: str = "") -> str:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "personserve"),
                *(
                    "--server",
                    address or f"grpc://{server.grpc_address}",
                    "--timeout-s",
                    "120",
                ),
                *arguments,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    return command


def test_check_and_models(run) -> None:
    assert "ready" in run("check")
    assert json.loads(run("--json", "check"))["missing"] == []
    assert "person_attributes" in run("models")
    lines = [json.loads(line) for line in run("--json", "models").splitlines()]
    assert {line["name"] for line in lines if line["ready"]} >= {"person_gender"}
    said = run("models", address="grpc://127.0.0.1:9", code=1)
    assert said.startswith("error: no Triton server answers at grpc://127.0.0.1:9")
    assert "Traceback" not in said


def test_attributes_of_a_picture(run, tmp_path: Path, photograph: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), photograph)
    boxes = ("--boxes", "10,20,200,400 150,0,400,512")
    told = run("attributes", "p.png", *boxes, "--output", "drawn.png")
    assert told.count("cosine") == 2
    assert "stand-in weights" in told
    drawn = cv2.imread(str(tmp_path / "drawn.png"))
    assert drawn.shape == photograph.shape
    assert np.abs(drawn.astype(int) - photograph).max() > 100
    people = json.loads(run("--json", "attributes", "p.png", *boxes))["people"]
    assert [person["box"][0] for person in people] == [10, 150]
    for wrong, message in (
        (("missing.png",), "cannot read missing.png"),
        (("p.png", "--boxes", "1,2,3"), "expected 'x0,y0,x1,y1'"),
        (("p.png", *boxes, "--output", "drawn.xyz"), "cannot write .xyz"),
    ):
        assert message in run("attributes", *wrong, code=1)


def test_attributes_of_a_video(run, video: Path, tmp_path: Path) -> None:
    told = run("attributes", str(video), "--frames", "4", "--output", "drawn.mp4")
    assert "4 frames" in told
    capture = cv2.VideoCapture(str(tmp_path / "drawn.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    lines = run("--json", "attributes", str(video), "--frames", "3").splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [
        "frame 0",
        "frame 397",
        "frame 794",
    ]


def test_embed_and_search(run, tmp_path: Path, photograph: np.ndarray) -> None:
    (tmp_path / "crops" / "deep").mkdir(parents=True)
    for number in range(5):
        part = photograph[number * 50 : number * 50 + 200, 100:250]
        cv2.imwrite(str(tmp_path / "crops" / "deep" / f"{number}.png"), part)
    assert "5 people" in run("embed", "crops")
    found = run(
        *("--json", "search", "gallery.npz", "crops/deep/3.png", "--count", "2"),
        *("--folder", "crops"),
    )
    first, second = (json.loads(line) for line in found.splitlines())
    assert first["id"] == "deep/3.png"
    assert first["similarity"] > second["similarity"]
    assert cv2.imread(str(tmp_path / "search.jpg")).shape == (256, 3 * 128, 3)
    assert "not a saved gallery" in run("search", "crops", "crops/deep/1.png", code=1)


def test_kinship_and_bench(run, tmp_path: Path, photograph: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "f.png"), photograph[:300, 100:350])
    related = json.loads(run("--json", "kinship", "f.png", "f.png"))
    assert 0 <= related["related_probability"] <= 1
    assert "people/s" in run("bench", "--seconds", "0.5", "--people", "1")
