"""Transports without a server, for the tests of code that uses the client.

from personserve import Client, MockTransport

transport = MockTransport()
people = Client(transport=transport).attributes(frame, boxes)
assert len(people) == len(boxes)
assert transport.requests[-1].model == "person_attributes"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from personserve._defaults import FRAME_MODEL
from personserve._descriptions import CROPS_MODEL, CROPS_SUFFIX
from personserve._errors import InvalidInputError, ModelUnavailableError
from personserve._results.roles import EMBEDDING_ROLE, GENDER_ROLE, kind_of_role
from personserve._types import Array
from personserve._wire.requests import (
    DescribeModel,
    DeviceArray,
    Infer,
    ListModels,
    ModelDescription,
    ModelState,
    Ready,
    Request,
    SharedTensor,
    TensorDescription,
)

Outputs = Mapping[str, Array]
"""Output arrays of an inference by name."""

InferHandler = Callable[[Infer], Outputs]
"""A function that answers inferences, or raises a PersonServeError."""

DEFAULT_OUTPUTS = {GENDER_ROLE: 1, EMBEDDING_ROLE: 512}
DEFAULT_CROPS = {
    "gender_crops": (224, 224, "linear"),
    "reid_crops": (384, 128, "cubic"),
}
OTHER_CROPS = {"crops": (256, 128, "linear")}
"""Height, width and interpolation by the names of inputs for crops."""

DEFAULT_NETWORKS = {EMBEDDING_ROLE: "person_reid_kd_r18"}
WEIGHTS = "random values of a mock transport"

SEEDS = {GENDER_ROLE: 0, EMBEDDING_ROLE: 1}


def describe_mock_models(
    *,
    max_people: int = 64,
    stand_in_weights: Sequence[str] = (),
    model: str = FRAME_MODEL,
    outputs: Mapping[str, int] | None = None,
) -> tuple[ModelDescription, ...]:
    """Describe a model for people and its form for crops, as a server does.

    Args:
        max_people: Largest number of people in one request; more are split.
        stand_in_weights: Names of models that run on untrained stand-in weights.
        model: Name of the model for frames.
        outputs: Number of values for each person by role, for example
            {"female_probability": 1, "kinship_embedding": 256}. None for the default
            model's gender and embedding. Labels of genders are "male" and "female".

    Returns:
        Descriptions of the model, which takes frames and boxes, and of the one with the
        ending "_crops".
    """
    widths = DEFAULT_OUTPUTS if outputs is None else dict(outputs)
    parameters = {"max_people": str(max_people)}
    for role in widths:
        kind = kind_of_role(role)
        if kind == "gender":
            parameters[f"{role}.labels"] = "male,female"
            parameters[f"{role}.threshold"] = "0.5"
        elif kind == "embedding":
            network = DEFAULT_NETWORKS.get(role, f"network of {role}")
            parameters[f"{role}.model"] = network
            parameters[f"{role}.weights"] = WEIGHTS
    if stand_in_weights:
        parameters["stand_in_weights"] = ",".join(stand_in_weights)
    return (
        _describe_frame_model(model, widths, parameters),
        _describe_crops_model(model + CROPS_SUFFIX, widths, parameters),
    )


def _describe_frame_model(
    name: str, widths: Mapping[str, int], parameters: Mapping[str, str]
) -> ModelDescription:
    return ModelDescription(
        name,
        max_batch_size=0,
        inputs=(
            TensorDescription("encoded_frame", "UINT8", (-1,), optional=True),
            TensorDescription("raw_frame", "UINT8", (-1,), optional=True),
            TensorDescription("frame_size", "INT32", (2,), optional=True),
            TensorDescription("boxes", "FP32", (-1, 4)),
        ),
        outputs=tuple(
            TensorDescription(role, "FP32", (-1, width))
            for role, width in widths.items()
        ),
        parameters=parameters,
    )


def _describe_crops_model(
    name: str, widths: Mapping[str, int], parameters: Mapping[str, str]
) -> ModelDescription:
    crops = DEFAULT_CROPS if name == CROPS_MODEL else OTHER_CROPS
    return ModelDescription(
        name,
        max_batch_size=int(parameters["max_people"]),
        inputs=tuple(
            TensorDescription(tensor, "UINT8", (height, width, 3))
            for tensor, (height, width, _) in crops.items()
        ),
        outputs=tuple(
            TensorDescription(role, "FP32", (width,)) for role, width in widths.items()
        ),
        parameters={
            **parameters,
            **{
                f"{tensor}.interpolation": interpolation
                for tensor, (_, _, interpolation) in crops.items()
            },
        },
    )


class _MockServer:
    """What both mock transports share: the answers and the recorded requests."""

    def __init__(
        self,
        answers: InferHandler | Mapping[str, Outputs | InferHandler] | None = None,
        *,
        models: Sequence[ModelDescription] | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.closed = False
        self._answers = answers
        described = describe_mock_models() if models is None else models
        self._models = {model.name: model for model in described}

    def _reply(self, request: Request) -> Any:
        self.requests.append(request)
        if isinstance(request, Infer):
            return self._answer(request)
        if isinstance(request, DescribeModel):
            return self._describe(request.model)
        if isinstance(request, Ready):
            return request.model is None or request.model in self._models
        if isinstance(request, ListModels):
            return tuple(ModelState(name, "1", ready=True) for name in self._models)
        raise InvalidInputError("a mock transport does not map shared memory")

    def _answer(self, request: Infer) -> Outputs:
        self._describe(request.model)
        answer: Outputs | InferHandler
        if self._answers is None:
            return self._answer_people(request)
        if callable(self._answers):
            answer = self._answers
        elif request.model in self._answers:
            answer = self._answers[request.model]
        else:
            raise self._unavailable(request.model, "answers")
        return answer(request) if callable(answer) else answer

    def _answer_people(self, request: Infer) -> Outputs:
        """Answer with random values that depend on the number of the person only."""
        people = request.inputs.get("boxes")
        if people is None:
            people = next(iter(request.inputs.values()))
        rows = _row_count(people)
        return {
            tensor.name: _draw_values(tensor.name, rows, tensor.shape[-1])
            for tensor in self._describe(request.model).outputs
        }

    def _describe(self, model: str) -> ModelDescription:
        if model not in self._models:
            raise self._unavailable(model, "models")
        return self._models[model]

    def _unavailable(self, model: str, argument: str) -> ModelUnavailableError:
        return ModelUnavailableError(
            f"{type(self).__name__} has no {model!r}; add it to {argument}=",
            model=model,
        )


class MockTransport(_MockServer):
    """A Transport that answers without a server.

    Args:
        answers: A function that receives each inference and returns its outputs by
            name, or outputs (or functions) by model name. An output has one row for
            each box or crop, and the shape and data type of the model's description,
            or the client refuses it like a server's. A function may raise any
            PersonServeError. None answers for any number of people, each time the
            same, with possible values for each output of the model.
        models: Descriptions of the models that the server has. None for
            describe_mock_models(), which describes models with other outputs, too.

    Attributes:
        requests: All requests so far, in order, for assertions.
        closed: Whether the client has closed the transport.
    """

    def send(self, request: Request, timeout_s: float | None) -> Any:  # noqa: ARG002
        """Answer a request."""
        return self._reply(request)

    def close(self) -> None:
        """Set `closed`."""
        self.closed = True


class AsyncMockTransport(_MockServer):
    """An AsyncTransport that answers without a server.

    Args:
        answers: See MockTransport.
        models: See MockTransport.

    Attributes:
        requests: See MockTransport.
        closed: See MockTransport.
    """

    async def send(self, request: Request, timeout_s: float | None) -> Any:  # noqa: ARG002
        """Answer a request."""
        return self._reply(request)

    async def close(self) -> None:
        """Set `closed`."""
        self.closed = True


def _draw_values(role: str, rows: int, width: int) -> Array:
    """Draw values that are possible for an output, the same each time."""
    seed = SEEDS.get(role, crc32(role.encode()))
    rng, kind = np.random.default_rng(seed), kind_of_role(role)
    if kind == "gender":
        return rng.random((rows, width)).astype(np.float32)
    values = rng.normal(size=(rows, width))
    if kind == "embedding":
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    elif kind == "classes":
        values = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    return values.astype(np.float32)


def _row_count(tensor: Array | DeviceArray | SharedTensor) -> int:
    return int(tensor.shape[0])
