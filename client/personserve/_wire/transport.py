"""The Transport protocols, and the choice of a transport by URL scheme."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from personserve._errors import InvalidInputError
from personserve._wire.connection import Connection
from personserve._wire.requests import Request

HTTPCORE_MISSING = (
    "http:// needs httpcore: install the extra `http` of personserve, or use "
    "the gRPC port (8001)"
)


class Transport(Protocol):
    """A connection to a server that sends one request at a time.

    Implement it to put something else in place of the wire. A transport is used from
    several threads at once.
    """

    def send(self, request: Request, timeout_s: float | None) -> Any:
        """Send a request and wait for its reply.

        Args:
            request: One of the request types; its docstring names the type of reply.
            timeout_s: Seconds to wait for the reply, None for no limit.

        Returns:
            The reply.

        Raises:
            PersonServeError: If there is no reply, or the server refuses the request.
        """
        ...

    def close(self) -> None:
        """Close the connection. Closing it again has no effect."""
        ...


class AsyncTransport(Protocol):
    """A Transport for asyncio."""

    async def send(self, request: Request, timeout_s: float | None) -> Any:
        """Send a request and wait for its reply.

        Args:
            request: One of the request types; its docstring names the type of reply.
            timeout_s: Seconds to wait for the reply, None for no limit.

        Returns:
            The reply.

        Raises:
            PersonServeError: If there is no reply, or the server refuses the request.
        """
        ...

    async def close(self) -> None:
        """Close the connection. Closing it again has no effect."""
        ...


@runtime_checkable
class StreamingTransport(Protocol):
    """A transport of either kind that can also send many requests over one stream."""

    def open_stream(self) -> Any:
        """Open a stream: a transport of the same kind that the caller closes."""
        ...


def open_transport(connection: Connection) -> Transport:
    """Open a transport for the URL scheme of an address.

    Args:
        connection: Address and settings of the endpoint.

    Returns:
        A transport over gRPC or HTTP. It connects when the first request is sent.

    Raises:
        InvalidInputError: If the scheme needs a package that is not installed.
    """
    if connection.address.is_grpc:
        from personserve._wire.grpc import GrpcTransport

        return GrpcTransport(connection)
    try:
        from personserve._wire.http import HttpTransport
    except ImportError as exc:
        raise InvalidInputError(HTTPCORE_MISSING) from exc
    return HttpTransport(connection)


def open_async_transport(connection: Connection) -> AsyncTransport:
    """Open an asynchronous transport for the URL scheme of an address.

    Args:
        connection: Address and settings of the endpoint.

    Returns:
        A transport over gRPC or HTTP. It connects when the first request is sent.

    Raises:
        InvalidInputError: If the scheme needs a package that is not installed.
    """
    if connection.address.is_grpc:
        from personserve._wire.grpc import AsyncGrpcTransport

        return AsyncGrpcTransport(connection)
    try:
        from personserve._wire.http import AsyncHttpTransport
    except ImportError as exc:
        raise InvalidInputError(HTTPCORE_MISSING) from exc
    return AsyncHttpTransport(connection)
