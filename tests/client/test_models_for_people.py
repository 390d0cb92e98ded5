"""Models for people other than the default one: what they answer, by role."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import pytest

from personserve import (
    AsyncClient,
    AsyncMockTransport,
    Client,
    IncompatibleServerError,
    Infer,
    InvalidInputError,
    ListModels,
    MockTransport,
    ModelDescription,
    ModelUnavailableError,
    People,
    ServerError,
    TensorDescription,
    annotate,
    describe_mock_models,
)
from personserve.gallery import GalleryError, MemoryGallery

FRAME = np.full((480, 640, 3), 120, np.uint8)
BOXES = [[10, 10, 90, 300], [200, 20, 280, 310], [400, 5, 470, 290]]

MODELS: dict[str, dict[str, int]] = {
    "face_attributes": {"female_probability": 1, "kinship_embedding": 8},
    "reid_only": {"embedding": 16},
    "two_of_a_kind": {
        "female_probability": 1,
        "face_female_probability": 1,
        "embedding": 16,
        "kinship_embedding": 8,
    },
    "classes": {"class_probabilities": 4},
    "depth": {"depth": 1, "pose": 34},
}

DESCRIBED = [
    *describe_mock_models(),
    *(
        each
        for name, outputs in MODELS.items()
        for each in describe_mock_models(model=name, outputs=outputs)
    ),
    ModelDescription(
        "person_reid_other",
        8,
        [TensorDescription("crops", "UINT8", (64, 32, 3))],
        [TensorDescription("embedding", "FP32", (16,))],
        {"crops.interpolation": "cubic", "weights": "other.pth, sha256 0123"},
    ),
    ModelDescription(
        "preprocess",
        0,
        describe_mock_models()[0].inputs,
        [TensorDescription("crops", "UINT8", (-1, 64, 32, 3))],
        {},
    ),
]


@pytest.fixture
def transport() -> MockTransport:
    return MockTransport(models=DESCRIBED)


@pytest.fixture
def client(transport: MockTransport) -> Client:
    return Client(transport=transport)


def _ask(client: Client, model: str) -> People:
    return client.attributes(FRAME, BOXES, model=model)


# ---- any mix of outputs ----------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_people_have_what_their_model_answers(client: Client, model: str) -> None:
    outputs = MODELS[model]
    people = _ask(client, model)
    assert {name: each.shape for name, each in people.outputs.items()} == {
        name: (3, width) for name, width in outputs.items()
    }
    assert (people.female_probabilities is None) == (
        "female_probability" not in outputs
    )
    assert (people.embeddings is None) == ("embedding" not in outputs)
    assert (people.kinship_embeddings is None) == ("kinship_embedding" not in outputs)
    assert (people.class_probabilities is None) == (
        "class_probabilities" not in outputs
    )
    for index, person in enumerate(people):
        assert (person.gender is None) == (people.female_probabilities is None)
        assert (person.embedding is None) == (people.embeddings is None)
        assert (person.kinship_embedding is None) == (people.kinship_embeddings is None)
        assert list(person.outputs) == list(outputs)
        for name, values in person.outputs.items():
            np.testing.assert_array_equal(values, people.outputs[name][index])


@pytest.mark.parametrize("model", MODELS)
def test_results_of_any_mix_become_text_and_tables(client: Client, model: str) -> None:
    people = _ask(client, model)
    vectors = {name for name, width in MODELS[model].items() if width > 1}
    scalars = set(MODELS[model]) - vectors
    gender = {"gender", "gender_probability", "abstained"}
    assert repr(people).startswith("<People: 3")
    assert all(f"{name}" in repr(people) for name in vectors - {"embedding"})
    assert repr(people[0]).startswith("<Person")
    assert "<tr>" in people._repr_html_()
    assert ("gender" in people._repr_html_()) == ("female_probability" in scalars)
    assert len(people.labels()) == 3
    assert annotate(FRAME, people).shape == FRAME.shape

    records = people.to_records()
    assert scalars | gender <= set(records[0])
    assert not vectors & set(records[0])
    assert vectors <= set(people.to_records(embeddings=True)[0])
    values = json.loads(people.to_json(embeddings=True))["people"][0]
    assert set(values) - {"box", "gender"} == set(MODELS[model]) - {
        "female_probability"
    }
    assert ("gender" in values) == ("female_probability" in scalars)

    detections = people.to_supervision(Detections(np.float32(BOXES)), embeddings=True)
    assert set(detections.data) - gender == set(MODELS[model])
    assert all(len(each) == 3 for each in detections.data.values())

    joined = People.concatenate([people, people[:0], people[1:]])
    assert joined.outputs.keys() == people.outputs.keys()
    assert joined[:2].outputs.keys() == people.outputs.keys()
    assert [each.box for each in joined] == [
        *(each.box for each in people),
        *(each.box for each in people[1:]),
    ]


@pytest.mark.parametrize("model", MODELS)
def test_a_table_has_the_columns_of_its_model(client: Client, model: str) -> None:
    pandas = pytest.importorskip("pandas")
    people = _ask(client, model)
    for embeddings in (False, True):
        table = people.to_pandas(embeddings=embeddings)
        empty = people[:0].to_pandas(embeddings=embeddings)
        records = people.to_records(embeddings=embeddings)
        assert set(table.columns) == set(records[0])
        assert empty.dtypes.equals(table.dtypes)
        assert pandas.concat([empty, table]).dtypes.equals(table.dtypes)


def test_two_outputs_of_a_kind_are_told_apart(client: Client) -> None:
    people = _ask(client, "two_of_a_kind")
    roles = (people.gender_role, people.embedding_role)
    assert roles == ("female_probability", "embedding")
    other = people.select(
        gender="face_female_probability", embedding="kinship_embedding"
    )
    assert other.embeddings is not None
    np.testing.assert_array_equal(
        other.female_probabilities, people.outputs["face_female_probability"][:, 0]
    )
    np.testing.assert_array_equal(other.embeddings, people.outputs["kinship_embedding"])
    np.testing.assert_array_equal(
        other.similarities(), other.embeddings @ other.embeddings.T
    )
    assert [p.box for p in other] == [p.box for p in people]
    assert other.select(embedding="embedding").source == people.source != other.source
    with pytest.raises(InvalidInputError, match="cannot be compared"):
        other.similarities(people)
    with pytest.raises(InvalidInputError, match=r"have no embedding 'pose'.*answers"):
        people.select(embedding="pose")
    with pytest.raises(InvalidInputError, match="no gender 'embedding'"):
        people.select(gender="embedding")
    with pytest.raises(InvalidInputError, match="people of one model"):
        People.concatenate([people, _ask(client, "reid_only")])
    sources = json.loads(people.to_json())
    assert sources["embedding_source"] != sources["kinship_embedding_source"]


def test_what_a_model_does_not_answer_is_named(client: Client) -> None:
    faces, classes = _ask(client, "face_attributes"), _ask(client, "classes")
    message = (
        r"these people have no embedding: their model answers female_probability, "
        r'kinship_embedding; choose people.select\(embedding="kinship_embedding"\)'
    )
    gallery = MemoryGallery()
    for needs_embeddings in (
        faces.similarities,
        lambda: faces.nearest(faces[0]),
        lambda: faces[0].similarity(faces[1]),
        lambda: gallery.add(["a", "b", "c"], faces),
        lambda: gallery.add(["a"], faces[0]),
        lambda: gallery.add(["a", "b"], [faces[0], faces[1]]),
    ):
        with pytest.raises(InvalidInputError, match=message):
            needs_embeddings()
    with pytest.raises(GalleryError, match=r"frame_models\(\) lists them"):
        gallery.add(["a", "b", "c"], classes)
    assert len(gallery) == 0
    gallery.add(["a", "b", "c"], faces.select(embedding="kinship_embedding"))
    assert len(gallery) == 3
    with pytest.raises(InvalidInputError, match=r"have no gender: .* class_prob"):
        classes.to_ultralytics(Boxed(Detections(np.float32(BOXES))))
    with pytest.raises(InvalidInputError, match="have no classes"):
        faces.top_classes()


def test_embeddings_of_any_length_are_compared_by_their_cosine() -> None:
    vectors = np.float32([[3, 4], [0, 0], [0.6, 0.8]])
    models = describe_mock_models(model="m", outputs={"embedding": 2, "logits": 2})
    answer = {"embedding": vectors, "logits": vectors}
    client = Client(transport=MockTransport({"m": answer}, models=models))
    people = _ask(client, "m")
    assert people.embeddings is not None
    np.testing.assert_allclose(people.embeddings[::2], [[0.6, 0.8]] * 2, rtol=1e-6)
    np.testing.assert_array_equal(people.outputs["embedding"], vectors)
    assert people[0].similarity(people[2]) == pytest.approx(1)
    assert people.similarities()[0].tolist() == pytest.approx([1, 0, 1])
    assert people.to_records(embeddings=True)[0]["embedding"] == pytest.approx(
        [0.6, 0.8]
    )


def test_labels_thresholds_and_sources_come_from_the_description() -> None:
    outputs = {"face_female_probability": 1, "class_probabilities": 2}
    models = [
        replace(
            model,
            parameters={
                **model.parameters,
                "face_female_probability.labels": "m,w",
                "face_female_probability.threshold": "0.8",
                "class_probabilities.labels": "short,tall",
            },
        )
        for model in describe_mock_models(model="m", outputs=outputs)
    ]
    answer = {
        "face_female_probability": np.float32([[0.7], [0.8]]),
        "class_probabilities": np.float32([[0.1, 0.9], [0.6, 0.4]]),
    }
    transport = MockTransport({"m": answer}, models=models)
    client = Client(transport=transport, abstain_below=0.75)
    people = client.attributes(FRAME, BOXES[:2], model="m")
    assert people.female_probabilities is None
    chosen = people.select(gender="face_female_probability")
    assert [str(person.gender) for person in chosen] == ["undecided 0.70", "w 0.80"]
    assert chosen[0].gender.label == "m"
    assert chosen.gender_labels == ("m", "w")
    tops = [each.classes[0] for each in people.top_classes(1)]
    assert [(top.label, top.index) for top in tops] == [("tall", 1), ("short", 0)]

    wrong = {**answer, "class_probabilities": np.float32([[0.1, 1.9], [0.6, 0.4]])}
    client = Client(transport=MockTransport({"m": wrong}, models=models))
    with pytest.raises(
        ServerError, match=r"class_probabilities\[0, 1\]: expected a pr"
    ):
        client.attributes(FRAME, BOXES[:2], model="m")


# ---- which models can be asked ---------------------------------------------------


def test_models_for_frames_are_listed(client: Client) -> None:
    names = [model.name for model in client.frame_models()]
    assert names == sorted(["person_attributes", *MODELS])
    listed = ", ".join(names)
    with pytest.raises(ModelUnavailableError, match=f"'nosuch'.*frames: {listed}"):
        _ask(client, "nosuch")
    with pytest.raises(
        InvalidInputError, match=f"that takes frames, got person_reid_other.*{listed}"
    ):
        _ask(client, "person_reid_other")
    with pytest.raises(InvalidInputError, match="takes frames, got preprocess"):
        _ask(client, "preprocess")
    with pytest.raises(
        InvalidInputError, match=r"takes crops, got preprocess.*face_attributes_crops"
    ):
        client.attributes_of_crops([FRAME], model="preprocess")


def test_a_server_of_another_version_is_named() -> None:
    old = replace(
        describe_mock_models()[0],
        inputs=[
            TensorDescription("frame", "UINT8", (-1, -1, -1)),
            TensorDescription("boxes", "FP32", (-1, 4)),
        ],
    )
    client = Client(transport=MockTransport(models=[old]))
    with pytest.raises(IncompatibleServerError, match=r"no input encoded_frame; .*own"):
        client.attributes(FRAME, BOXES)
    assert client.frame_models() == ()


# ---- crops -----------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_every_way_to_crop_uses_the_same_model(
    client: Client, transport: MockTransport, model: str
) -> None:
    on_server = _ask(client, model)
    on_client = client.attributes(FRAME, BOXES, model=model, crop_on="client")
    chosen = client.attributes(FRAME, BOXES, model=model, crop_on="auto")
    crops = client.attributes_of_crops([FRAME, FRAME], model=model)
    same = client.attributes_of_crops([FRAME, FRAME], model=f"{model}_crops")
    for people in (on_client, chosen):
        for name, values in on_server.outputs.items():
            np.testing.assert_array_equal(people.outputs[name], values)
    assert crops.outputs.keys() == same.outputs.keys() == on_server.outputs.keys()
    sent = [each for each in transport.requests if isinstance(each, Infer)]
    assert [each.model for each in sent] == [
        *(model, f"{model}_crops", f"{model}_crops"),
        *(f"{model}_crops", f"{model}_crops"),
    ]
    assert sent[1].inputs["crops"].shape == (3, 256, 128, 3)


def test_crops_go_to_a_single_network(client: Client, transport: MockTransport) -> None:
    people = client.attributes_of_crops([FRAME] * 9, model="person_reid_other")
    assert people.embeddings is not None
    assert people.embeddings.shape == (9, 16)
    assert people.source is not None
    assert (people.source.model, people.source.weights) == (
        "person_reid_other",
        "other.pth, sha256 0123",
    )
    sizes = [
        len(each.inputs["crops"])
        for each in transport.requests
        if isinstance(each, Infer)
    ]
    assert sizes in ([4, 5], [5, 4])
    assert client.attributes_of_crops([], model="person_reid_other").outputs[
        "embedding"
    ].shape == (0, 16)


NETWORKS = [
    ModelDescription(
        "gender",
        4,
        [TensorDescription("crops", "UINT8", (64, 32, 3))],
        [TensorDescription("female_probability", "FP32", (1,))],
        {"crops.interpolation": "linear"},
    ),
    ModelDescription(
        "reid",
        2,
        [TensorDescription("images", "UINT8", (48, 24, 3))],
        [TensorDescription("feat", "FP32", (16,))],
        {"images.interpolation": "cubic"},
    ),
]


def _without_form(**sources: str) -> ModelDescription:
    outputs = {"female_probability": 1, "embedding": 16}
    model = describe_mock_models(model="m", outputs=outputs)[0]
    models = {f"{role}.model": name for role, name in sources.items()}
    return replace(model, parameters={**model.parameters, **models})


def test_without_a_form_for_crops_each_network_is_asked() -> None:
    model = _without_form(female_probability="gender", embedding="reid")
    transport = MockTransport(models=[model, *NETWORKS])
    client = Client(transport=transport)
    big = np.zeros((1000, 1000, 3), np.uint8)
    on_server = client.attributes(big, BOXES, model="m", crop_on="auto")
    on_client = client.attributes(big, BOXES, model="m", crop_on="client")
    crops = client.attributes_of_crops([big] * 3, model="m")
    sent = [
        (each.model, [tensor.shape for tensor in each.inputs.values()])
        for each in transport.requests
        if isinstance(each, Infer)
    ]
    assert sent[0][0] == "m"
    pairs = [
        [("gender", [(rows, 64, 32, 3)]), ("reid", [(rows, 48, 24, 3)])]
        for rows in (2, 1)
    ]
    assert sorted(sent[1:]) == sorted([*pairs[0], *pairs[1]] * 2)
    for people in (on_client, crops):
        assert people.outputs.keys() == on_server.outputs.keys()
        assert people.source == on_server.source
        assert people[0].gender == on_server[0].gender
        assert people.outputs["embedding"].shape == (3, 16)
    assert on_client[2].box == on_server[2].box


def test_a_model_without_form_and_networks() -> None:
    lost = _without_form(female_probability="gender", embedding="lost")
    client = Client(transport=MockTransport(models=[lost, *NETWORKS]))
    for call in (
        lambda: client.attributes(FRAME, BOXES, model="m", crop_on="client"),
        lambda: client.attributes_of_crops([FRAME], model="m"),
    ):
        with pytest.raises(ModelUnavailableError, match="m_crops or the network lost"):
            call()
    unclear = _without_form(female_probability="reid", embedding="reid")
    client = Client(transport=MockTransport(models=[unclear, *NETWORKS]))
    with pytest.raises(ModelUnavailableError, match=r"outputs of reid \(feat\) are"):
        client.attributes_of_crops([FRAME], model="m")
    with pytest.raises(ModelUnavailableError, match=r"'n'.*that take crops: gender, m"):
        client.attributes(FRAME, BOXES, model="n", crop_on="client")


# ---- streams, asyncio, and no people ---------------------------------------------


def test_streams_and_asyncio_take_a_model(client: Client) -> None:
    pairs = [(FRAME, BOXES), (FRAME, []), (FRAME, BOXES[:1])]
    expected = list(client.attributes_stream(pairs, model="face_attributes"))
    assert [len(people) for people in expected] == [3, 0, 1]
    assert expected[1].embeddings is None
    assert expected[1].outputs["kinship_embedding"].shape == (0, 8)
    assert len(People.concatenate(expected)) == 4

    async def run() -> list[People]:
        transport = AsyncMockTransport(models=DESCRIBED)
        async with AsyncClient(transport=transport) as other:
            assert len(await other.frame_models()) == len(MODELS) + 1
            crops = await other.attributes_of_crops([FRAME], model="face_attributes")
            assert crops.kinship_embeddings is not None
            one = await other.attributes(FRAME, BOXES, model="face_attributes")
            stream = other.attributes_stream(pairs, model="face_attributes")
            return [one, *[people async for people in stream][1:]]

    for people, other in zip(expected, asyncio.run(run()), strict=True):
        for name, values in people.outputs.items():
            np.testing.assert_array_equal(values, other.outputs[name])


def test_an_archive_is_analysed_in_bounded_memory(client: Client) -> None:
    taken = answered = 0

    def pairs() -> Any:
        nonlocal taken
        for index in range(40):
            taken += 1
            assert taken - answered <= 5
            yield FRAME, BOXES[: index % 4]

    counts = []
    for people in client.attributes_stream(pairs(), in_flight=4):
        answered += 1
        counts.append(len(people))
    assert counts == [index % 4 for index in range(40)]


def test_the_default_model_answers_both() -> None:
    """Code that names no model relies on a gender and an embedding."""
    (frames, _) = describe_mock_models()
    for missing in ("female_probability", "embedding"):
        outputs = [each for each in frames.outputs if each.name != missing]
        model = replace(frames, outputs=outputs)
        client = Client(transport=MockTransport(models=[model]))
        with pytest.raises(IncompatibleServerError, match=f"no {missing}"):
            client.attributes(FRAME, BOXES)


def test_an_unreachable_list_leaves_the_first_error() -> None:
    class Unlisted(MockTransport):
        def send(self, request: Any, timeout_s: float | None) -> Any:
            if isinstance(request, ListModels):
                raise IncompatibleServerError("no repository API")
            return super().send(request, timeout_s)

    with pytest.raises(ModelUnavailableError, match=r"has no 'x'; add it to models="):
        _ask(Client(transport=Unlisted(models=DESCRIBED)), "x")


# ---- stand-ins for the detectors' objects ----------------------------------------


@dataclass
class Detections:
    """The public attributes of supervision.Detections."""

    xyxy: np.ndarray
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Boxed:
    """The public attributes of ultralytics' Results."""

    boxes: Detections


def test_pixels_are_those_of_the_description(
    client: Client, transport: MockTransport
) -> None:
    """The client cuts for the size that the model's form for crops states."""
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    client.attributes(image, BOXES[:1], model="reid_only", crop_on="client")
    x0, y0, x1, y1 = BOXES[0]
    expected = cv2.resize(image[y0:y1, x0:x1], (128, 256))[..., ::-1]
    np.testing.assert_array_equal(transport.requests[-1].inputs["crops"][0], expected)
