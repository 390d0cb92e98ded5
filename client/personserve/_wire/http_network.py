"""Connection pools for HTTP on which a deadline holds for a whole request.

httpcore applies its timeouts to each connect, read and write, so a server that sends
one byte at a time can extend a request without end. The pools here are given deadlines
in place of these timeouts, and their network backends convert a deadline to the
remaining time before each operation.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore

from personserve._errors import InvalidInputError
from personserve._wire.connection import Connection

MAX_IDLE_CONNECTIONS = 32
IDLE_EXPIRY_S = 5.0
WRITE_BYTES = 256 << 10
"""Bytes of one write; the deadline is checked before each."""


def timeout_extensions(timeout_s: float | None) -> dict[str, Any]:
    """Return the extensions of a request that hold its deadline.

    Args:
        timeout_s: Seconds for the whole request, None for no limit.

    Returns:
        httpcore's request extensions, for the pools of this module only.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    timeouts = dict.fromkeys(("connect", "read", "write"), deadline)
    return {"timeout": {**timeouts, "pool": timeout_s}}


def open_pool(connection: Connection) -> httpcore.ConnectionPool:
    """Open a pool of connections, through the environment's proxy if there is one.

    Args:
        connection: Address and TLS settings.

    Returns:
        The pool; it connects when the first request is sent.
    """
    settings = _pool_settings(connection, _Backend())
    if proxy := _proxy_settings(connection):
        return httpcore.HTTPProxy(**proxy, **settings)
    return httpcore.ConnectionPool(**settings)


def open_async_pool(connection: Connection) -> httpcore.AsyncConnectionPool:
    """Open a pool of connections for asyncio; see open_pool.

    Args:
        connection: Address and TLS settings.

    Returns:
        The pool; it connects when the first request is sent.
    """
    settings = _pool_settings(connection, _AsyncBackend())
    if proxy := _proxy_settings(connection):
        return httpcore.AsyncHTTPProxy(**proxy, **settings)
    return httpcore.AsyncConnectionPool(**settings)


def _pool_settings(connection: Connection, backend: Any) -> dict[str, Any]:
    encrypted = connection.address.is_encrypted
    return {
        "ssl_context": connection.tls.ssl_context() if encrypted else None,
        "max_connections": None,
        "max_keepalive_connections": MAX_IDLE_CONNECTIONS,
        "keepalive_expiry": IDLE_EXPIRY_S,
        "network_backend": backend,
    }


def _proxy_settings(connection: Connection) -> Mapping[str, Any] | None:
    """Return the proxy of the environment (HTTP_PROXY, NO_PROXY ...) for an address."""
    address = connection.address
    proxies = getproxies()
    text = proxies.get(address.scheme) or proxies.get("all")
    if not text or proxy_bypass(address.netloc):
        return None
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise InvalidInputError(
            f"proxy {url.scheme}://{url.hostname} of the environment: expected http:// "
            "or https://; NO_PROXY lists the hosts to reach without it"
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    port = f":{url.port}" if url.port else ""
    settings: dict[str, Any] = {"proxy_url": f"{url.scheme}://{host}{port}"}
    if url.username:
        password = unquote(url.password or "")
        settings["proxy_auth"] = (unquote(url.username), password)
    return settings


def _remaining_s(
    deadline: float | None, error: type[httpcore.TimeoutException]
) -> float | None:
    if deadline is None:
        return None
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise error("the deadline has passed")
    return remaining_s


def _pieces(buffer: bytes) -> Iterable[Any]:
    view = memoryview(buffer)
    return (view[i : i + WRITE_BYTES] for i in range(0, len(view), WRITE_BYTES))


class _Backend(httpcore.SyncBackend):
    """A network backend whose `timeout` arguments are deadlines (time.monotonic)."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that accepts, all by one deadline."""
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        error: Exception = httpcore.ConnectError(f"{host} has no address")
        for *_, address in addresses:
            remaining_s = _remaining_s(timeout, httpcore.ConnectTimeout)
            try:
                return _Stream(
                    super().connect_tcp(
                        str(address[0]),
                        port,
                        remaining_s,
                        local_address,
                        socket_options,
                    )
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                error = exc
        raise error


class _Stream(httpcore.NetworkStream):
    """A stream whose `timeout` arguments are deadlines."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        remaining_s = _remaining_s(timeout, httpcore.ReadTimeout)
        return self._stream.read(max_bytes, remaining_s)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for piece in _pieces(buffer):
            self._stream.write(piece, _remaining_s(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        remaining_s = _remaining_s(timeout, httpcore.ConnectTimeout)
        return _Stream(
            self._stream.start_tls(ssl_context, server_hostname, remaining_s)
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _AsyncBackend(httpcore.AnyIOBackend):
    """_Backend for asyncio."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host by a deadline."""
        remaining_s = _remaining_s(timeout, httpcore.ConnectTimeout)
        return _AsyncStream(
            await super().connect_tcp(
                host, port, remaining_s, local_address, socket_options
            )
        )


class _AsyncStream(httpcore.AsyncNetworkStream):
    """_Stream for asyncio."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,
    ) -> bytes:
        remaining_s = _remaining_s(timeout, httpcore.ReadTimeout)
        return await self._stream.read(max_bytes, remaining_s)

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,
    ) -> None:
        # one operation of the event loop, which applies its timeout to all of it
        remaining_s = _remaining_s(timeout, httpcore.WriteTimeout)
        await self._stream.write(buffer, remaining_s)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        remaining_s = _remaining_s(timeout, httpcore.ConnectTimeout)
        return _AsyncStream(
            await self._stream.start_tls(ssl_context, server_hostname, remaining_s)
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
