"""Answers are compared with the request and with the model's description.

A wrong answer is an error that names the model, the tensor, what was expected and what
came; it is never passed on as a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from personserve import (
    Client,
    IncompatibleServerError,
    MockTransport,
    ModelDescription,
    PersonServeError,
    ServerError,
    TensorDescription,
    describe_mock_models,
)
from personserve._answers import max_reply_bytes
from personserve.images.inputs import tensors_from_frame

FRAME = np.zeros((100, 100, 3), np.uint8)
BOXES = [[0, 0, 10, 20], [5, 5, 30, 60]]
PROBABILITY, EMBEDDING = "female_probability", "embedding"


def people(count: int = 2) -> dict[str, Any]:
    return {
        PROBABILITY: np.full((count, 1), 0.25, np.float32),
        EMBEDDING: np.eye(count, 512, dtype=np.float32),
    }


def with_value(name: str, value: float) -> dict[str, Any]:
    outputs = people()
    outputs[name][1, -1] = value
    return outputs


WRONG: dict[str, tuple[Any, type[PersonServeError], str]] = {
    "one row for two boxes": (
        people(1),
        IncompatibleServerError,
        r"female_probability: expected float32 \[2, 1\], got float32 \[1, 1\]",
    ),
    "three rows for two boxes": (people(3), IncompatibleServerError, r"got .*\[3, 1\]"),
    "no rows": (people(0), IncompatibleServerError, r"got float32 \[0, 1\]"),
    "fewer embeddings": (
        {**people(), EMBEDDING: np.eye(1, 512, dtype=np.float32)},
        IncompatibleServerError,
        r"embedding: expected float32 \[2, 512\], got float32 \[1, 512\]",
    ),
    "embeddings of another width": (
        {**people(), EMBEDDING: np.eye(2, 256, dtype=np.float32)},
        IncompatibleServerError,
        r"embedding: expected float32 \[2, 512\], got float32 \[2, 256\]",
    ),
    "flat embeddings": (
        {**people(), EMBEDDING: np.zeros(1024, np.float32)},
        IncompatibleServerError,
        r"got float32 \[1024\]",
    ),
    "flat probabilities": (
        {**people(), PROBABILITY: np.zeros(2, np.float32)},
        IncompatibleServerError,
        r"got float32 \[2\]",
    ),
    "two probabilities": (
        {**people(), PROBABILITY: np.zeros((2, 2), np.float32)},
        IncompatibleServerError,
        r"got float32 \[2, 2\]",
    ),
    "another type": (
        {**people(), EMBEDDING: np.zeros((2, 512), np.float16)},
        IncompatibleServerError,
        r"got float16 \[2, 512\]",
    ),
    "texts": (
        {**people(), PROBABILITY: np.array([[b"a"], [b"b"]], object)},
        IncompatibleServerError,
        "got object",
    ),
    "a list": (
        {**people(), PROBABILITY: [[0.5], [0.5]]},
        IncompatibleServerError,
        "got list",
    ),
    "no embedding": (
        {PROBABILITY: people()[PROBABILITY]},
        IncompatibleServerError,
        r"embedding: expected FP32 \[2, 512\], got outputs \['female_probability'\]",
    ),
    "no outputs": ({}, IncompatibleServerError, r"got outputs \[\]"),
    "probability 7": (
        with_value(PROBABILITY, 7),
        ServerError,
        r"female_probability\[1\]: expected a probability from 0 to 1, got 7",
    ),
    "probability 1.01": (with_value(PROBABILITY, 1.01), ServerError, r"got 1\.0"),
    "negative": (with_value(PROBABILITY, -0.5), ServerError, "got -0.5"),
    "NaN": (with_value(PROBABILITY, np.nan), ServerError, "got nan"),
    "infinite": (with_value(PROBABILITY, np.inf), ServerError, "got inf"),
    "NaN in an embedding": (
        with_value(EMBEDDING, np.nan),
        ServerError,
        r"embedding\[1, 511\]: expected a finite number, got nan",
    ),
    "infinity in an embedding": (with_value(EMBEDDING, -np.inf), ServerError, "-inf"),
}


@pytest.mark.parametrize(("outputs", "kind", "message"), WRONG.values(), ids=WRONG)
def test_wrong_answers_about_people(
    outputs: Any, kind: type[PersonServeError], message: str
) -> None:
    client = Client(transport=MockTransport(lambda _: outputs))
    calls: dict[str, Callable[[], Any]] = {
        "person_attributes": lambda: client.attributes(FRAME, BOXES),
        "person_attributes_crops": lambda: client.attributes_of_crops([FRAME] * 2),
    }
    for model, call in calls.items():
        with pytest.raises(kind, match=message) as caught:
            call()
        assert type(caught.value) is kind
        assert caught.value.model == model
    stream = client.attributes_stream([(FRAME, BOXES)])
    with pytest.raises(kind, match=message):
        next(stream)


def test_raw_inferences_are_not_judged() -> None:
    for outputs, _, _ in WRONG.values():
        client = Client(transport=MockTransport(lambda _, outputs=outputs: outputs))
        inputs = {**tensors_from_frame(FRAME), "boxes": np.float32(BOXES)}
        answer = client.infer("person_attributes", inputs)
        assert list(answer) == list(outputs)
        assert all(answer[name] is outputs[name] for name in outputs)


def test_rounding_errors_are_clipped() -> None:
    outputs = with_value(PROBABILITY, np.nextafter(np.float32(1), np.float32(2)))
    client = Client(transport=MockTransport(lambda _: outputs))
    assert client.attributes(FRAME, BOXES).female_probabilities.tolist() == [0.25, 1]
    outputs = with_value(PROBABILITY, -1e-9)
    assert client.attributes(FRAME, BOXES)[1].gender.female_probability >= 0


# ---- descriptions ----------------------------------------------------------------


def _without(description: ModelDescription, output: str) -> ModelDescription:
    outputs = tuple(each for each in description.outputs if each.name != output)
    return replace(description, outputs=outputs)


def _with(description: ModelDescription, **parameters: str) -> ModelDescription:
    names = {name.replace("__", "."): value for name, value in parameters.items()}
    return replace(description, parameters={**description.parameters, **names})


def _with_output(
    description: ModelDescription, name: str, data_type: str, shape: tuple[int, ...]
) -> ModelDescription:
    output = TensorDescription(name, data_type, shape)
    outputs = (*_without(description, name).outputs, output)
    return replace(description, outputs=outputs)


DESCRIPTIONS: dict[str, tuple[Callable[[ModelDescription], ModelDescription], str]] = {
    "no output": (lambda d: _without(d, EMBEDDING), "no embedding"),
    "FP16": (
        lambda d: _with_output(d, EMBEDDING, "FP16", (-1, 512)),
        r"expected FP32 \[rows, D\], got FP16",
    ),
    "three dimensions": (
        lambda d: _with_output(d, EMBEDDING, "FP32", (-1, 2, 256)),
        r"got FP32 \[-1, 2, 256\]",
    ),
    "another number of rows": (
        lambda d: _with_output(d, EMBEDDING, "FP32", (7, 512)),
        r"got FP32 \[7, 512\]",
    ),
    "two columns": (
        lambda d: _with_output(d, PROBABILITY, "FP32", (-1, 2)),
        "expected 1 column, got 2",
    ),
    "one label": (lambda d: _with(d, female_probability__labels="x"), "two labels"),
    "three labels": (
        lambda d: _with(d, female_probability__labels="a,b,c"),
        "two labels",
    ),
    "an empty label": (lambda d: _with(d, female_probability__labels="a,"), "labels"),
    **{
        f"threshold {text!r}": (
            lambda d, text=text: _with(d, female_probability__threshold=text),
            "expected a number from 0 to 1",
        )
        for text in ("", "half", "nan", "inf", "-1", "1.5")
    },
    **{
        f"maximum {text!r}": (
            lambda d, text=text: _with(d, max_people=text),
            "max_people: expected",
        )
        for text in ("", "0", "-4", "4.0", "\u00b2", "9" * 5000, "0x10")
    },
}


@pytest.mark.parametrize(("change", "message"), DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_unusable_descriptions(
    change: Callable[[ModelDescription], ModelDescription], message: str
) -> None:
    model = change(describe_mock_models()[0])
    transport = MockTransport(lambda _: people(), models=[model])
    with pytest.raises(IncompatibleServerError, match=message) as caught:
        Client(transport=transport).attributes(FRAME, BOXES)
    assert caught.value.model == "person_attributes"


CROP_DESCRIPTIONS: dict[str, Callable[[ModelDescription], ModelDescription]] = {
    f"crops {shape}": lambda d, shape=shape: replace(
        d, inputs=(TensorDescription("gender_crops", "UINT8", shape), d.inputs[1])
    )
    for shape in ((), (224, 224), (-1, -1, 3), (0, 224, 3), (1 << 30, 1 << 30, 3))
} | {
    f"{key} {text!r}": lambda d, key=key, text=text: _with(d, **{key: text})
    for key, text in (
        ("gender_crops__interpolation", "area"),
        ("gender_crops__shorter_edge", "long"),
        ("gender_crops__shorter_edge", "10"),
        ("gender_crops__shorter_edge", "999999999"),
    )
}


@pytest.mark.parametrize("change", CROP_DESCRIPTIONS.values(), ids=CROP_DESCRIPTIONS)
def test_unusable_descriptions_of_crops(
    change: Callable[[ModelDescription], ModelDescription],
) -> None:
    model = change(describe_mock_models()[1])
    client = Client(transport=MockTransport(lambda _: people(), models=[model]))
    with pytest.raises(IncompatibleServerError, match="gender_crops"):
        client.attributes_of_crops([FRAME] * 2)
    with pytest.raises(IncompatibleServerError, match="gender_crops"):
        client.attributes(FRAME, BOXES, crop_on="client")


# ---- faces and classes -----------------------------------------------------------

FACES = {"face.interpolation": "linear"}
IMAGES = {"images.interpolation": "linear", "images.shorter_edge": "32"}


def _small_models(batch: int = 4) -> list[ModelDescription]:
    def tensors(*names: str, shape: tuple[int, ...], kind: str = "FP32") -> Any:
        return tuple(TensorDescription(name, kind, shape) for name in names)

    crop = (24, 24, 3)
    return [
        ModelDescription(
            "kinship_embedding",
            batch,
            tensors("face", shape=crop, kind="UINT8"),
            tensors("embedding", shape=(5,)),
            FACES,
        ),
        ModelDescription(
            "kinship_pair",
            batch,
            tensors("embedding_a", "embedding_b", shape=(5,)),
            tensors("related_probability", shape=(1,)),
            {},
        ),
        ModelDescription(
            "se_resnet50",
            batch,
            tensors("images", shape=crop, kind="UINT8"),
            tensors("logits", shape=(3,)),
            IMAGES,
        ),
    ]


def _answer(name: str, width: int, value: float = 0.5) -> Callable[[Any], Any]:
    def answer(request: Any) -> Any:
        rows = len(next(iter(request.inputs.values())))
        return {name: np.full((rows, width), value, np.float32)}

    return answer


RIGHT = {
    "kinship_embedding": _answer("embedding", 5),
    "kinship_pair": _answer("related_probability", 1),
    "se_resnet50": _answer("logits", 3),
}

WRONG_MODELS: dict[str, tuple[str, Any, str]] = {
    "wide faces": ("kinship_embedding", _answer("embedding", 6), r"\[3, 6\]"),
    "faces of NaN": ("kinship_embedding", _answer("embedding", 5, np.nan), "nan"),
    "probability 2": ("kinship_pair", _answer("related_probability", 1, 2), "got 2"),
    "one pair": (
        "kinship_pair",
        lambda _: {"related_probability": np.zeros((1, 1), np.float32)},
        r"\[4, 1\], got float32 \[1, 1\]",
    ),
    "infinite logits": ("se_resnet50", _answer("logits", 3, np.inf), "inf"),
    "more classes": ("se_resnet50", _answer("logits", 4), r"\[3, 4\]"),
}


@pytest.mark.parametrize(
    ("model", "answer", "message"), WRONG_MODELS.values(), ids=WRONG_MODELS
)
def test_wrong_answers_about_faces_and_images(
    model: str, answer: Any, message: str
) -> None:
    def ask(client: Client) -> None:
        client.kinship_matrix([FRAME] * 3, [FRAME] * 2)
        client.classify([FRAME] * 3)

    ask(Client(transport=MockTransport(RIGHT, models=_small_models())))
    answers = {**RIGHT, model: answer}
    client = Client(transport=MockTransport(answers, models=_small_models()))
    with pytest.raises(PersonServeError, match=message) as caught:
        ask(client)
    assert caught.value.model == model


def test_models_that_do_not_batch_are_refused() -> None:
    client = Client(transport=MockTransport(RIGHT, models=_small_models(batch=0)))
    for call in (
        lambda: client.kinship_matrix([FRAME], [FRAME]),
        lambda: client.classify([FRAME]),
    ):
        with pytest.raises(IncompatibleServerError, match="max_batch_size"):
            call()


# ---- sizes -----------------------------------------------------------------------


def test_limits_follow_the_description() -> None:
    frames, crops = describe_mock_models()
    for model in (frames, crops):
        expected = 2 * 3 * 4 * 513 + (64 << 10)
        assert max_reply_bytes(model, 3) == expected
        assert max_reply_bytes(model, None) is None
    texts = _with_output(frames, EMBEDDING, "BYTES", (-1, 1))
    open_ended = _with_output(frames, EMBEDDING, "FP32", (-1, -1))
    unknown = _with_output(frames, EMBEDDING, "FP31", (-1, 1))
    for model in (texts, open_ended, unknown, replace(frames, outputs=())):
        assert max_reply_bytes(model, 3) is None
