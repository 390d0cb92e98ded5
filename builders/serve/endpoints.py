"""Endpoints of a server: addresses, ports, protocols, and who may reach them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from builders.serve.access import ServerTls, restrict_everything, restrictions
from builders.serve.errors import ServeError
from builders.serve.probes import GrpcProbe, HttpProbe, Probe
from personserve.internal.access import (
    GRPC_KEY_HEADER,
    KEY_HEADER,
    LOOPBACK_HOSTS,
    token_headers,
)

LOOPBACK = "127.0.0.1"

EVERY_ADDRESS = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - looked up, not bound
"""Addresses that mean all of the machine's, and the one to call from it."""


@dataclass(frozen=True)
class Ports:
    """Where the server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @classmethod
    def free(cls) -> Ports:
        """Return three ports that are free at the moment."""
        sockets = [socket.socket() for _ in range(3)]
        try:
            for each in sockets:
                each.bind((LOOPBACK, 0))
            http, grpc, metrics = (each.getsockname()[1] for each in sockets)
        finally:
            for each in sockets:
                each.close()
        return cls(http, grpc, metrics)


@dataclass(frozen=True)
class Endpoints:
    """Where a server listens, and who may use it.

    Triton's HTTP has no TLS. With TLS it listens on the loopback only, and demands the
    key of the run for everything: the supervisor's probes use it, because they have no
    certificate.

    Attributes:
        host: Address of the gRPC endpoint, and of HTTP where it is on.
        ports: Ports to listen on.
        http: Whether HTTP is on for everyone.
        tls: Certificate of the gRPC endpoint; None for plain text.
        token: Token that inference demands; None for no token.
        exposed: Whether another host than the loopback is allowed without TLS and
            authentication.

    Raises:
        ServeError: The settings contradict one another, or open the server to the
            network by accident.
    """

    host: str = LOOPBACK
    ports: Ports = field(default_factory=Ports)
    http: bool = False
    tls: ServerTls | None = None
    token: str | None = None
    exposed: bool = False

    def check(self) -> None:
        """Check that these settings expose nothing by accident.

        Raises:
            ServeError: They do, or they contradict one another.
        """
        if self.http and self.tls is not None:
            raise ServeError(
                "--http with --tls-cert: Triton's HTTP endpoint has no TLS; leave out "
                "--http, or put a proxy with TLS in front of the loopback address"
            )
        if self.host in LOOPBACK_HOSTS or self.exposed:
            return
        has_login = self.token is not None or (self.tls and self.tls.ca_file)
        missing = [] if self.tls else ["TLS (--tls-cert, --tls-key)"]
        missing += [] if has_login else ["authentication (--token-file or --tls-ca)"]
        if missing:
            raise ServeError(
                f"--host {self.host} would let the network reach a server without "
                f"{' and '.join(missing)}; give what is missing, put a proxy with both "
                "in front of the loopback address, or pass --exposed to accept "
                "requests from anyone"
            )

    @property
    def listening(self) -> dict[str, tuple[str, int]]:
        """Host and port of each endpoint that is on, by name."""
        hosts = {"grpc": self.host, "metrics": self._metrics_host}
        if self.http or self.tls is not None:
            hosts["http"] = self.host if self.http else LOOPBACK
        return {name: (host, getattr(self.ports, name)) for name, host in hosts.items()}

    @property
    def local_host(self) -> str:
        """Address that reaches the server from this machine."""
        return EVERY_ADDRESS.get(self.host, self.host)

    @property
    def _metrics_host(self) -> str:
        # Triton's metrics are plain HTTP; for the network the health endpoint has them
        return self.host if self.host in LOOPBACK_HOSTS else LOOPBACK

    def check_ports(self) -> None:
        """Check that no port is in use.

        Raises:
            ServeError: One is.
        """
        for name, (host, port) in self.listening.items():
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as exc:
                    raise ServeError(
                        f"{name} port {port} on {host}: {exc.strerror}; stop what "
                        f"listens there or choose another with --{name}-port"
                    ) from exc

    def arguments(self, key: str) -> Iterator[str]:
        """Yield tritonserver's arguments.

        Args:
            key: Key that the restricted endpoints demand.
        """
        for name, (host, port) in self.listening.items():
            yield f"--{name}-address={host}"
            yield f"--{name}-port={port}"
        yield from self.tls.arguments() if self.tls else ()
        restricted = list(restrictions(key, self.token))
        for each in restricted:
            yield f"--grpc-restricted-protocol={each}"
        if not (self.http or self.tls):
            yield "--allow-http=false"
            return
        for each in restricted if self.http else [restrict_everything(key)]:
            yield f"--http-restricted-api={each}"

    def open_probe(self, key: str) -> Probe:
        """Connect to the server's health calls and to the control of its models.

        Args:
            key: Key of the run.
        """
        if self.tls is not None:
            return HttpProbe(f"{LOOPBACK}:{self.ports.http}", {KEY_HEADER: key})
        address = f"{self.local_host}:{self.ports.grpc}"
        return GrpcProbe(address, {GRPC_KEY_HEADER: key})

    def local_client(self, key: str) -> tuple[str, dict[str, str]]:
        """Return the address and the headers with which this process may infer.

        Args:
            key: Key of the run.
        """
        if self.tls is not None:
            return f"http://{LOOPBACK}:{self.ports.http}", {KEY_HEADER: key}
        headers = token_headers(self.token) if self.token else {}
        return f"grpc://{self.local_host}:{self.ports.grpc}", headers
