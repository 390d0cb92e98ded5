"""Descriptions follow a server whose models are reloaded or replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from personserve import (
    Client,
    DescribeModel,
    IncompatibleServerError,
    Infer,
    InvalidInputError,
    MockTransport,
    ModelDescription,
    ServerUnavailableError,
    TensorDescription,
    describe_mock_models,
)
from personserve import _descriptions as descriptions
from personserve._wire.requests import Outputs, Request
from personserve.images.inputs import tensors_from_frame

FRAME = np.zeros((100, 100, 3), np.uint8)
BOXES = [[0, 0, 10, 20], [5, 5, 30, 60]]
NAME = "person_attributes"


class Clock:
    """A clock that the test moves on."""

    now_s = 1000.0

    def monotonic(self) -> float:
        self.now_s += 1e-6
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(descriptions.time, "monotonic", clock.monotonic)
    return clock


class Server(MockTransport):
    """A server whose models can be replaced, and which reports their version."""

    version = ""
    width = 512
    maximum = 64

    def __init__(self) -> None:
        super().__init__(self.answer)

    def replace_parameters(self, name: str = NAME, **parameters: str) -> None:
        model = self._models[name]
        self._models[name] = replace(
            model, parameters={**model.parameters, **parameters}
        )

    def rename_labels(self) -> None:
        self.replace_parameters(**{"female_probability.labels": "m,f"})

    def answer(self, request: Infer) -> Any:
        rows = len(next(reversed(request.inputs.values())))
        if rows > self.maximum:
            raise InvalidInputError("too many boxes", model=request.model)
        outputs = Outputs(
            female_probability=np.full((rows, 1), 0.25, np.float32),
            embedding=np.ones((rows, self.width), np.float32),
        )
        outputs.model_version = self.version
        return outputs

    def count(self, kind: type[Request]) -> int:
        return sum(isinstance(request, kind) for request in self.requests)


def _label(client: Client) -> str:
    return client.attributes(FRAME, BOXES)[0].gender.label


def test_a_description_is_requested_once_in_ten_seconds(clock: Clock) -> None:
    server = Server()
    client = Client(transport=server)
    for _ in range(50):
        client.attributes(FRAME, BOXES)
    assert server.count(DescribeModel) == 1
    clock.now_s += 9.9
    client.attributes(FRAME, BOXES)
    assert server.count(DescribeModel) == 1
    clock.now_s += 0.2
    client.attributes(FRAME, BOXES)
    assert server.count(DescribeModel) == 2


def test_labels_and_warnings_are_at_most_ten_seconds_old(clock: Clock) -> None:
    server = Server()
    client = Client(transport=server)
    assert _label(client) == "male"
    server.rename_labels()
    server.replace_parameters(stand_in_weights="person_gender")
    clock.now_s += 10.1
    people = client.attributes(FRAME, BOXES)
    assert people[0].gender.label == "m"
    assert people.stand_in_weights == ("person_gender",)


def test_a_slow_answer_is_read_with_a_fresh_description(clock: Clock) -> None:
    """The server is restarted while the call waits for it."""

    class Restarting(Server):
        def answer(self, request: Infer) -> Any:
            self.rename_labels()
            clock.now_s += 10.1
            return super().answer(request)

    assert _label(Client(transport=Restarting())) == "m"


def test_another_version_is_described_at_once() -> None:
    server = Server()
    server.version = "1"
    client = Client(transport=server)
    assert _label(client) == _label(client) == "male"
    server.rename_labels()
    server.version = "2"
    assert _label(client) == "m"
    count = server.count(DescribeModel)
    assert _label(client) == "m"
    assert server.count(DescribeModel) == count == 2


def test_describe_is_always_fresh() -> None:
    server = Server()
    client = Client(transport=server)
    client.describe(NAME)
    server.rename_labels()
    described = client.describe(NAME).parameters["female_probability.labels"]
    assert described == "m,f"
    assert _label(client) == "m", "and calls use what it has read"
    assert server.count(DescribeModel) == 2


def test_an_answer_that_contradicts_the_description_is_requested_again() -> None:
    server = Server()
    client = Client(transport=server)
    client.attributes(FRAME, BOXES)
    frames, _ = describe_mock_models()
    server.width = 256
    embedding = TensorDescription("embedding", "FP32", (-1, 256))
    server._models[NAME] = replace(frames, outputs=(frames.outputs[0], embedding))
    assert client.attributes(FRAME, BOXES).embeddings.shape == (2, 256)
    assert (server.count(DescribeModel), server.count(Infer)) == (2, 3)

    server.width = 128  # contradicts the description that is on the server, too
    with pytest.raises(IncompatibleServerError, match=r"\[2, 256\], got .*\[2, 128\]"):
        client.attributes(FRAME, BOXES)
    assert (server.count(DescribeModel), server.count(Infer)) == (3, 4)


def test_a_lower_limit_is_learnt_from_a_refusal() -> None:
    server = Server()
    client = Client(transport=server)
    boxes = BOXES * 20
    client.attributes(FRAME, boxes)
    server.maximum = 16
    with pytest.raises(InvalidInputError, match="too many boxes"):
        client.attributes(FRAME, boxes)
    server.replace_parameters(max_people="16")
    assert len(client.attributes(FRAME, boxes)) == 40


def test_other_crops_are_cut_again() -> None:
    """The model is replaced by one of the same shape, but other interpolation."""
    server = Server()
    server.version = "1"
    client = Client(transport=server)
    client.attributes_of_crops([FRAME] * 2)
    server.replace_parameters(
        "person_attributes_crops", **{"gender_crops.interpolation": "cubic"}
    )
    server.version = "2"
    client.attributes_of_crops([FRAME] * 2)
    assert server.count(Infer) == 3, "the second one is sent again"
    client.attributes_of_crops([FRAME] * 2)
    assert server.count(Infer) == 4


def test_a_wrong_argument_keeps_its_error_if_the_server_is_gone() -> None:
    class Gone(Server):
        gone = False

        def send(self, request: Request, timeout_s: float | None) -> Any:
            if self.gone and isinstance(request, DescribeModel):
                raise ServerUnavailableError("gone")
            return super().send(request, timeout_s)

    server = Gone()
    client = Client(transport=server)
    client.attributes(FRAME, BOXES)
    server.maximum, server.gone = 1, True
    with pytest.raises(InvalidInputError, match="too many boxes"):
        client.attributes(FRAME, BOXES)


def test_raw_inferences_follow_other_inputs(clock: Clock) -> None:
    def describe(name: str, *, stateful: bool = False) -> ModelDescription:
        tensor = TensorDescription(name, "FP32", (1,))
        return ModelDescription("m", 0, (tensor,), (tensor,), {}, stateful)

    one = np.ones(1, np.float32)
    server = MockTransport(lambda r: dict(r.inputs), models=[describe("a")])
    client = Client(transport=server)
    assert set(client.infer("m", {"a": one})) == {"a"}
    server._models["m"] = describe("b")
    assert set(client.infer("m", {"b": one})) == {"b"}
    with pytest.raises(InvalidInputError, match="expected inputs"):
        client.infer("m", {"c": one})
    server._models["m"] = describe("b", stateful=True)
    clock.now_s += 10.1
    client.infer("m", {"b": one})
    sent = [r for r in server.requests if isinstance(r, Infer)]
    assert [r.repeatable for r in sent] == [True, True, False]


def _client_of(*servers: Server) -> Client:
    """A client with one endpoint for each of these servers."""
    addresses = [f"grpc://127.0.0.1:{number + 1}" for number in range(len(servers))]
    client = Client(addresses, transport=servers[0])
    for endpoint, server in zip(
        client._parts.dispatcher.endpoints, servers, strict=True
    ):
        endpoint.transport = server
    return client


def test_each_server_is_described_by_itself() -> None:
    """In the middle of a rollout: other labels, limits, weights and sizes of crops."""
    old, new = Server(), Server()
    new.rename_labels()
    new.replace_parameters(stand_in_weights="person_gender", max_people="8")
    new.maximum = 8
    client = _client_of(old, new)
    labels = []
    for _ in range(6):
        people = client.attributes(FRAME, BOXES * 10)
        labels.append(people[0].gender.label)
        assert people.stand_in_weights == (
            ("person_gender",) if labels[-1] == "m" else ()
        )
    assert labels == ["male", "m"] * 3
    assert old.count(DescribeModel) == new.count(DescribeModel) == 1
    assert (old.count(Infer), new.count(Infer)) == (3, 9)

    new.replace_parameters(
        "person_attributes_crops", **{"gender_crops.interpolation": "cubic"}
    )
    for _ in range(4):
        client.attributes_of_crops([FRAME] * 2)
    assert (old.count(Infer), new.count(Infer)) == (5, 11), "none was sent twice"


def test_the_answer_of_another_server_is_described_by_that_server() -> None:
    class Gone(Server):
        def answer(self, request: Infer) -> Any:
            raise ServerUnavailableError(f"gone: {request.model}")

    gone, other = Gone(), Server()
    other.rename_labels()
    client = _client_of(gone, other)
    assert _label(client) == "m"
    inputs = {**tensors_from_frame(FRAME), "boxes": np.zeros((1, 4))}
    assert client.infer(NAME, inputs)
    assert gone.count(Infer) == 1, "it backs off"


def test_turns_are_shared_evenly_also_if_the_client_chooses_where_to_crop() -> None:
    first, second = Server(), Server()
    client = _client_of(first, second)
    for _ in range(10):
        client.attributes(FRAME, BOXES, crop_on="auto")
    assert first.count(Infer) == second.count(Infer) == 5
