"""The examples of both READMEs, run as they stand against the real server."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import personserve
from builders.repository.layout import ROOT
from builders.serve.tritonserver import TritonServer

BOXES = np.float32([[20, 5, 380, 570], [400, 60, 700, 570]])


class DetectedBoxes:
    """The part of ultralytics' Boxes that the READMEs' examples use."""

    def __init__(self, data: np.ndarray, orig_shape: tuple[int, int]) -> None:
        self.data, self.orig_shape = data, orig_shape
        self.xyxy, self.cls = data[:, :4], data[:, -1]


class Detector:
    """The part of ultralytics' YOLO that the READMEs' examples use."""

    def __init__(self, weights: str) -> None:
        assert weights.endswith(".pt")

    def __call__(
        self, source: str | np.ndarray, *, classes: list[int]
    ) -> list[SimpleNamespace]:
        assert isinstance(source, np.ndarray) or Path(source).is_file()
        assert classes == [0]
        rows = np.hstack([BOXES, np.float32([[0.9, 0], [0.8, 0]])])
        boxes = DetectedBoxes(rows, (576, 768))
        return [SimpleNamespace(boxes=boxes, names={0: "person", 2: "car"})]


@dataclass
class Detections:
    """The part of supervision's Detections that the examples use."""

    xyxy: np.ndarray
    class_id: np.ndarray
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_ultralytics(cls, results: Any) -> Detections:
        names = [results.names[number] for number in results.boxes.cls]
        boxes = results.boxes
        return cls(boxes.xyxy, boxes.cls.astype(int), {"class_name": names})


PAGES = (ROOT / "README.md", ROOT / "client" / "README.md")
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def _examples(page: Path) -> list[str]:
    return EXAMPLE.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_examples_run(
    page: Path,
    server: TritonServer,
    photograph: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", cv2.resize(photograph, (768, 576)))
    default = f"grpc://{server.grpc_address}"
    monkeypatch.setattr(personserve.Client.__init__, "__defaults__", (default,))
    ultralytics = SimpleNamespace(YOLO=Detector)
    monkeypatch.setitem(sys.modules, "ultralytics", ultralytics)
    supervision = SimpleNamespace(Detections=Detections)
    monkeypatch.setitem(sys.modules, "supervision", supervision)
    examples = _examples(page)
    assert examples
    names: dict[str, object] = {}
    for example in examples:
        here = example.replace("127.0.0.1:8001", server.grpc_address).replace(
            "127.0.0.1:8000", server.http_address
        )
        exec(compile(here, str(page), "exec"), names)  # noqa: S102 - our own page


def test_every_public_method_has_an_example() -> None:
    text = "\n".join(_examples(ROOT / "client" / "README.md"))
    methods = {
        name
        for kind in (personserve.Client, personserve.People)
        for name in vars(kind)
        if not name.startswith("_") and callable(getattr(kind, name))
    }
    missing = {name for name in methods if f".{name}(" not in text}
    assert missing <= {"close", "to_dict"}
    public = set(personserve.__all__)
    told = set(re.findall(r"\w+", (ROOT / "client" / "README.md").read_text()))
    assert {n for n in public if n.endswith("Error")} - told == {
        "PersonServeError"
    } - told
