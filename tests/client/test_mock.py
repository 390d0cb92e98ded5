"""Mock transports: users' code runs without a server, as it would with one."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from builders.repository.layout import ROOT
from personserve import (
    AsyncClient,
    AsyncMockTransport,
    Client,
    DescribeModel,
    Infer,
    InvalidInputError,
    MockTransport,
    ModelDescription,
    ModelUnavailableError,
    Ready,
    ServerError,
    TensorDescription,
    describe_mock_models,
)
from personserve._wire.grpc_messages import description_from_config

FRAME = np.zeros((100, 100, 3), np.uint8)
BOXES = [[0, 0, 10, 20], [5, 5, 30, 60], [1, 2, 3, 4]]


def test_people_are_answered_without_a_server() -> None:
    transport = MockTransport()
    with Client(transport=transport) as client:
        people = client.attributes(FRAME, BOXES)
        again = client.attributes(FRAME, BOXES[:2], crop_on="client")
        crops = client.attributes_of_crops([FRAME])
    assert len(people) == 3
    assert people.embeddings.shape == (3, 512)
    np.testing.assert_allclose(np.linalg.norm(people.embeddings, axis=1), 1, rtol=1e-5)
    assert {person.gender.label for person in people} == {"male", "female"}
    assert people.stand_in_weights == ()
    np.testing.assert_array_equal(again.embeddings, people.embeddings[:2])
    assert crops[0].gender == people[0].gender
    assert transport.requests[0] == DescribeModel("person_attributes")
    inferences = [r.model for r in transport.requests if isinstance(r, Infer)]
    assert inferences == ["person_attributes", *["person_attributes_crops"] * 2]
    assert transport.closed


def test_async_clients_get_the_same_answers() -> None:
    async def run() -> None:
        transport = AsyncMockTransport()
        async with AsyncClient(transport=transport) as client:
            people = await client.attributes(FRAME, BOXES)
            stream = client.attributes_stream([(FRAME, BOXES)] * 3)
            counts = [len(people) async for people in stream]
        expected = Client(transport=MockTransport()).attributes(FRAME, BOXES)
        np.testing.assert_array_equal(people.embeddings, expected.embeddings)
        assert counts == [3, 3, 3]
        assert transport.closed

    asyncio.run(run())


def test_mock_models_are_described_as_the_repository_renders_them() -> None:
    for mock in describe_mock_models():
        path = ROOT / "model_repository" / mock.name / "config.pbtxt"
        config = model_config_pb2.ModelConfig()
        text_format.Parse(path.read_text(encoding="utf-8"), config)
        rendered = description_from_config(config)
        assert mock.max_batch_size == rendered.max_batch_size
        assert mock.inputs == rendered.inputs
        assert mock.outputs == rendered.outputs
        parameters = dict(mock.parameters)
        assert parameters.pop("embedding.weights") != ""
        assert rendered.parameters["embedding.weights"] != ""
        assert parameters.items() <= rendered.parameters.items()


def test_limits_and_stand_ins_can_be_described() -> None:
    models = describe_mock_models(max_people=2, stand_in_weights=["person_gender"])
    transport = MockTransport(models=models)
    people = Client(transport=transport).attributes(FRAME, BOXES)
    assert len(people) == 3
    assert people.stand_in_weights == ("person_gender",)
    assert sum(isinstance(request, Infer) for request in transport.requests) == 2


def test_a_function_answers_or_fails() -> None:
    def answer(request: Infer) -> dict[str, np.ndarray]:
        if len(request.inputs["boxes"]) > 2:
            raise ServerError("out of memory", model=request.model)
        rows = np.arange(2, dtype=np.float32)[:, None]
        embeddings = np.eye(2, 512, dtype=np.float32)
        return {"female_probability": rows, "embedding": embeddings}

    client = Client(transport=MockTransport(answer))
    people = client.attributes(FRAME, BOXES[:2])
    assert people.female_probabilities.tolist() == [0, 1]
    with pytest.raises(ServerError, match="out of memory"):
        client.attributes(FRAME, BOXES)


def test_answers_by_model() -> None:
    tensor = TensorDescription("x", "FP32", (-1,))
    models = [
        ModelDescription(name, 0, [tensor], [tensor], {}) for name in ("a", "b", "c")
    ]
    ones = np.ones(3, np.float32)
    answers = {"a": {"x": ones}, "b": lambda request: {"x": request.inputs["x"] * 2}}
    client = Client(transport=MockTransport(answers, models=models))
    assert client.infer("a", {"x": ones})["x"].tolist() == [1, 1, 1]
    assert client.infer("b", {"x": ones})["x"].tolist() == [2, 2, 2]
    with pytest.raises(ModelUnavailableError, match="'c'; add it to answers="):
        client.infer("c", {"x": ones})
    with pytest.raises(ModelUnavailableError, match="'d'; add it to models="):
        client.infer("d", {"x": ones})


def test_states_are_those_of_the_models() -> None:
    client = Client(transport=MockTransport())
    assert client.ready()
    assert client.ready("person_attributes")
    assert not client.ready("person_gender")
    states = client.models()
    assert [state.name for state in states] == [
        "person_attributes",
        "person_attributes_crops",
    ]
    assert all(state.ready for state in states)
    assert client.describe("person_attributes") == describe_mock_models()[0]


def test_shared_memory_falls_back_to_the_mock() -> None:
    transport = MockTransport()
    frame = np.zeros((500, 500, 3), np.uint8)
    with Client(transport=transport, shared_memory="system") as client:
        assert len(client.attributes(frame, BOXES)) == 3
    frames = [r.inputs["raw_frame"] for r in transport.requests if isinstance(r, Infer)]
    np.testing.assert_array_equal(frames, [frame.reshape(-1)])
    with pytest.raises(InvalidInputError, match="frame: expected a UINT8 array"):
        client.attributes(frame[..., 0], BOXES)
    assert Ready() not in transport.requests
