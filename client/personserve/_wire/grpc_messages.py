"""Conversion of requests to Triton's gRPC messages, and of messages to replies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

from personserve._errors import PersonServeError, error_from_status
from personserve._wire.connection import Connection
from personserve._wire.replies import (
    MAX_REPLY_BYTES,
    PARSE_ERRORS,
    check_description,
    check_identity,
    malformed_error,
    too_large_error,
)
from personserve._wire.requests import (
    DescribeModel,
    Infer,
    ListMemory,
    ListModels,
    MemoryRequest,
    ModelDescription,
    ModelState,
    Outputs,
    Ready,
    RegisterMemory,
    Request,
    SharedTensor,
    TensorDescription,
    UnregisterMemory,
    server_timeout_us,
)
from personserve._wire.tensors import (
    array_from_bytes,
    bytes_from_array,
    triton_type_from_numpy,
)


def rpc_from_request(
    request: Request, timeout_s: float | None = None
) -> tuple[str, Any]:
    """Return the gRPC method and the message for a request.

    Args:
        request: The request.
        timeout_s: See message_from_infer.

    Returns:
        Name of the method of GRPCInferenceService, and its request message.
    """
    if isinstance(request, Infer):
        return "ModelInfer", message_from_infer(request, timeout_s)
    if isinstance(request, Ready) and request.model is not None:
        return "ModelReady", service_pb2.ModelReadyRequest(name=request.model)
    if isinstance(request, Ready):
        return "ServerReady", service_pb2.ServerReadyRequest()
    if isinstance(request, RegisterMemory | UnregisterMemory | ListMemory):
        return _memory_rpc_from_request(request)
    method, build_message = MESSAGES[type(request)]
    return method, build_message(request)


def reply_from_message(request: Request, message: Any, connection: Connection) -> Any:
    """Convert a response message to the reply that the request's docstring names.

    Args:
        request: The request.
        message: Triton's response message.
        connection: Settings of the connection, for the address in error messages.

    Returns:
        The reply.

    Raises:
        PersonServeError: If the message is not one of a Triton server.
    """
    try:
        return _parse_message(request, message)
    except PARSE_ERRORS as exc:
        raise malformed_error(request, connection.address, exc) from exc


def _parse_message(request: Request, message: Any) -> Any:
    if isinstance(request, Infer):
        return _outputs_from_message(request, message)
    if isinstance(request, DescribeModel):
        description = description_from_config(message.config)
        return check_description(description, request.model)
    if isinstance(request, ListModels):
        return tuple(
            ModelState(each.name, each.version, each.state == "READY", each.reason)
            for each in message.models
        )
    if isinstance(request, ListMemory):
        return tuple(message.regions)
    return message.ready if isinstance(request, Ready) else None


def message_from_infer(request: Infer, timeout_s: float | None = None) -> Any:
    """Build the ModelInferRequest message of an inference.

    Args:
        request: The inference.
        timeout_s: Seconds after which the server may drop the request, because the
            client will have given up; None for no limit.

    Returns:
        The message, with the tensors as raw contents or as shared-memory references.

    Raises:
        InvalidInputError: If a tensor cannot be sent.
    """
    message = service_pb2.ModelInferRequest(
        model_name=request.model, id=request.request_id
    )
    if timeout_s is not None:
        message.parameters["timeout"].int64_param = server_timeout_us(timeout_s)
    for name, value in request.inputs.items():
        tensor = message.inputs.add(
            name=name,
            datatype=triton_type_from_numpy(name, value.dtype),
            shape=value.shape,
        )
        if isinstance(value, SharedTensor):
            tensor.parameters["shared_memory_region"].string_param = value.region
            tensor.parameters["shared_memory_offset"].int64_param = value.offset
            tensor.parameters["shared_memory_byte_size"].int64_param = value.size_bytes
        else:
            message.raw_input_contents.append(bytes(bytes_from_array(value)))
    return message


def _outputs_from_message(request: Infer, message: Any) -> Outputs:
    check_identity(request, message.model_name, message.id)
    outputs = Outputs()
    outputs.model_version = message.model_version
    for output, data in zip(message.outputs, message.raw_output_contents, strict=True):
        if output.name in outputs:
            raise ValueError(f"{output.name} is there twice")
        outputs[output.name] = array_from_bytes(
            output.name, output.datatype, output.shape, data
        )
    return outputs


def description_from_config(config: Any) -> ModelDescription:
    """Return the description of a model from its configuration.

    Args:
        config: A ModelConfig, of a server's answer or of a file.

    Returns:
        The description.
    """

    def describe(tensors: Any) -> tuple[TensorDescription, ...]:
        return tuple(
            TensorDescription(
                tensor.name,
                model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_"),
                tuple(tensor.dims),
                getattr(tensor, "optional", False),  # outputs have no such field
            )
            for tensor in tensors
        )

    return ModelDescription(
        name=config.name,
        max_batch_size=config.max_batch_size,
        inputs=describe(config.input),
        outputs=describe(config.output),
        parameters={k: v.string_value for k, v in config.parameters.items()},
        stateful=config.HasField("sequence_batching"),
    )


TOO_LARGE = re.compile(r"^(?!SERVER).*message larger than max")
"""gRPC's message of an answer above the limit; a server's own begins with SERVER."""

RESET = re.compile(r"Received RST_STREAM with error code")
"""gRPC's message of a call that the other end has cut off. nginx does so with a stream
whose server has gone: it is a broken connection, and not an answer of the server."""

MESSAGES: Mapping[type, tuple[str, Callable[[Any], Any]]] = {
    DescribeModel: (
        "ModelConfig",
        lambda request: service_pb2.ModelConfigRequest(name=request.model),
    ),
    ListModels: ("RepositoryIndex", lambda _: service_pb2.RepositoryIndexRequest()),
}
"""Triton's method, and the function that builds its message, by type of request."""


def _memory_rpc_from_request(request: MemoryRequest) -> tuple[str, Any]:
    """Return method and message; Triton names all six methods by one rule."""
    verb: str = "Status"
    values: dict[str, Any] = {}
    if isinstance(request, UnregisterMemory):
        verb, values = "Unregister", {"name": request.region}
    elif isinstance(request, RegisterMemory):
        verb = "Register"
        values = {"name": request.region, "byte_size": request.size_bytes}
        if request.gpu is None:
            values["key"] = request.key
        else:
            values.update(raw_handle=request.key, device_id=request.gpu)
    method = f"{request.memory.title()}SharedMemory{verb}"
    return method, getattr(service_pb2, f"{method}Request")(**values)


def metadata_for(
    connection: Connection, request: Request | None = None
) -> tuple[tuple[str, str], ...]:
    """Return the gRPC metadata of a request, or of a stream.

    Args:
        connection: Settings of the connection, with its headers.
        request: The request, or None for a stream.

    Returns:
        Pairs of name and value.
    """
    return tuple(connection.headers_for(request).items())


def error_from_rpc_error(
    exc: Any, request: Request, connection: Connection
) -> PersonServeError:
    """Convert a grpc.RpcError to the client's error.

    Args:
        exc: The grpc.RpcError of a failed call.
        request: The request that failed.
        connection: Settings of the connection, for the address in the message.

    Returns:
        The error, to be raised by the caller.
    """
    status = exc.code().name
    reason = str(exc.details())
    if status == "RESOURCE_EXHAUSTED" and TOO_LARGE.search(reason):
        return too_large_error(request, MAX_REPLY_BYTES)
    if status in {"INTERNAL", "UNKNOWN"} and RESET.search(reason):
        status = "UNAVAILABLE"
    return error_from_status(status, reason, request, connection.address)
