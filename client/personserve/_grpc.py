"""Transports over Triton's gRPC endpoint, one for each kind of client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

from personserve._connection import Connection
from personserve._grpc_messages import asked, error_of, metadata_of, reply_of
from personserve._grpc_stream import AsyncGrpcStream, GrpcStream
from personserve._requests import Request

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
        method, message = asked(request)
        try:
            reply = getattr(self._stub, method)(
                message,
                timeout=timeout_s,
                metadata=metadata_of(self._connection, request),
            )
        except grpc.RpcError as exc:
            raise error_of(exc, request, self._connection) from exc
        return reply_of(request, reply)

    def stream(self) -> GrpcStream:
        """A transport over one stream, for many requests in a row."""
        return GrpcStream(self, self._connection)

    def open_stream(self, messages: Iterator[Any]) -> Any:
        """A call that takes `messages` and gives their responses."""
        metadata = metadata_of(self._connection)
        return self._stub.ModelStreamInfer(messages, metadata=metadata)

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
        method, message = asked(request)
        try:
            reply = await getattr(self._connected(), method)(
                message,
                timeout=timeout_s,
                metadata=metadata_of(self._connection, request),
            )
        except grpc.RpcError as exc:
            raise error_of(exc, request, self._connection) from exc
        return reply_of(request, reply)

    def stream(self) -> AsyncGrpcStream:
        """See GrpcTransport.stream."""
        return AsyncGrpcStream(self, self._connection)

    def open_stream(self, messages: AsyncIterator[Any]) -> Any:
        """See GrpcTransport.open_stream."""
        metadata = metadata_of(self._connection)
        return self._connected().ModelStreamInfer(messages, metadata=metadata)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _connected(self) -> Any:
        if self._channel is None:
            self._channel = _channel(grpc.aio, self._connection)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._stub


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
