"""The client without a server: calls, results, errors and public names."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from PIL import Image

import personserve
from personserve import (
    Client,
    IncompatibleServerError,
    InvalidInputError,
    MockTransport,
    ModelDescription,
    People,
    PersonServeError,
    ServerUnavailableError,
    TensorDescription,
    describe_mock_models,
)
from personserve._errors import HTTP_STATUSES, STATUS_ERRORS, error_from_status
from personserve._wire.connection import Address
from personserve._wire.requests import DescribeModel, Infer, Ready, Request

PARAMETERS = {
    "max_people": "4",
    "female_probability.labels": "male,female",
    "female_probability.threshold": "0.6",
    "gender_crops.interpolation": "linear",
    "reid_crops.interpolation": "cubic",
}


class Echo:
    """A transport that answers each box with its x0 as probability."""

    def __init__(self, **parameters: str) -> None:
        self.parameters = PARAMETERS | parameters
        self.sent: list[Infer] = []
        self.described = 0

    def send(self, request: Request, timeout_s: float | None) -> Any:
        self.timeout_s = timeout_s
        if isinstance(request, Ready):
            raise ServerUnavailableError("nobody there")
        if isinstance(request, DescribeModel):
            self.described += 1
            inputs = [
                TensorDescription("gender_crops", "UINT8", (224, 224, 3)),
                TensorDescription("reid_crops", "UINT8", (384, 128, 3)),
            ]
            if request.model == "person_attributes":
                inputs = list(describe_mock_models()[0].inputs)
            outputs = [
                TensorDescription("female_probability", "FP32", (-1, 1)),
                TensorDescription("embedding", "FP32", (-1, 8)),
            ]
            return ModelDescription(request.model, 0, inputs, outputs, self.parameters)
        self.sent.append(request)
        inputs = request.inputs
        values = (
            inputs["boxes"][:, 0]
            if "boxes" in inputs
            else inputs["gender_crops"][:, 0, 0, 0] / np.float32(100)
        )
        return {
            "female_probability": values[:, None],
            "embedding": np.eye(len(values), 8, dtype=np.float32),
        }

    def close(self) -> None:
        self.closed = True


FRAME = np.zeros((10, 10, 3), np.uint8)


def _boxes(count: int) -> np.ndarray:
    boxes = np.tile(np.float32([0, 0, 5, 5]), (count, 1))
    boxes[:, 0] = np.arange(count) / 100
    return boxes


@pytest.mark.parametrize(
    ("count", "parts"), [(1, [1]), (4, [4]), (5, [2, 3]), (11, [4, 3, 4])]
)
def test_more_than_the_maximum_is_split_and_rejoined_in_order(
    count: int, parts: list[int]
) -> None:
    echo = Echo()
    people = Client(transport=echo).attributes(FRAME, _boxes(count))
    assert [len(sent.inputs["boxes"]) for sent in echo.sent] == parts
    np.testing.assert_allclose(people.female_probabilities, np.arange(count) / 100)
    assert len(people) == len(people.embeddings) == count
    assert echo.described == 1


def test_labels_and_threshold_are_the_servers() -> None:
    boxes = [[0.59, 0, 5, 5], [0.6, 0, 5, 5]]
    first, second = Client(transport=Echo()).attributes(FRAME, boxes)
    assert (first.gender.label, second.gender.label) == ("male", "female")
    assert first.gender.probability == pytest.approx(0.59)
    assert first.box == pytest.approx((0.59, 0, 5, 5))


def test_no_boxes_make_no_inference() -> None:
    echo = Echo()
    client = Client(transport=echo)
    for no_boxes in ([], np.empty((0, 4)), ()):
        people = client.attributes(FRAME, no_boxes)
        assert list(people) == []
        assert people.stand_in_weights == ()
        assert people.embeddings.shape == (0, 8), "as the model is described"
    assert echo.described == 1
    assert client.attributes_of_crops([]).embeddings.shape == (0, 8)
    assert (echo.sent, echo.described) == ([], 2)


def test_crops_are_resized_and_swapped_for_each_network() -> None:
    echo = Echo()
    crop = np.zeros((30, 20, 3), np.uint8)
    crop[..., 2] = 90  # red, in BGR
    people = Client(transport=echo).attributes_of_crops([crop] * 5)
    assert [len(sent.inputs["reid_crops"]) for sent in echo.sent] == [2, 3]
    assert echo.sent[0].inputs["gender_crops"].shape == (2, 224, 224, 3)
    assert echo.sent[0].inputs["reid_crops"].shape == (2, 384, 128, 3)
    assert echo.sent[0].inputs["gender_crops"][0, 0, 0].tolist() == [90, 0, 0]
    assert people[4].box is None
    assert not np.shares_memory(crop, echo.sent[0].inputs["gender_crops"])


def test_a_raw_image_of_one_pixel_is_not_taken_for_encoded_bytes() -> None:
    echo = Echo()
    client = Client(transport=echo)
    pixel = np.array([[[10, 20, 90]]], np.uint8)  # BGR
    box = [[0, 0, 1, 1]]
    for people in (
        client.attributes_of_crops([pixel]),
        client.attributes_of_crops(pixel[None]),
        client.attributes(pixel, box, crop_on="client"),
    ):
        assert len(people) == 1
    for sent in echo.sent:
        assert (sent.inputs["gender_crops"] == [90, 20, 10]).all()
        assert (sent.inputs["reid_crops"] == [90, 20, 10]).all()
    client.attributes(pixel, box)
    inputs = echo.sent[-1].inputs
    assert set(inputs) == {"raw_frame", "frame_size", "boxes"}
    np.testing.assert_array_equal(inputs["raw_frame"], [10, 20, 90])
    np.testing.assert_array_equal(inputs["frame_size"], [1, 1])


def test_encoded_frames_have_an_input_of_their_own() -> None:
    echo = Echo()
    client = Client(transport=echo)
    encoded = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    for frame in (encoded, bytearray(encoded), memoryview(encoded)):
        client.attributes(frame, [[0, 0, 1, 1]])
        assert set(echo.sent[-1].inputs) == {"encoded_frame", "boxes"}
        tensor = echo.sent[-1].inputs["encoded_frame"]
        assert (tensor.dtype, tensor.shape) == (np.uint8, (len(encoded),))
        assert tensor.tobytes() == encoded


def test_inputs_may_have_any_name() -> None:
    names = ("model", "timeout_s", "self")
    tensors = [TensorDescription(name, "FP32", (1,)) for name in names]
    transport = MockTransport(
        lambda request: {"sum": sum(request.inputs.values())},
        models=[ModelDescription("m", 0, tensors, [], {})],
    )
    one = np.ones(1, np.float32)
    outputs = Client(transport=transport).infer("m", dict.fromkeys(names, one))
    assert outputs["sum"].tolist() == [3]


WRONG: dict[str, tuple[Any, Any, str]] = {
    "float frame": (FRAME.astype(np.float32), _boxes(1), "got float32"),
    "grey frame": (FRAME[..., 0], _boxes(1), r"got uint8 \[10, 10\]"),
    "empty frame": (FRAME[:0], _boxes(1), r"got uint8 \[0, 10, 3\]"),
    "list frame": ([[1]], _boxes(1), "got list"),
    "no bytes": (b"", _boxes(1), "0 bytes"),
    "no file": ("missing.jpg", _boxes(1), "cannot read missing.jpg"),
    "three numbers": (FRAME, [[1, 2, 3]], r"expected \[N, 4\].*\[1, 3\]"),
    "words": (FRAME, [["a", 1, 2, 3]], "expected numbers"),
}


@pytest.mark.parametrize(("frame", "boxes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_fail_before_any_call(
    frame: Any, boxes: Any, message: str
) -> None:
    echo = Echo()
    with pytest.raises(InvalidInputError, match=message):
        Client(transport=echo).attributes(frame, boxes)
    assert echo.sent == []


def test_boxes_come_from_detectors_as_they_are() -> None:
    class Tensor:
        """A torch tensor on a GPU: NumPy takes it only from the CPU."""

        def cpu(self) -> np.ndarray:
            return _boxes(3)

    supervision = SimpleNamespace(xyxy=_boxes(3))
    ultralytics = SimpleNamespace(boxes=SimpleNamespace(xyxy=Tensor()))
    for boxes in (supervision, ultralytics, _boxes(3).tolist(), tuple(_boxes(3))):
        people = Client(transport=Echo()).attributes(FRAME, boxes)
        np.testing.assert_allclose(people.female_probabilities, [0, 0.01, 0.02])


def test_frames_of_pil_are_the_same_pixels() -> None:
    echo = Echo()
    rgb = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Client(transport=echo).attributes(Image.fromarray(rgb), _boxes(1))
    inputs = echo.sent[0].inputs
    assert inputs["frame_size"].tolist() == [6, 5]
    np.testing.assert_array_equal(inputs["raw_frame"], rgb[..., ::-1].reshape(-1))


def test_the_client_cuts_only_what_is_cheaper_to_send() -> None:
    crops = 224 * 224 * 3 + 384 * 128 * 3
    frame = np.zeros((3 * crops // (3 * 500), 500, 3), np.uint8)  # three people's worth
    for count, inputs in (
        (2, {"gender_crops", "reid_crops"}),
        (4, {"raw_frame", "frame_size", "boxes"}),
    ):
        echo = Echo()
        boxes = np.tile(np.float32([1, 2, 50, 80]), (count, 1))
        Client(transport=echo).attributes(frame, boxes, crop_on="auto")
        assert set(echo.sent[0].inputs) == inputs


def test_genders_below_the_band_abstain() -> None:
    boxes = [[0.59, 0, 5, 5], [0.95, 0, 5, 5], [0.05, 0, 5, 5]]
    client = Client(transport=Echo(), abstain_below=0.9)
    genders = [person.gender for person in client.attributes(FRAME, boxes)]
    assert [gender.abstained for gender in genders] == [True, False, False]


def test_what_people_are_asked_next() -> None:
    people = Client(transport=Echo()).attributes(FRAME, _boxes(4))
    np.testing.assert_array_equal(people.similarities(), np.eye(4))
    assert people.similarities(People((), *[np.empty(0)] * 2)).shape == (4, 0)
    assert people.nearest(people[2]) == ((2, 1.0),)
    ranked = people.nearest(people[2].embedding, 9)
    assert [index for index, _ in ranked] == [2, 0, 1, 3]
    with pytest.raises(InvalidInputError, match=r"expected an embedding \[8\]"):
        people.nearest(np.zeros(3, np.float32))
    assert people[0].similarity(people[1]) == 0
    values = json.loads(people.to_json(embeddings=False))
    assert values["people"][1] == {
        "box": [pytest.approx(0.01), 0, 5, 5],
        "gender": {
            "label": "male",
            "female_probability": pytest.approx(0.01),
            "probability": pytest.approx(0.99),
            "abstained": False,
        },
    }
    assert len(people.to_dict(embeddings=True)["people"][0]["embedding"]) == 8


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"address": "ftp://x"}, "expected grpc://"),
        ({"address": "grpc://x:nine"}, "grpc://x:nine"),
        ({"address": []}, "at least one"),
        ({"compression": "zip"}, "expected gzip"),
        ({"shared_memory": "disk"}, "expected system, cuda or None"),
    ],
)
def test_wrong_settings_are_said_at_once(how: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Client(**how)


def test_addresses() -> None:
    assert str(Address.parse("host:1")) == "grpc://host:1"
    assert str(Address.parse("host")) == "grpc://host:8001"
    assert str(Address.parse("https://host")) == "https://host:8000"
    assert str(Address.parse("grpcs://[::1]:9/")) == "grpcs://[::1]:9"


def test_a_wrong_crop_is_named_by_its_index() -> None:
    with pytest.raises(InvalidInputError, match=r"crop 1: .*float64"):
        Client(transport=Echo()).attributes_of_crops([FRAME, np.zeros((2, 2, 3))])


def test_timeouts_are_per_call() -> None:
    echo = Echo()
    client = Client(transport=echo, timeout_s=7)
    client.attributes(FRAME, _boxes(1))
    assert echo.timeout_s == pytest.approx(7, abs=0.1)
    client.attributes(FRAME, _boxes(1), timeout_s=0.5)
    assert echo.timeout_s == pytest.approx(0.5, abs=0.1)


def test_a_server_of_another_kind_is_recognised() -> None:
    echo = Echo()
    del echo.parameters["max_people"]
    with pytest.raises(IncompatibleServerError, match="max_people"):
        Client(transport=echo).attributes(FRAME, _boxes(1))
    echo = Echo()
    del echo.parameters["female_probability.labels"]
    with pytest.raises(IncompatibleServerError, match="labels"):
        Client(transport=echo).attributes(FRAME, _boxes(1))


def test_ready_does_not_raise_and_closing_closes() -> None:
    echo = Echo()
    with Client(transport=echo) as client:
        assert not client.ready()
    assert echo.closed


def test_stand_ins_are_passed_on() -> None:
    people = Client(transport=Echo(stand_in_weights="a,b")).attributes(FRAME, _boxes(2))
    assert people.stand_in_weights == ("a", "b")


def test_every_status_has_an_error() -> None:
    statuses = {code.name for code in grpc.StatusCode} - {"OK"}
    assert set(STATUS_ERRORS) == statuses
    assert all(issubclass(kind, PersonServeError) for kind in STATUS_ERRORS.values())
    assert set(HTTP_STATUSES.values()) <= statuses
    for code in HTTPStatus:
        status = HTTP_STATUSES.get(code, "UNKNOWN")
        error = error_from_status(status, "why", DescribeModel("m"), "there")
        assert type(error) is STATUS_ERRORS[status]
        assert error.model == "m"


def test_errors_say_model_and_request() -> None:
    error = InvalidInputError("no", model="m", request_id="r")
    assert str(error) == "no (model m, request r)"
    assert isinstance(error, ValueError)


def test_exported_names_are_those_that_type_checkers_see() -> None:
    stub = Path(personserve.__file__).with_suffix(".pyi")
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    (declared,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
    )
    assert set(personserve.__all__) == set(declared)
    assert all(hasattr(personserve, name) for name in declared)
    assert not hasattr(personserve, "Clientele")


def test_the_version_is_that_of_the_package() -> None:
    assert personserve.__version__ == importlib.metadata.version("personserve")
    program = (
        "import importlib.metadata as m\n"
        "def missing(name): raise m.PackageNotFoundError\n"
        "m.version = missing\n"
        "import personserve; print(personserve.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0.0.0"


def _loaded_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


HEAVY = {
    *("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "builders"),
    *("httpcore", "faiss", "typer", "rich", "PIL", "opentelemetry"),
}


LOADED_WHEN_USED = {"numpy", "cv2", "grpc", "tritonclient", "pandas", "asyncio"}


def test_the_client_imports_nothing_heavy() -> None:
    assert not HEAVY & _loaded_after("import personserve; personserve.Client")


def test_the_package_itself_imports_next_to_nothing() -> None:
    assert not (HEAVY | LOADED_WHEN_USED) & _loaded_after("import personserve")


def test_that_check_can_fail() -> None:
    assert _loaded_after("import onnxruntime") & HEAVY
    use = "import personserve; personserve.Client"
    assert _loaded_after(use) >= {"numpy", "cv2", "tritonclient"}
