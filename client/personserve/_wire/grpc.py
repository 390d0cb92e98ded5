"""Transports over Triton's gRPC endpoint, synchronous and asynchronous."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

from personserve._wire.connection import Connection
from personserve._wire.grpc_messages import (
    error_from_rpc_error,
    metadata_for,
    reply_from_message,
    rpc_from_request,
)
from personserve._wire.grpc_stream import AsyncGrpcStream, GrpcStream
from personserve._wire.replies import MAX_REPLY_BYTES
from personserve._wire.requests import Request

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    # reconnect to a restarted server within seconds; gRPC's default is minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # notice a connection that died silently while a call waits on it
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # a name of several addresses is several servers: a connection to each, and calls in
    # turn. gRPC's default sends everything to the first that answers
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # gRPC asks for the addresses again when a connection ends, at most once in this
    # time; its default of 30 s leaves out servers that have just replaced others
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)


class GrpcTransport:
    """Transport over Triton's gRPC endpoint."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = _open_channel(grpc, connection)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def send(self, request: Request, timeout_s: float | None) -> Any:
        """Send a request and wait for its reply."""
        method, message = rpc_from_request(request, timeout_s)
        try:
            response = getattr(self._stub, method)(
                message,
                timeout=timeout_s,
                metadata=metadata_for(self._connection, request),
            )
        except grpc.RpcError as exc:
            raise error_from_rpc_error(exc, request, self._connection) from exc
        return reply_from_message(request, response, self._connection)

    def open_stream(self) -> GrpcStream:
        """Open a transport over one gRPC stream, for many requests in a row."""
        return GrpcStream(self, self._connection)

    def start_stream_call(self, messages: Iterator[Any]) -> Any:
        """Start ModelStreamInfer, a call that sends messages and yields responses.

        Args:
            messages: The requests to send.
        """
        metadata = metadata_for(self._connection)
        return self._stub.ModelStreamInfer(messages, metadata=metadata)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncGrpcTransport:
    """AsyncTransport over Triton's gRPC endpoint.

    The channel is opened by the first request and belongs to its event loop.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: Any = None
        self._stub: Any = None

    async def send(self, request: Request, timeout_s: float | None) -> Any:
        """Send a request and wait for its reply."""
        method, message = rpc_from_request(request, timeout_s)
        try:
            response = await getattr(self._connect(), method)(
                message,
                timeout=timeout_s,
                metadata=metadata_for(self._connection, request),
            )
        except grpc.RpcError as exc:
            raise error_from_rpc_error(exc, request, self._connection) from exc
        return reply_from_message(request, response, self._connection)

    def open_stream(self) -> AsyncGrpcStream:
        """Open a transport over one gRPC stream, for many requests in a row."""
        return AsyncGrpcStream(self, self._connection)

    def start_stream_call(self, messages: AsyncIterator[Any]) -> Any:
        """Start ModelStreamInfer, a call that sends messages and yields responses.

        Args:
            messages: The requests to send.
        """
        metadata = metadata_for(self._connection)
        return self._connect().ModelStreamInfer(messages, metadata=metadata)

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    def _connect(self) -> Any:
        if self._channel is None:
            self._channel = _open_channel(grpc.aio, self._connection)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._stub


def _open_channel(library: Any, connection: Connection) -> Any:
    """Open a channel of `library`, which is grpc or grpc.aio."""
    target = connection.address.grpc_target
    settings: dict[str, Any] = {"options": CHANNEL_OPTIONS}
    if connection.compression == "gzip":
        settings["compression"] = grpc.Compression.Gzip
    if not connection.address.is_encrypted:
        return library.insecure_channel(target, **settings)
    tls = connection.tls
    credentials = grpc.ssl_channel_credentials(
        _read_file(tls.ca_file), _read_file(tls.key_file), _read_file(tls.cert_file)
    )
    return library.secure_channel(target, credentials, **settings)


def _read_file(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
