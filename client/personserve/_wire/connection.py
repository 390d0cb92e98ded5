"""Connection settings: address, TLS files, headers and compression."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from personserve._errors import InvalidInputError
from personserve._wire.requests import (
    ListMemory,
    ListModels,
    RegisterMemory,
    UnregisterMemory,
)
from personserve.internal.access import access_headers

DEFAULT_PORTS = {
    "grpc": 8001,
    "grpcs": 8001,
    "dns": 8001,
    "http": 8000,
    "https": 8000,
}

RESTRICTED_REQUESTS = (ListMemory, ListModels, RegisterMemory, UnregisterMemory)
"""Requests that `python -m builders serve` answers only with its access key."""

Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]
"""Headers by name, or a function that is called for the headers of each request."""


@dataclass(frozen=True)
class Address:
    """A server's endpoint.

    Over gRPC a host name that resolves to several IP addresses means several servers,
    and calls go to each in turn.

    Attributes:
        scheme: "grpc", "grpcs", "http" or "https"; or "dns", gRPC's own form of a name
            (https://github.com/grpc/grpc/blob/master/doc/naming.md), without TLS.
        host: Host name or IP address, an IPv6 address without brackets.
        port: TCP port.
        name_server: host:port of the name server to ask, of a dns:// address; empty for
            the system's.
    """

    scheme: str
    host: str
    port: int
    name_server: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address.

        Args:
            text: `scheme://host:port`, `scheme://host` for the scheme's default port,
                `host:port` for gRPC, `dns:///host:port` or
                `dns://name-server:53/host:port`.

        Returns:
            The address.

        Raises:
            InvalidInputError: If the scheme is unknown, or host or port are invalid.
        """
        name_server = ""
        rest = text if "://" in text else f"grpc://{text}"
        if rest.startswith("dns://"):
            name_server, _, host_port = rest.removeprefix("dns://").partition("/")
            rest = f"dns://{host_port}"
        try:
            url = urlsplit(rest)
            port = url.port
        except ValueError as exc:
            raise InvalidInputError(f"address {text!r}: {exc}") from exc
        if url.scheme not in DEFAULT_PORTS or not url.hostname or url.path.strip("/"):
            raise InvalidInputError(
                f"address {text!r}: expected grpc://, grpcs://, http:// or https:// "
                "and host:port, for example grpc://127.0.0.1:8001; or dns:/// and a "
                "name, for example dns:///personserve:8001"
            )
        port = port or DEFAULT_PORTS[url.scheme]
        return cls(url.scheme, url.hostname, port, name_server)

    @property
    def is_grpc(self) -> bool:
        """Whether the endpoint speaks gRPC."""
        return self.scheme in {"grpc", "grpcs", "dns"}

    @property
    def is_encrypted(self) -> bool:
        """Whether the endpoint speaks TLS."""
        return self.scheme in {"grpcs", "https"}

    @property
    def netloc(self) -> str:
        """`host:port`, with an IPv6 host in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def grpc_target(self) -> str:
        """The address as gRPC takes it."""
        return str(self) if self.scheme == "dns" else self.netloc

    def __str__(self) -> str:
        if self.scheme == "dns":
            return f"dns://{self.name_server}/{self.netloc}"
        return f"{self.scheme}://{self.netloc}"


@dataclass(frozen=True)
class Tls:
    """Certificate and key files (PEM) for grpcs:// and https://.

    Attributes:
        ca_file: Certificates of the authorities to trust. None for the defaults: the
            system's for https://, gRPC's own for grpcs://.
        cert_file: The client's certificate, for servers that demand one (mTLS).
        key_file: Private key of `cert_file`; both are given, or neither.

    Raises:
        InvalidInputError: If a file is missing, or only one of `cert_file` and
            `key_file` is given.
    """

    ca_file: Path | str | None = None
    cert_file: Path | str | None = None
    key_file: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidInputError("Tls: cert_file and key_file belong together")
        for name in ("ca_file", "cert_file", "key_file"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise InvalidInputError(f"Tls: {name} {path}: no such file")

    def ssl_context(self) -> ssl.SSLContext:
        """Return an SSL context with these files, for HTTP."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


@dataclass(frozen=True)
class Connection:
    """Settings of the connection to one endpoint.

    Attributes:
        address: Address of the endpoint.
        tls: Certificate files, used if the address is encrypted.
        headers: Headers of every request. A callable is called for each request, so
            that tokens can change.
        compression: Compression of what the client sends, or None.
    """

    address: Address
    tls: Tls = field(default_factory=Tls)
    headers: Headers = field(default_factory=dict)
    compression: Literal["gzip"] | None = None

    def headers_for(self, request: object) -> dict[str, str]:
        """Merge the connection's headers with a request's.

        Requests that a server restricts carry its key, if it runs on this machine.

        Args:
            request: A request; those with a `headers` field override the connection's.

        Returns:
            Header values by lower-case name.
        """
        common = self.headers() if callable(self.headers) else self.headers
        own: Mapping[str, str] = getattr(request, "headers", {})
        headers = {name.lower(): value for name, value in {**common, **own}.items()}
        if isinstance(request, RESTRICTED_REQUESTS):
            address = self.address
            key = access_headers(address.host, address.port, is_grpc=address.is_grpc)
            headers = {**key, **headers}
        return headers
