"""The preprocessing model's form for a GPU, on a server that has none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from builders.benchmarks.gpu_frames_served import serve_preprocessing
from builders.benchmarks.gpu_server import PREPROCESSING
from personserve import Client, PersonServeError
from personserve.images.crops import CropShape, cut_crops, pixel_boxes

SHAPES = (CropShape(224, 224, "linear"), CropShape(384, 128, "cubic"))
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "server_gpu.log"


@pytest.fixture(scope="module")
def client(log: Path) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(log.parent))
        with (
            serve_preprocessing("gpu", 1) as (address, _),
            Client(address, timeout_s=TIMEOUT_S) as client,
        ):
            yield client


def _ask(client: Client, inputs: dict[str, Any]) -> Any:
    try:
        return client.infer(PREPROCESSING, inputs)
    except PersonServeError as exc:
        return exc


def test_requests_in_one_batch_get_their_own_answers(client: Client) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(12)]
    boxes = [
        np.float32([[n, n, 90 + n, 110], [5, 0, 60, 100 + n]])[: 1 + n % 2]
        for n in range(12)
    ]
    size = np.int32([120, 160])
    asked: list[dict[str, Any]] = [
        {"raw_frame": frame.ravel(), "frame_size": size, "boxes": each}
        for frame, each in zip(frames, boxes, strict=True)
    ]
    asked[3]["boxes"] = np.empty((0, 4), np.float32)
    asked[7] = {"encoded_frame": np.uint8([1, 2, 3]), "boxes": boxes[7]}
    asked[9]["boxes"] = np.float32([[500, 500, 600, 600]])
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda inputs: _ask(client, inputs), asked))
    assert "0 boxes; expected 1 to 64" in str(answers[3])
    assert "frame: " in str(answers[7])
    assert "box 0 (500, 500, 600, 600) is outside the frame" in str(answers[9])
    for number in set(range(12)) - {3, 7, 9}:
        expected = cut_crops(
            frames[number], pixel_boxes(boxes[number], 120, 160), SHAPES, order="BGR"
        )
        answer = answers[number]
        np.testing.assert_array_equal(answer["gender_crops"], expected[0])
        np.testing.assert_array_equal(answer["reid_crops"], expected[1])


def test_an_encoded_frame_and_the_log(client: Client, log: Path) -> None:
    frame = np.full((64, 48, 3), 77, np.uint8)
    png = cv2.imencode(".png", frame)[1].ravel()
    answer = client.infer(
        PREPROCESSING, {"encoded_frame": png, "boxes": np.float32([[0, 0, 48, 64]])}
    )
    assert (answer["gender_crops"] == 77).all()
    text = log.read_text(encoding="utf-8")
    assert "frames are decoded and cut on the CPU, since GPU" in text
