"""The demo's faces: detection, the trained answer, and what it draws and prints."""

from __future__ import annotations

import io
import re
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from builders.commands import serving
from builders.models import face_gender
from builders.repository.layout import Repository
from builders.serve import demo
from builders.weights.wheels import FetchError
from personserve import Client, InferResult, MockTransport, describe_mock_models
from personserve.cli.detection import detect_faces


class TrainedFaces:
    """A client whose face network answers 0.75 for every face."""

    def infer(self, model: str, inputs: dict[str, Any]) -> InferResult:
        assert model == face_gender.MODEL.name
        (crops,) = inputs.values()
        assert crops.shape[1:] == (32, 32, 3)
        answer = np.full((len(crops), 1), 0.75, np.float32)
        return InferResult(
            {"female_probability": answer}, model, (), "g.onnx, sha256 0"
        )


def test_a_face_is_drawn_apart_from_untrained_bodies() -> None:
    frame = demo._photographs()
    faces = demo._ask_about_faces(cast("Client", TrainedFaces()), frame.pixels)
    assert faces.labels == ("female 0.7500",)
    assert not faces.is_untrained

    console = Console(file=io.StringIO(), width=200)
    demo._print_faces(faces, console)
    assert re.search(
        r"face_gender, trained weights .*\n  female 0\.7500 at 17\d 6\d 27\d 16\d\n",
        console.file.getvalue(),  # type: ignore[attr-defined]
    )

    untrained = describe_mock_models(stand_in_weights=["person_gender"])
    client = Client(transport=MockTransport(models=untrained))
    people = client.attributes(frame.pixels, frame.boxes)
    drawn = demo._draw(frame.pixels, people, faces)
    (x0, _, _, y1), (left, top) = faces.boxes[0].astype(int), (20, 200)
    assert tuple(drawn[y1, x0 + 20]) == demo.FACE_COLOUR
    assert tuple(drawn[top, left]) == demo.BODY_COLOUR
    without = demo._draw(frame.pixels, people, None)
    assert tuple(without[y1, x0 + 20]) != demo.FACE_COLOUR


def test_an_image_without_a_face_is_no_request() -> None:
    gray = np.full((120, 160, 3), 127, np.uint8)
    assert detect_faces(gray).shape == (0, 4)
    faces = demo._ask_about_faces(cast("Client", None), gray)
    assert faces.labels == ()


def test_the_demo_continues_without_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object) -> None:
        raise FetchError("pip could not download")

    monkeypatch.setattr(serving, "fetch_and_build", fail)
    monkeypatch.setattr(Repository, "is_built", lambda *_: False)
    serving._fetch_faces(Repository())
    assert "the demo continues without: pip could not" in capsys.readouterr().out
