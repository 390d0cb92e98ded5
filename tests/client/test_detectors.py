"""Detections of supervision and ultralytics, with the packages themselves.

Proven with supervision 0.31.2 and ultralytics 8.4.190. Neither is needed otherwise, so
tests with them are skipped where the package is missing:

    pip install supervision ultralytics
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from personserve import Client, InvalidInputError, MockTransport

FRAME = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
BOXES = np.float32([[10, 20, 60, 200], [100, 30, 160, 210], [200, 10, 300, 90]])


def _import(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("MPLBACKEND", os.environ.get("MPLBACKEND", "agg"))
    package = name.partition(".")[0]
    return pytest.importorskip(name, reason=f"needs pip install {package}")


@pytest.fixture
def sv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return _import("supervision", tmp_path, monkeypatch)


@pytest.fixture
def results_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return _import("ultralytics.engine.results", tmp_path, monkeypatch).Results


@pytest.fixture
def client() -> Client:
    return Client(transport=MockTransport())


def _detections(sv: Any) -> Any:
    return sv.Detections(
        xyxy=BOXES,
        confidence=np.float32([0.9, 0.8, 0.7]),
        class_id=np.array([0, 0, 2]),
        tracker_id=np.array([7, 8, 9]),
        data={"class_name": np.array(["person", "person", "car"])},
    )


def test_detections_of_supervision_and_back(sv: Any, client: Client) -> None:
    everything = _detections(sv)
    with pytest.raises(InvalidInputError, match="car"):
        client.attributes(FRAME, everything)
    persons = everything[everything.class_id == 0]
    people = client.attributes(FRAME, persons)
    assert [person.box for person in people] == [tuple(b) for b in BOXES[:2].tolist()]

    back = people.to_supervision(persons, embeddings=True)
    assert isinstance(back, sv.Detections)
    assert back.tracker_id.tolist() == [7, 8]
    assert list(persons.data) == ["class_name"], "not changed"
    assert back.data["embedding"].shape == (2, 512)
    assert back.data["gender"].tolist() == [p.gender.label for p in people]
    # supervision slices and merges the data along
    assert back[1].data["gender"].tolist() == [people[1].gender.label]
    assert len(sv.Detections.merge([back, back]).data["gender"]) == 4
    drawn = sv.LabelAnnotator().annotate(FRAME.copy(), back, labels=people.labels())
    assert (drawn != FRAME).any()

    new = people.to_supervision()
    np.testing.assert_array_equal(new.xyxy, BOXES[:2])
    assert sv.BoxAnnotator().annotate(FRAME.copy(), new).shape == FRAME.shape


def test_nobody_in_supervision_and_back(sv: Any, client: Client) -> None:
    people = client.attributes(FRAME, sv.Detections.empty())
    assert len(people) == 0
    assert people.embeddings.shape == (0, 512)
    for detections in (None, sv.Detections.empty()):
        back = people.to_supervision(detections, embeddings=True)
        assert isinstance(back, sv.Detections)
        assert len(back) == 0


NAMES = {0: "person", 2: "car"}
ROWS = np.float32([[*BOXES[0], 0.9, 0], [*BOXES[1], 0.8, 0], [*BOXES[2], 0.7, 2]])


@pytest.mark.parametrize("tracked", [False, True])
def test_results_of_ultralytics_and_back(
    results_class: Any, client: Client, tracked: bool
) -> None:
    torch = pytest.importorskip("torch")
    rows = np.insert(ROWS, 4, [7, 8, 9], axis=1) if tracked else ROWS
    everything = results_class(FRAME, "a.jpg", NAMES, boxes=torch.from_numpy(rows))
    with pytest.raises(InvalidInputError, match="car"):
        client.attributes(FRAME, everything)
    results = everything[:2]
    people = client.attributes(FRAME, [results])  # a list of one, as a model returns it
    assert [person.box for person in people] == [tuple(b) for b in BOXES[:2].tolist()]

    back = people.to_ultralytics([results])
    assert isinstance(back, results_class)
    labels = [back.names[int(number)] for number in back.boxes.cls]
    assert labels == [person.gender.label for person in people]
    np.testing.assert_allclose(
        back.boxes.conf, [person.gender.probability for person in people], rtol=1e-6
    )
    assert results.names == NAMES, "not changed"
    assert results.boxes.cls.tolist() == [0, 0], "not changed"
    assert back.boxes.is_track is tracked
    if tracked:
        assert back.boxes.id.tolist() == [7, 8]
    drawn = back.plot()
    assert drawn.shape == FRAME.shape
    assert (drawn != FRAME).any()
    assert [row["name"] for row in back.summary()] == labels


def test_nobody_in_ultralytics_and_back(results_class: Any, client: Client) -> None:
    torch = pytest.importorskip("torch")
    results = results_class(FRAME, "a.jpg", NAMES, boxes=torch.zeros(0, 6))
    people = client.attributes(FRAME, results)
    assert people.embeddings.shape == (0, 512)
    assert len(people.to_ultralytics(results).boxes) == 0


@pytest.mark.parametrize("name", ["{}", "class{}"])
def test_classes_of_a_model_without_names_are_numbers(
    results_class: Any, client: Client, name: str
) -> None:
    """A model that is built from a YAML file, or exported without metadata."""
    torch = pytest.importorskip("torch")
    names = {number: name.format(number) for number in range(80)}
    results = results_class(FRAME, "a.jpg", names, boxes=torch.from_numpy(ROWS))
    assert len(client.attributes(FRAME, results[:2])) == 2
    with pytest.raises(InvalidInputError, match="class 2"):
        client.attributes(FRAME, results)


def test_a_name_that_is_the_number_of_a_class_is_none(client: Client) -> None:
    names = {number: f"class{number}" for number in range(80)}
    boxes = SimpleNamespace(xyxy=BOXES, cls=np.float32([0, 0, 2]))
    with pytest.raises(InvalidInputError, match=r"1 of 3 .*\(class 2; the first"):
        client.attributes(FRAME, SimpleNamespace(boxes=boxes, names=names))
    boxes.cls[:] = 0
    assert len(client.attributes(FRAME, SimpleNamespace(boxes=boxes, names=names))) == 3


def test_results_become_detections_and_keep_the_genders(
    sv: Any, results_class: Any, client: Client
) -> None:
    torch = pytest.importorskip("torch")
    results = results_class(FRAME, "a.jpg", NAMES, boxes=torch.from_numpy(ROWS[:2]))
    detections = sv.Detections.from_ultralytics(results)
    people = client.attributes(FRAME, detections)
    assert people.to_supervision(detections).data["class_name"].tolist() == [
        "person",
        "person",
    ]
    again = sv.Detections.from_ultralytics(people.to_ultralytics(results))
    assert again.data["class_name"].tolist() == [p.gender.label for p in people]
