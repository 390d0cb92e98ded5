"""Transports over Triton's HTTP endpoint, synchronous and asynchronous, with httpcore.

httpcore is the library below httpx. Unlike httpx it lets this client keep a deadline
for a whole request, and reads answers piece by piece before they are decompressed.
"""

from __future__ import annotations

from typing import Any

import httpcore

from personserve._errors import InvalidInputError, PersonServeError, error_from_status
from personserve._wire.connection import Connection
from personserve._wire.http_messages import ResponseReader, message_from_request
from personserve._wire.http_network import (
    open_async_pool,
    open_pool,
    timeout_extensions,
)
from personserve._wire.requests import Request

NETWORK_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
)


class HttpTransport:
    """Transport over Triton's HTTP endpoint."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._host = _encode_host(connection)
        self._pool = open_pool(connection)

    def send(self, request: Request, timeout_s: float | None) -> Any:
        """Send a request and wait for its reply."""
        extensions = timeout_extensions(timeout_s)
        message = message_from_request(request, self._connection, timeout_s)
        try:
            with self._pool.stream(
                message.method,
                _build_url(self._connection, self._host, message.path),
                headers=message.headers,
                content=message.content,
                extensions=extensions,
            ) as response:
                reader = ResponseReader.from_head(
                    request, self._connection, response.status, response.headers
                )
                for chunk in response.iter_stream():
                    if not reader.add(chunk):
                        break
        except NETWORK_ERRORS as exc:
            raise _error_from_network(exc, request, self._connection) from exc
        return reader.reply()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class AsyncHttpTransport:
    """AsyncTransport over Triton's HTTP endpoint."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._host = _encode_host(connection)
        self._pool = open_async_pool(connection)

    async def send(self, request: Request, timeout_s: float | None) -> Any:
        """Send a request and wait for its reply."""
        extensions = timeout_extensions(timeout_s)
        message = message_from_request(request, self._connection, timeout_s)
        try:
            async with self._pool.stream(
                message.method,
                _build_url(self._connection, self._host, message.path),
                headers=message.headers,
                content=message.content,
                extensions=extensions,
            ) as response:
                reader = ResponseReader.from_head(
                    request, self._connection, response.status, response.headers
                )
                async for chunk in response.aiter_stream():
                    if not reader.add(chunk):
                        break
        except NETWORK_ERRORS as exc:
            raise _error_from_network(exc, request, self._connection) from exc
        return reader.reply()

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def _encode_host(connection: Connection) -> bytes:
    try:
        return connection.address.host.encode("idna")
    except UnicodeError as exc:
        raise InvalidInputError(f"address {connection.address}: {exc}") from exc


def _build_url(connection: Connection, host: bytes, path: str) -> httpcore.URL:
    address = connection.address
    return httpcore.URL(
        scheme=address.scheme.encode("ascii"),
        host=host,
        port=address.port,
        target=path.encode("ascii"),
    )


def _error_from_network(
    exc: Exception, request: Request, connection: Connection
) -> PersonServeError:
    if isinstance(exc, httpcore.LocalProtocolError):
        return InvalidInputError(f"headers that HTTP does not allow: {exc}")
    timed_out = isinstance(exc, httpcore.TimeoutException)
    status = "DEADLINE_EXCEEDED" if timed_out else "UNAVAILABLE"
    return error_from_status(
        status, str(exc) or type(exc).__name__, request, connection.address
    )
