"""The gRPC wire: Triton's own messages, and a transport for each kind of client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

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

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # a server that was restarted is found again within seconds, not minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # a connection that died silently is noticed while a call waits on it
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class GrpcTransport:
    """Transport over Triton's gRPC endpoint."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = _channel(grpc, connection)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def send(self, request: Request, timeout_s: float | None) -> Any:
        method, message = _asked(request)
        try:
            reply = getattr(self._stub, method)(
                message,
                timeout=timeout_s,
                metadata=_metadata(self._connection, request),
            )
        except grpc.RpcError as exc:
            raise _error(exc, request, self._connection) from exc
        return reply_of(request, reply)

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport:
    """AsyncTransport over Triton's gRPC endpoint. The channel belongs to the event loop
    of the first request.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: Any = None
        self._stub: Any = None

    async def send(self, request: Request, timeout_s: float | None) -> Any:
        if self._channel is None:
            self._channel = _channel(grpc.aio, self._connection)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        method, message = _asked(request)
        try:
            reply = await getattr(self._stub, method)(
                message,
                timeout=timeout_s,
                metadata=_metadata(self._connection, request),
            )
        except grpc.RpcError as exc:
            raise _error(exc, request, self._connection) from exc
        return reply_of(request, reply)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


def reply_of(request: Request, reply: Any) -> Any:
    """What `reply` says, as the request's docstring promises."""
    if isinstance(request, Infer):
        return _outputs(reply)
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


def _infer_message(request: Infer) -> Any:
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


def _outputs(reply: Any) -> dict[str, Array]:
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


def _channel(library: Any, connection: Connection) -> Any:
    """A channel of `library`, which is grpc or grpc.aio."""
    target = connection.address.netloc
    how: dict[str, Any] = {"options": CHANNEL_OPTIONS}
    if connection.compression == "gzip":
        how["compression"] = grpc.Compression.Gzip
    if not connection.address.is_encrypted:
        return library.insecure_channel(target, **how)
    tls = connection.tls
    credentials = grpc.ssl_channel_credentials(
        tls.read("authorities"), tls.read("key"), tls.read("certificate")
    )
    return library.secure_channel(target, credentials, **how)


MESSAGES: Mapping[type, tuple[str, Callable[[Any], Any]]] = {
    Infer: ("ModelInfer", _infer_message),
    DescribeModel: (
        "ModelConfig",
        lambda request: service_pb2.ModelConfigRequest(name=request.model),
    ),
    ListModels: ("RepositoryIndex", lambda _: service_pb2.RepositoryIndexRequest()),
    RegisterMemory: (
        "SystemSharedMemoryRegister",
        lambda request: service_pb2.SystemSharedMemoryRegisterRequest(
            name=request.region, key=request.key, byte_size=request.byte_size
        ),
    ),
    UnregisterMemory: (
        "SystemSharedMemoryUnregister",
        lambda request: service_pb2.SystemSharedMemoryUnregisterRequest(
            name=request.region
        ),
    ),
    ListMemory: (
        "SystemSharedMemoryStatus",
        lambda _: service_pb2.SystemSharedMemoryStatusRequest(),
    ),
}
"""Triton's method, and what makes its message."""


def _asked(request: Request) -> tuple[str, Any]:
    """The method's name and the message for `request`."""
    if isinstance(request, Ready) and request.model is not None:
        return "ModelReady", service_pb2.ModelReadyRequest(name=request.model)
    if isinstance(request, Ready):
        return "ServerReady", service_pb2.ServerReadyRequest()
    method, message = MESSAGES[type(request)]
    return method, message(request)


def _metadata(connection: Connection, request: Request) -> tuple[tuple[str, str], ...]:
    return tuple(connection.headers_for(request).items())


def _error(exc: Any, request: Request, connection: Connection) -> PersonServeError:
    status = exc.code().name
    return error_of_status(status, str(exc.details()), request, connection.address)
