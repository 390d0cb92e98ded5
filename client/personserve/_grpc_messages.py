"""Requests as Triton's gRPC messages, and their replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

from personserve._connection import Connection
from personserve._errors import PersonServeError, error_of_status
from personserve._requests import (
    Array,
    DescribeModel,
    Infer,
    ListMemory,
    ListModels,
    ModelDescription,
    ModelState,
    Ready,
    Region,
    RegisterMemory,
    Request,
    TensorDescription,
    UnregisterMemory,
)
from personserve._tensors import array_of, data_of, data_type_of


def reply_of(request: Request, reply: Any) -> Any:
    """What `reply` says, as the request's docstring promises."""
    if isinstance(request, Infer):
        return outputs_of(reply)
    if isinstance(request, DescribeModel):
        return _description(reply.config)
    if isinstance(request, ListModels):
        return tuple(
            ModelState(each.name, each.version, each.state == "READY", each.reason)
            for each in reply.models
        )
    if isinstance(request, ListMemory):
        return tuple(reply.regions)
    return reply.ready if isinstance(request, Ready) else None


def infer_message(request: Infer) -> Any:
    """Triton's message for an inference."""
    message = service_pb2.ModelInferRequest(
        model_name=request.model, id=request.request_id
    )
    for name, value in request.inputs.items():
        dtype = value.data_type if isinstance(value, Region) else value.dtype
        tensor = message.inputs.add(
            name=name, datatype=data_type_of(name, dtype), shape=value.shape
        )
        if isinstance(value, Region):
            tensor.parameters["shared_memory_region"].string_param = value.region
            tensor.parameters["shared_memory_offset"].int64_param = value.offset
            tensor.parameters["shared_memory_byte_size"].int64_param = value.byte_size
        else:
            message.raw_input_contents.append(bytes(data_of(value)))
    return message


def outputs_of(reply: Any) -> dict[str, Array]:
    """{output: array} of an inference's reply."""
    return {
        output.name: array_of(output.name, output.datatype, output.shape, data)
        for output, data in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


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
        stateful=config.HasField("sequence_batching"),
    )


MESSAGES: Mapping[type, tuple[str, Callable[[Any], Any]]] = {
    Infer: ("ModelInfer", infer_message),
    DescribeModel: (
        "ModelConfig",
        lambda request: service_pb2.ModelConfigRequest(name=request.model),
    ),
    ListModels: ("RepositoryIndex", lambda _: service_pb2.RepositoryIndexRequest()),
}
"""Triton's method, and what makes its message."""


def asked(request: Request) -> tuple[str, Any]:
    """The method's name and the message for `request`."""
    if isinstance(request, Ready) and request.model is not None:
        return "ModelReady", service_pb2.ModelReadyRequest(name=request.model)
    if isinstance(request, Ready):
        return "ServerReady", service_pb2.ServerReadyRequest()
    if isinstance(request, RegisterMemory | UnregisterMemory | ListMemory):
        return _asked_of_memory(request)
    method, message = MESSAGES[type(request)]
    return method, message(request)


def _asked_of_memory(
    request: RegisterMemory | UnregisterMemory | ListMemory,
) -> tuple[str, Any]:
    """Triton names all six methods by one rule."""
    verb: str = "Status"
    values: dict[str, Any] = {}
    if isinstance(request, UnregisterMemory):
        verb, values = "Unregister", {"name": request.region}
    elif isinstance(request, RegisterMemory):
        verb = "Register"
        values = {"name": request.region, "byte_size": request.byte_size}
        if request.gpu is None:
            values["key"] = request.key
        else:
            values.update(raw_handle=request.key, device_id=request.gpu)
    method = f"{request.memory.title()}SharedMemory{verb}"
    return method, getattr(service_pb2, f"{method}Request")(**values)


def metadata_of(
    connection: Connection, request: Request | None = None
) -> tuple[tuple[str, str], ...]:
    """The headers that go with `request`, or with a stream."""
    return tuple(connection.headers_for(request).items())


def error_of(exc: Any, request: Request, connection: Connection) -> PersonServeError:
    """The error for what gRPC raised."""
    status = exc.code().name
    return error_of_status(status, str(exc.details()), request, connection.address)
