"""Results: how they print, slice, and become tables and detectors' objects."""

from __future__ import annotations

import copy
import csv
import json
import pickle
import sys
from base64 import b64decode
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from personserve import (
    Client,
    EmbeddingSource,
    InvalidInputError,
    Kinship,
    MockTransport,
    ModelUnavailableError,
    People,
    describe_mock_models,
)
from personserve._wire.requests import Infer
from personserve.images.inputs import tensors_from_frame

FRAME = np.full((480, 640, 3), 120, np.uint8)
BOXES = [[10, 10, 90, 300], [200, 20, 280, 310], [400, 5, 470, 290]]
STAND_INS = ("person_gender", "person_reid_kd_r18")


def _client(*stand_ins: str, **parameters: str) -> Client:
    models = [
        replace(model, parameters={**model.parameters, **parameters})
        for model in describe_mock_models(stand_in_weights=stand_ins)
    ]
    return Client(transport=MockTransport(models=models))


@pytest.fixture
def people() -> People:
    return _client().attributes(FRAME, BOXES)


# ---- one or two lines ------------------------------------------------------------


def test_results_print_in_a_line() -> None:
    people = _client(*STAND_INS).attributes(FRAME, BOXES)
    untrained = "UNTRAINED weights: person_gender, person_reid_kd_r18"
    assert repr(people) == (
        "<People: 3 (1 female, 2 male), embeddings [3, 512] of person_reid_kd_r18; "
        f"{untrained}>"
    )
    assert repr(people[0]) == (
        "<Person female 0.64, box (10, 10, 90, 300), embedding [512] of "
        f"person_reid_kd_r18; {untrained}>"
    )
    crops = _client().attributes_of_crops([FRAME])
    assert repr(crops[0]) == (
        "<Person female 0.64, embedding [512] of person_reid_kd_r18>"
    )
    inputs = {**tensors_from_frame(FRAME), "boxes": np.float32(BOXES)}
    outputs = _client(*STAND_INS).infer("person_attributes", inputs)
    assert repr(outputs) == (
        "<InferResult of person_attributes: female_probability float32 [3, 1], "
        f"embedding float32 [3, 512]; {untrained}>"
    )
    assert outputs.stand_in_weights == STAND_INS


def test_kinship_states_its_threshold() -> None:
    one = Kinship(np.float32([[0.7]]), ("kinship_pair",), 0.5)
    assert repr(one) == (
        "<Kinship probability 0.700, related (threshold 0.5); UNTRAINED weights: "
        "kinship_pair>"
    )
    many = Kinship(np.float32([[0.2, 0.5, 0.9]]), threshold=0.5)
    assert many.related.tolist() == [[False, True, True]]
    assert repr(many) == (
        "<Kinship [1, 3], probabilities 0.200 to 0.900, 2 related (threshold 0.5)>"
    )
    assert "0.900" in many._repr_html_()
    assert "threshold 0.5" in many._repr_html_()
    assert "no threshold" in repr(Kinship(np.float32([[0.7]])))
    assert Kinship(np.float32([[0.7]])).related is None
    assert repr(Kinship(np.empty((0, 2), np.float32), (), 0.5)).startswith("<Kinship [")


def test_undecided_people_are_counted_as_such() -> None:
    client = Client(transport=MockTransport(), abstain_below=0.9)
    people = client.attributes(FRAME, BOXES)
    assert "2 undecided, 1 male" in repr(people)
    assert people.labels()[0] == "undecided 0.64"
    assert people.to_records()[0]["abstained"] is True


# ---- slices ----------------------------------------------------------------------


def test_slices_are_people(people: People) -> None:
    for rows, expected in (
        (slice(0, 2), [0, 1]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2, 0], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        (people.female_probabilities > 0.5, [0]),
        ([], []),
        (np.array([-1]), [2]),
    ):
        part = people[rows]
        assert isinstance(part, People)
        assert list(part) == [people[i] for i in expected]
        np.testing.assert_array_equal(part.embeddings, people.embeddings[expected])
        assert part.similarities(people).shape == (len(expected), 3)
        assert (part.source, part.gender_labels) == (people.source, ("male", "female"))
        assert bool(part) is bool(expected)
    assert people[-1] is people[2]
    assert people[np.int64(1)] is people[1]
    for wrong in ("a", [1.5], [[0]], None):
        with pytest.raises(TypeError, match="a list of indices or a mask"):
            people[wrong]


# ---- a frame without people ------------------------------------------------------


def test_a_video_with_empty_frames_is_concatenated() -> None:
    client = _client(*STAND_INS)
    frames = [client.attributes(FRAME, boxes) for boxes in ([], BOXES, [], BOXES[:1])]
    assert np.concatenate([people.embeddings for people in frames]).shape == (4, 512)
    assert frames[0].stand_in_weights == STAND_INS
    joined = People.concatenate(frames)
    assert (len(joined), joined.embeddings.shape) == (4, (4, 512))
    assert joined.gender_labels == ("male", "female")
    assert joined.source == frames[1].source == frames[0].source
    assert client.attributes_of_crops([]).embeddings.shape == (0, 512)
    unknown = People((), np.empty(0, np.float32), np.empty((0, 0), np.float32))
    assert len(People.concatenate([unknown, *frames])) == 4
    assert People.concatenate([unknown, frames[0]]).embeddings.shape == (0, 512)
    with pytest.raises(InvalidInputError, match="at least one"):
        People.concatenate([])
    one = People(frames[3].persons, np.zeros(1, np.float32), np.ones((1, 8)))
    with pytest.raises(InvalidInputError, match=r"of one size, got \[8, 512\]"):
        People.concatenate([one, frames[1]])


def test_an_empty_frame_needs_no_server() -> None:
    class Gone(MockTransport):
        gone = True

        def send(self, request: Any, timeout_s: float | None) -> Any:
            if self.gone:
                raise ModelUnavailableError("gone")
            return super().send(request, timeout_s)

    transport = Gone()
    client = Client(transport=transport)
    assert client.attributes(FRAME, []).embeddings.shape == (0, 0)
    transport.gone = False
    assert client.attributes(FRAME, []).embeddings.shape == (0, 512)
    transport.gone = True
    (entry,) = client._calls.models.descriptions._entries.values()
    entry.requested_at_s -= 99
    assert client.attributes(FRAME, []).embeddings.shape == (0, 512), "as it was"
    with pytest.raises(ModelUnavailableError):
        client.attributes(FRAME, BOXES)


# ---- model and weights -----------------------------------------------------------


def test_people_of_other_weights_are_not_compared() -> None:
    people = _client().attributes(FRAME, BOXES)
    weights = {"embedding.weights": "other.safetensors"}
    others = _client(**weights).attributes(FRAME, BOXES)
    message = r"\(random values.*\) cannot be compared .* \(other.safetensors\)"
    for compare in (
        lambda: people.similarities(others),
        lambda: people[0].similarity(others[0]),
        lambda: people.nearest(others[0]),
        lambda: People.concatenate([people, others]),
    ):
        with pytest.raises(InvalidInputError, match=message):
            compare()
    assert people.source == EmbeddingSource(
        "person_reid_kd_r18", "random values of a mock transport"
    )
    untrained = _client("person_reid_kd_r18").attributes(FRAME, BOXES)
    assert untrained.source is not None
    assert untrained.source.untrained
    assert untrained[0].stand_in_weights == ("person_reid_kd_r18",)


def test_a_server_that_states_no_source_is_taken_as_before() -> None:
    unknown = _client(**{"embedding.model": ""}).attributes(FRAME, BOXES)
    assert unknown.source is None
    assert "embedding_source" not in unknown.to_dict()
    known = _client().attributes(FRAME, BOXES)
    assert unknown.similarities(known).shape == (3, 3)


def test_a_call_during_a_reload_is_repeated() -> None:
    """The first half of the boxes is answered by the old weights."""

    class Reloading(MockTransport):
        inferences = 0

        def send(self, request: Any, timeout_s: float | None) -> Any:
            if isinstance(request, Infer):
                self.inferences += 1
                if self.inferences == 2:
                    self.reload()
            return super().send(request, timeout_s)

        def reload(self) -> None:
            model = self._models["person_attributes"]
            parameters = {**model.parameters, "embedding.weights": "new"}
            self._models[model.name] = replace(model, parameters=parameters)
            client._calls.models.descriptions._entries.clear()

    transport = Reloading(models=describe_mock_models(max_people=2))
    client = Client(transport=transport)
    people = client.attributes(FRAME, BOXES)
    assert people.source is not None
    assert {person.source.weights for person in people} == {"new"}
    assert transport.inferences == 4


# ---- notebooks -------------------------------------------------------------------


def _thumbnails(html: str) -> list[np.ndarray]:
    parts = html.split('src="data:image/jpeg;base64,')[1:]
    data = [b64decode(part.partition('"')[0]) for part in parts]
    return [cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR) for d in data]


def test_thumbnails_are_shown_while_the_pixels_exist(tmp_path: Path) -> None:
    frame = FRAME.copy()
    frame[:, 200:280] = (0, 0, 250)
    people = _client(*STAND_INS).attributes(frame, BOXES)
    html = people._repr_html_()
    assert "Untrained stand-in weights" in html
    images = _thumbnails(html)
    assert len(images) == 3
    assert [image.shape[0] for image in images] == [96, 96, 96]
    assert images[1].mean(axis=(0, 1))[2] > 200, "the second one is red"
    assert len(_thumbnails(people[1:]._repr_html_())) == 2
    assert len(_thumbnails(people[1]._repr_html_())) == 1
    del frame
    assert _thumbnails(people._repr_html_()) == [], "results keep no frame alive"

    path = tmp_path / "street.png"
    cv2.imwrite(str(path), FRAME)
    of_file = _client().attributes(path, BOXES)
    assert len(_thumbnails(of_file._repr_html_())) == 3
    path.unlink()
    assert _thumbnails(of_file._repr_html_()) == []
    data = cv2.imencode(".png", FRAME)[1].tobytes()
    assert _thumbnails(_client().attributes(data, BOXES)._repr_html_()) == []

    crops = [FRAME, FRAME[:100, :50]]
    assert len(_thumbnails(_client().attributes_of_crops(crops)._repr_html_())) == 2


def test_text_in_html_is_escaped() -> None:
    labels = {"female_probability.labels": "<i>m</i>,<script>"}
    html = _client("<b>x</b>", **labels).attributes(FRAME, BOXES)._repr_html_()
    assert "<script>" not in html
    assert "<b>x</b>" not in html
    assert "&lt;script&gt;" in html


def test_many_people_are_cut_in_html() -> None:
    people = _client().attributes(FRAME, BOXES * 30)
    assert people._repr_html_().count("<tr>") == 51
    assert "the first 50 of 90 are shown" in people._repr_html_()


def test_results_are_pickled_without_their_pixels(people: People) -> None:
    data = pickle.dumps(people)
    assert len(data) < 30_000
    again = pickle.loads(data)  # noqa: S301 - our own
    assert repr(again) == repr(people)
    assert again[0].image.get() is None
    assert repr(copy.deepcopy(people)) == repr(people)


# ---- tables ----------------------------------------------------------------------


def test_embeddings_are_included_when_asked_for(people: People) -> None:
    assert "embedding" not in people.to_records()[0]
    assert "embedding" not in people.to_dict()["people"][0]
    assert "embedding" not in people[0].to_dict()
    assert "embedding" not in people.to_pandas()
    assert len(people.to_records(embeddings=True)[0]["embedding"]) == 512
    assert len(people.to_dict(embeddings=True)["people"][0]["embedding"]) == 512
    assert len(people[0].to_dict(embedding=True)["embedding"]) == 512
    assert len(people.to_pandas(embeddings=True)["embedding"][0]) == 512


def test_rows_are_flat_and_name_untrained_models() -> None:
    people = _client(*STAND_INS).attributes(FRAME, BOXES)
    records = people.to_records()
    assert records[1] == {
        "person": 1,
        "x0": 200.0,
        "y0": 20.0,
        "x1": 280.0,
        "y1": 310.0,
        "gender": "male",
        "gender_probability": pytest.approx(0.73, abs=0.01),
        "female_probability": pytest.approx(0.27, abs=0.01),
        "abstained": False,
        "stand_in_weights": "person_gender,person_reid_kd_r18",
    }
    file = StringIO()
    writer = csv.DictWriter(file, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    assert file.getvalue().count("\n") == 4
    values = json.loads(people.to_json())
    assert values["stand_in_weights"] == list(STAND_INS)
    assert values["embedding_source"]["model"] == "person_reid_kd_r18"
    assert people[0].to_dict()["stand_in_weights"] == list(STAND_INS)
    assert _client().attributes_of_crops([FRAME]).to_records()[0]["x0"] is None


def test_a_data_frame_has_the_same_columns_without_people(people: People) -> None:
    pandas = pytest.importorskip("pandas")
    table = people.to_pandas()
    assert list(table.columns) == list(people.to_records()[0])
    assert table["gender"].tolist() == ["female", "male", "male"]
    empty = people[:0].to_pandas()
    assert list(empty.columns) == list(table.columns)
    assert empty.dtypes.equals(table.dtypes)
    assert pandas.concat([empty, table]).dtypes.equals(table.dtypes)


def test_a_missing_package_is_named(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InvalidInputError, match="pip install pandas"):
        people.to_pandas()
    with pytest.raises(InvalidInputError, match="pip install supervision"):
        people.to_supervision()


# ---- detectors -------------------------------------------------------------------


@dataclass
class Detections:
    """The public attributes of supervision.Detections, which is not installed."""

    xyxy: np.ndarray
    class_id: np.ndarray | None = None
    tracker_id: np.ndarray | None = None
    data: dict[str, Any] = field(default_factory=dict)


def test_results_go_back_into_supervision(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    detections = Detections(
        np.float32(BOXES), np.zeros(3, int), np.array([7, 8, 9]), {"x": np.ones(3)}
    )
    filled = people.to_supervision(detections)
    assert filled.tracker_id.tolist() == [7, 8, 9]
    assert set(filled.data) == {
        *("x", "gender", "gender_probability", "female_probability")
    }
    assert filled.data["gender"].tolist() == ["female", "male", "male"]
    assert set(detections.data) == {"x"}, "the caller's object is as it was"
    with_embeddings = people.to_supervision(detections, embeddings=True)
    assert with_embeddings.data["embedding"].shape == (3, 512)
    with pytest.raises(InvalidInputError, match="3 detections for 2 people"):
        people[:2].to_supervision(detections)

    monkeypatch.setitem(
        sys.modules, "supervision", SimpleNamespace(Detections=Detections)
    )
    new = people.to_supervision()
    assert new.xyxy.tolist() == np.float32(BOXES).tolist()
    assert new.data["class_name"].tolist() == ["person"] * 3
    assert people[:0].to_supervision().xyxy.shape == (0, 4)
    with pytest.raises(InvalidInputError, match="crops have no boxes"):
        _client().attributes_of_crops([FRAME]).to_supervision()


class UltralyticsBoxes:
    """The public attributes of ultralytics' Boxes, which is not installed."""

    def __init__(self, data: Any, orig_shape: tuple[int, int]) -> None:
        self.data, self.orig_shape = data, orig_shape

    xyxy = property(lambda self: self.data[:, :4])
    conf = property(lambda self: self.data[:, -2])
    cls = property(lambda self: self.data[:, -1])


def _ultralytics(kind: Any, *, tracked: bool = False) -> Any:
    rows = [
        [*box, *([40 + i] if tracked else []), 0.8, 0.0] for i, box in enumerate(BOXES)
    ]
    boxes = UltralyticsBoxes(kind(rows), FRAME.shape[:2])
    names = {0: "person", 2: "car"}
    return SimpleNamespace(boxes=boxes, names=names, orig_img=FRAME)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize("tracked", [False, True])
def test_results_go_back_into_ultralytics(kind: Any, tracked: bool) -> None:
    results = _ultralytics(kind, tracked=tracked)
    people = _client().attributes(FRAME, [results])
    filled = people.to_ultralytics([results])
    assert filled.names == {0: "male", 1: "female"}
    assert filled.boxes.cls.tolist() == [1, 0, 0]
    assert filled.boxes.conf.tolist() == pytest.approx(
        [person.gender.probability for person in people]
    )
    assert filled.boxes.xyxy.tolist() == results.boxes.xyxy.tolist()
    if tracked:
        assert filled.boxes.data[:, 4].tolist() == [40, 41, 42]
    assert results.names[0] == "person", "the caller's object is as it was"
    assert results.boxes.conf.tolist() == pytest.approx([0.8] * 3)
    with pytest.raises(InvalidInputError, match="3 boxes for 1 people"):
        people[:1].to_ultralytics(results)


CARS = {
    "supervision without names": (
        Detections(np.float32(BOXES), np.array([0, 2, 0])),
        r"1 of 3 are not of the class person \(class 2; the first is box 1\)",
    ),
    "supervision with names": (
        Detections(
            np.float32(BOXES),
            np.array([1, 0, 3]),
            data={"class_name": np.array(["person", "bag", "car"])},
        ),
        r"2 of 3 .*\(bag, car; the first is box 1\).*detections.class_id == 0",
    ),
    "ultralytics": (
        SimpleNamespace(
            boxes=SimpleNamespace(
                xyxy=torch.tensor(BOXES), cls=torch.tensor([0.0, 0.0, 2.0])
            ),
            names={0: "person", 1: "bicycle", 2: "car"},
        ),
        r"1 of 3 .*\(car; the first is box 2\).*classes=\[0\]",
    ),
    "ultralytics' Boxes": (
        SimpleNamespace(xyxy=np.float32(BOXES), cls=np.float32([0, 7, 0])),
        "class 7; the first is box 1",
    ),
    "a detector of faces": (
        SimpleNamespace(
            boxes=SimpleNamespace(xyxy=np.float32(BOXES), cls=np.zeros(3)),
            names={0: "face"},
        ),
        r"3 of 3 .*\(face; .* pass their numbers",
    ),
    "no boxes": (SimpleNamespace(boxes=None, obb=object()), "no upright boxes"),
}


@pytest.mark.parametrize(("result", "message"), CARS.values(), ids=CARS)
def test_a_car_gets_no_gender(result: Any, message: str) -> None:
    transport = MockTransport()
    with pytest.raises(InvalidInputError, match=message):
        Client(transport=transport).attributes(FRAME, result)
    assert transport.requests == []


PERSONS = {
    "COCO": Detections(np.float32(BOXES), np.zeros(3, int)),
    "no classes": Detections(np.float32(BOXES)),
    "another number with its name": Detections(
        np.float32(BOXES),
        np.array([4, 4, 5]),
        data={"class_name": np.array(["Pedestrian", "person", "people"])},
    ),
    "names in a list": SimpleNamespace(
        boxes=SimpleNamespace(xyxy=np.float32(BOXES), cls=np.ones(3)),
        names=["car", "person"],
    ),
    "in a list": [_ultralytics(torch.tensor)],
}


@pytest.mark.parametrize("result", PERSONS.values(), ids=PERSONS)
def test_detected_persons_are_taken(result: Any) -> None:
    assert len(_client().attributes(FRAME, result)) == 3
