"""The command line against the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from builders.serve.tritonserver import TritonServer


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
    stand_ins = {line["name"]: line["stand_in_weights"] for line in lines}
    assert stand_ins["person_gender"] == ["person_gender"]
    assert stand_ins["person_attributes"] == ["person_gender", "person_reid_kd_r18"]
    assert stand_ins["person_preprocess"] == []
    message = run("models", address="grpc://127.0.0.1:9", code=1)
    assert message.startswith("error: no Triton server answers at grpc://127.0.0.1:9")
    assert "Traceback" not in message


def test_attributes_of_an_image(run, tmp_path: Path, photograph: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), photograph)
    cv2.imwrite(str(tmp_path / "p.bmp"), photograph)
    boxes = ("--boxes", "10,20,200,400 150,0,400,512")
    output = run("attributes", "p.png", *boxes, "--output", "drawn.png")
    assert output.count("cosine") == 2
    assert "stand-in weights" in output
    drawn = cv2.imread(str(tmp_path / "drawn.png"))
    assert drawn.shape == photograph.shape
    assert np.abs(drawn.astype(int) - photograph).max() > 100
    people = json.loads(run("attributes", "p.png", *boxes, "--json"))["people"]
    assert [person["box"][0] for person in people] == [10, 150]
    for wrong, message in (
        (("missing.png",), "cannot read missing.png"),
        (("p.bmp",), "BMP is not accepted; convert to JPEG, PNG or WebP"),
        (("p.png", "--boxes", "1,2,3"), "expected 'x0,y0,x1,y1'"),
        (("p.png", *boxes, "--output", "drawn.xyz"), "cannot write .xyz"),
    ):
        assert message in run("attributes", *wrong, code=1)


def test_attributes_of_a_video(run, video: Path, tmp_path: Path) -> None:
    output = run("attributes", str(video), "--frames", "4", "--output", "drawn.mp4")
    assert "4 frames" in output
    capture = cv2.VideoCapture(str(tmp_path / "drawn.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    source = cv2.VideoCapture(str(video))
    last = int(source.get(cv2.CAP_PROP_FRAME_COUNT)) - 1
    lines = run("--json", "attributes", str(video), "--frames", "3").splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [
        "frame 0",
        f"frame {last // 2}",
        f"frame {last}",
    ]


def test_embed_and_search(run, tmp_path: Path, photograph: np.ndarray) -> None:
    (tmp_path / "crops" / "deep").mkdir(parents=True)
    for number in range(5):
        part = photograph[number * 50 : number * 50 + 200, 100:250]
        cv2.imwrite(str(tmp_path / "crops" / "deep" / f"{number}.png"), part)
    assert "5 people" in run("embed", "crops")
    lines = run(
        *("--json", "search", "gallery.npz", "crops/deep/3.png", "--count", "2"),
        *("--folder", "crops"),
    )
    first, second = (json.loads(line) for line in lines.splitlines())
    assert first["id"] == "deep/3.png"
    assert first["similarity"] > second["similarity"]
    assert first["stand_in_weights"] == ["person_gender", "person_reid_kd_r18"]
    assert cv2.imread(str(tmp_path / "search.jpg")).shape == (256, 3 * 128, 3)
    (tmp_path / "crops" / "5.tif").touch()
    assert "5.tif: .tif is not accepted" in run("embed", "crops", code=1)
    assert "not a saved gallery" in run("search", "crops", "crops/deep/1.png", code=1)


def test_kinship_and_bench(run, tmp_path: Path, photograph: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "f.png"), photograph[:300, 100:350])
    related = json.loads(run("--json", "kinship", "f.png", "f.png"))
    assert 0 <= related["related_probability"] <= 1
    assert related["stand_in_weights"]
    measured = run("bench", "--seconds", "0.5", "--people", "1")
    assert "people/s" in measured
    assert "stand-in weights" in measured
