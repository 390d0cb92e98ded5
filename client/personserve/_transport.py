"""What goes over the wire, and the one method behind which the wire is.

`Transport.send` takes a request and returns its reply or raises a PersonServeError;
everything above it does no I/O. The only file that knows tritonclient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import np_to_triton_dtype

from personserve._errors import (
    STATUS_ERRORS,
    InvalidInputError,
    ModelUnavailableError,
    PersonServeError,
    ServerError,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Infer:
    """Run `model` on `inputs`; the reply is {output: array}."""

    model: str
    inputs: Mapping[str, Array]
    request_id: str = ""


@dataclass(frozen=True)
class DescribeModel:
    """Ask how `model` is configured; the reply is a ModelDescription."""

    model: str


@dataclass(frozen=True)
class Ready:
    """Ask whether `model`, or the server, can answer; the reply is a bool."""

    model: str | None = None


Request = Infer | DescribeModel | Ready


@dataclass(frozen=True)
class TensorDescription:
    """A tensor of the server's model; -1 is a dimension that varies. `shape` is
    without the batch dimension where the model batches.
    """

    name: str
    data_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelDescription:
    """What the server's config says about a model."""

    name: str
    max_batch_size: int
    inputs: Sequence[TensorDescription]
    outputs: Sequence[TensorDescription]
    parameters: Mapping[str, str]


class Transport(Protocol):
    """A way to reach a server. Implement it to test without one."""

    def send(self, request: Request, timeout_s: float | None) -> Any:
        """The reply to `request` within `timeout_s`. Raises PersonServeError."""
        ...

    def close(self) -> None:
        """Let go of connections; further calls do nothing."""
        ...


class GrpcTransport:
    """Transport over Triton's gRPC endpoint `address` ("host:port")."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = triton.InferenceServerClient(address)

    def send(self, request: Request, timeout_s: float | None) -> Any:
        try:
            return self._send(request, timeout_s)
        except triton.InferenceServerException as exc:
            raise self._error(exc, request) from exc

    def close(self) -> None:
        self._client.close()

    def _send(self, request: Request, timeout_s: float | None) -> Any:
        if isinstance(request, Ready):
            if request.model is None:
                return self._client.is_server_ready(client_timeout=timeout_s)
            return self._client.is_model_ready(request.model, client_timeout=timeout_s)
        if isinstance(request, DescribeModel):
            reply = self._client.get_model_config(
                request.model, client_timeout=timeout_s
            )
            return _description(reply.config)
        result = self._client.infer(
            request.model,
            [_input(name, array) for name, array in request.inputs.items()],
            request_id=request.request_id,
            client_timeout=timeout_s,
        )
        return {
            output.name: result.as_numpy(output.name)
            for output in result.get_response().outputs
        }

    def _error(
        self, exc: triton.InferenceServerException, request: Request
    ) -> PersonServeError:
        status = str(exc.status() or "").removeprefix("StatusCode.")
        message = str(exc.message())
        kind = STATUS_ERRORS.get(status, ServerError)
        # Triton says UNAVAILABLE both for itself and for a model that is not loaded
        if status == "UNAVAILABLE" and "unknown model" in message:
            kind = ModelUnavailableError
        elif status == "UNAVAILABLE":
            message = (
                f"no Triton server answers at {self._address}: {message}. Is it "
                "running (python -m builders serve), and is this its gRPC port?"
            )
        elif status == "DEADLINE_EXCEEDED":
            message = "no answer within the timeout; raise timeout_s or send less"
        return kind(
            message,
            model=getattr(request, "model", None),
            request_id=getattr(request, "request_id", None),
        )


def _input(name: str, array: Array) -> triton.InferInput:
    data_type = np_to_triton_dtype(array.dtype)
    if data_type is None:
        raise InvalidInputError(f"{name}: Triton has no type for {array.dtype} arrays")
    tensor = triton.InferInput(name, list(array.shape), data_type)
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor


def _description(config: Any) -> ModelDescription:
    def tensors(values: Any) -> tuple[TensorDescription, ...]:
        return tuple(
            TensorDescription(
                value.name,
                model_config_pb2.DataType.Name(value.data_type).removeprefix("TYPE_"),
                tuple(value.dims),
            )
            for value in values
        )

    return ModelDescription(
        name=config.name,
        max_batch_size=config.max_batch_size,
        inputs=tensors(config.input),
        outputs=tensors(config.output),
        parameters={k: v.string_value for k, v in config.parameters.items()},
    )
