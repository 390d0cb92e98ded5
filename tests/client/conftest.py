"""The command line in this process, with a mock instead of a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from personserve import (
    Client,
    MockTransport,
    ModelDescription,
    TensorDescription,
    describe_mock_models,
)

STAND_INS = ("person_gender", "person_reid_kd_r18")

BOXES = np.float32([[4, 8, 60, 120], [70, 8, 120, 120]])


@dataclass
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def describe_models(stand_ins: Sequence[str] = STAND_INS) -> list[ModelDescription]:
    """Describe all models that the commands use."""
    face = TensorDescription("face", "UINT8", (32, 32, 3))
    vector = TensorDescription("embedding", "FP32", (4,))
    pair = [TensorDescription(f"embedding_{x}", "FP32", (4,)) for x in "ab"]
    related = TensorDescription("related_probability", "FP32", (1,))
    untrained = {"stand_in_weights": "kinship_pair"} if stand_ins else {}
    threshold = {"related_probability.threshold": "0.5"}
    preparation = {"face.interpolation": "linear"}
    return [
        *describe_mock_models(stand_in_weights=stand_ins),
        ModelDescription("kinship_embedding", 8, [face], [vector], preparation),
        ModelDescription("kinship_pair", 8, pair, [related], untrained | threshold),
    ]


def answer(request: Any) -> dict[str, np.ndarray]:
    """Answer for each person or face; embeddings follow the pixels of crops."""
    if request.model == "kinship_embedding":
        return {"embedding": np.ones((len(request.inputs["face"]), 4), np.float32)}
    if request.model == "kinship_pair":
        return {"related_probability": np.full((1, 1), 0.75, np.float32)}
    if "boxes" in request.inputs:
        rows = len(request.inputs["boxes"])
        seeds = range(rows)
    else:
        crops = request.inputs["reid_crops"]
        rows, seeds = len(crops), [int(crop.sum()) for crop in crops]
    vectors = [np.random.default_rng(seed).normal(size=512) for seed in seeds]
    embeddings = np.float32([v / np.linalg.norm(v) for v in vectors])
    return {
        "female_probability": np.linspace(0.9, 0.2, rows, dtype=np.float32)[:, None],
        "embedding": embeddings.reshape(rows, 512),
    }


@pytest.fixture
def transport() -> MockTransport:
    return MockTransport(answer, models=describe_models())


@pytest.fixture
def run(
    transport: MockTransport,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Run a command with the mock transport in an empty folder."""
    from personserve import _client
    from personserve.cli import analysis, app, detection, frames, options

    def open_client(*_address: Any, **arguments: Any) -> Client:
        arguments.pop("shared_memory")
        return Client(transport=transport, **arguments)

    def detect(_frame: np.ndarray) -> np.ndarray:
        return BOXES.copy()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_client, "Client", open_client)
    for module in (analysis, detection, frames):
        monkeypatch.setattr(module, "detect_people", detect)
    for console in (options.console, options.error_console):
        monkeypatch.setattr(console, "_width", 200)

    def command(*arguments: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["personserve", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            app.main()
        out, err = capfd.readouterr()
        code = end.value.code
        return Outcome(code if isinstance(code, int) else 0, out, err)

    return command


def write_image(path: Path, value: int = 90) -> Path:
    """Write an image of 128 x 128 pixels, of noise that depends on the value."""
    noise = np.random.default_rng(value).integers(0, 255, (128, 128, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), noise)
    return path


def write_video(path: Path, count: int, rate_hz: float, codec: str = "MJPG") -> Path:
    """Write a video of 128 x 128 pixels whose frames get brighter."""
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), fourcc, rate_hz, (128, 128))
    for index in range(count):
        writer.write(np.full((128, 128, 3), index * 200 // count, np.uint8))
    writer.release()
    return path
