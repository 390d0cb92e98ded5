"""Where a server is and how it is reached: addresses, TLS, headers, limits."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from personserve._errors import InvalidInputError

DEFAULT_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 8000}

Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Address:
    """A server's endpoint. `scheme` is grpc, grpcs, http or https."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`scheme://host:port`, or `host:port` for gRPC. Raises InvalidInputError."""
        try:
            url = urlsplit(text if "://" in text else f"grpc://{text}")
            port = url.port
        except ValueError as exc:
            raise InvalidInputError(f"address {text!r}: {exc}") from exc
        if url.scheme not in DEFAULT_PORTS or not url.hostname or url.path.strip("/"):
            raise InvalidInputError(
                f"address {text!r}: expected grpc://, grpcs://, http:// or https:// "
                "and host:port, as grpc://127.0.0.1:8001"
            )
        return cls(url.scheme, url.hostname, port or DEFAULT_PORTS[url.scheme])

    @property
    def is_grpc(self) -> bool:
        """Whether it speaks gRPC."""
        return self.scheme in {"grpc", "grpcs"}

    @property
    def is_encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return self.scheme in {"grpcs", "https"}

    @property
    def netloc(self) -> str:
        """host:port, with an IPv6 host in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


@dataclass(frozen=True)
class Tls:
    """Files (PEM) for grpcs and https: whom to trust (`authorities`; the system's own
    if not given), and for mTLS who we are (`certificate` and its `key`).
    """

    authorities: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidInputError("Tls: certificate and key belong together")
        for name in ("authorities", "certificate", "key"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise InvalidInputError(f"Tls: {name} {path}: no such file")

    def read(self, name: str) -> bytes | None:
        """The bytes of one of the files."""
        path = getattr(self, name)
        return None if path is None else Path(path).read_bytes()

    def context(self) -> ssl.SSLContext:
        """All of it for https."""
        context = ssl.create_default_context(cafile=self.authorities)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class Connection:
    """How an endpoint is reached. `headers` go with every request (a callable is asked
    each time, so that tokens can change), `compression` is of what we send.
    """

    address: Address
    tls: Tls = field(default_factory=Tls)
    headers: Headers = field(default_factory=dict)
    compression: Literal["gzip"] | None = None

    def headers_for(self, request: object) -> dict[str, str]:
        """Those of the connection and those of the request, in lower case."""
        given = self.headers() if callable(self.headers) else self.headers
        own: Mapping[str, str] = getattr(request, "headers", {})
        return {name.lower(): value for name, value in {**given, **own}.items()}
