"""The one method behind which the wire is, and which wire an address means."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from personserve._connection import Connection
from personserve._errors import InvalidInputError
from personserve._requests import Request

HTTP_HINT = (
    'http:// needs httpx: pip install "personserve[http]", or use the gRPC port (8001)'
)


class Transport(Protocol):
    """A way to reach a server. Implement it to test without one."""

    def send(self, request: Request, timeout_s: float | None) -> Any:
        """The reply to `request` within `timeout_s`. Raises PersonServeError."""
        ...

    def close(self) -> None:
        """Let go of connections; further calls do nothing."""
        ...


class AsyncTransport(Protocol):
    """The same for asyncio."""

    async def send(self, request: Request, timeout_s: float | None) -> Any:
        """The reply to `request` within `timeout_s`. Raises PersonServeError."""
        ...

    async def close(self) -> None:
        """Let go of connections; further calls do nothing."""
        ...


@runtime_checkable
class Streams(Protocol):
    """A transport, of either kind, that has a way for many requests in a row."""

    def stream(self) -> Any:
        """A transport of the same kind, to be closed after use."""
        ...


def transport_to(connection: Connection) -> Transport:
    """A transport for the address's scheme."""
    if connection.address.is_grpc:
        from personserve._grpc import GrpcTransport

        return GrpcTransport(connection)
    try:
        from personserve._http import HttpTransport
    except ImportError as exc:
        raise InvalidInputError(HTTP_HINT) from exc
    return HttpTransport(connection)


def async_transport_to(connection: Connection) -> AsyncTransport:
    """An AsyncTransport for the address's scheme."""
    if connection.address.is_grpc:
        from personserve._grpc import AsyncGrpcTransport

        return AsyncGrpcTransport(connection)
    try:
        from personserve._http import AsyncHttpTransport
    except ImportError as exc:
        raise InvalidInputError(HTTP_HINT) from exc
    return AsyncHttpTransport(connection)
