"""Each example of client/examples, run as a user runs it, against the real server."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from builders.repository.layout import ROOT
from builders.serve.tritonserver import TritonServer

EXAMPLES = ROOT / "client" / "examples"

ARGUMENTS = {
    "async_video.py": ("{address}", "short.mp4", "short.avi"),
    "cross_camera.py": ("{address}", "cameras", "entrance"),
    "dataframe.py": ("{address}", "astronaut.png"),
    "find_people.py": ("{address}", "known", "known/b.png"),
    "mock_transport.py": (),
    "yolo_boxes.py": ("{address}", "astronaut.png"),
}

OUTPUT = {
    "async_video.py": ("short.mp4: 3 frames", "short.avi frame 2: 1 people"),
    "cross_camera.py": (
        "MemoryGallery: 4 people",
        "  yard, +60 s: yard/later.png, cosine similarity 1.000",
    ),
    "dataframe.py": ("gender_probability", "most_similar", "person_reid_kd_r18"),
    "find_people.py": (
        "3 known people, 512 values",
        "b: cosine similarity 1.000, same person",
    ),
    "mock_transport.py": ("3 tests passed",),
    "yolo_boxes.py": (
        "ultralytics: 1 people",
        "supervision: 1 people",
        "Detections.data: female_probability, gender, gender_probability",
    ),
}

NEEDS = {"dataframe.py": "pandas"}

FRAMES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photograph: np.ndarray) -> Path:
    """A folder with an image, two videos and crops of three people."""
    folder = tmp_path_factory.mktemp("examples")
    cv2.imwrite(str(folder / "astronaut.png"), photograph)
    (folder / "known").mkdir()
    for index, name in enumerate("abc"):
        crop = photograph[index * 100 : index * 100 + 250, 100:300]
        cv2.imwrite(str(folder / "known" / f"{name}.png"), crop)
    crops = {
        "entrance/a.png": (0, 0),
        "entrance/b.png": (1, 5),
        "yard/later.png": (0, 60),
        "yard/tomorrow.png": (1, 86400),
    }
    for name, (index, time_s) in crops.items():
        path = folder / "cameras" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / "known" / f"{'ab'[index]}.png").read_bytes())
        os.utime(path, (1_700_000_000 + time_s,) * 2)
    for name, codec in (("short.mp4", "mp4v"), ("short.avi", "MJPG")):
        size_wh = photograph.shape[1::-1]
        fourcc = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(folder / name), fourcc, 5.0, size_wh)
        for shift in range(FRAMES):
            writer.write(np.ascontiguousarray(np.roll(photograph, 50 * shift, axis=1)))
        writer.release()
    return folder


def _run(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def _skip_without_its_package(name: str) -> None:
    package = NEEDS.get(name)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install {package}")


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)
    assert set(OUTPUT) == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_runs(name: str, server: TritonServer, folder: Path) -> None:
    _skip_without_its_package(name)
    address = f"grpc://{server.grpc_address}"
    arguments = [each.format(address=address) for each in ARGUMENTS[name]]
    done = _run(name, *arguments, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in OUTPUT[name]:
        assert expected in done.stdout


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if ARGUMENTS[name]])
def test_an_example_without_arguments_says_how_to_run_it(
    name: str, tmp_path: Path
) -> None:
    _skip_without_its_package(name)
    done = _run(name, folder=tmp_path)
    assert done.returncode == 1
    assert f"python client/examples/{name} grpc://127.0.0.1:8001" in done.stderr
