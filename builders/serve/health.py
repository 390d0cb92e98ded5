"""Health of a supervised server, and the small HTTP endpoint that reports it.

Triton's own endpoints answer "ready" while a Python-backend process is dead. This one
turns not ready as soon as the supervisor has a reason, before it acts. It is written
for hostile callers: GET only, nothing of the request is stored or repeated, and there
are limits on connections, on their number and on their time.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any

from builders.serve.errors import ServeError
from builders.serve.metrics import Metrics

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_CONNECTIONS = 16
"""Connections at a time. The oldest one is closed for a further one, so that callers
who send nothing cannot keep a probe out."""

CONNECTION_TIMEOUT_S = 2.0
"""Time of a connection from its first to its last byte."""

MAX_FAILED_STARTS = 3
"""Failed restarts in a row after which the server is not live."""


class Health:
    """State of a server as callers of the health endpoint see it.

    Attributes:
        metrics: Counters and gauges of the metrics page.
    """

    def __init__(self) -> None:
        self.metrics = Metrics()
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._draining = False
        self._reason: str | None = None
        self.set_unready("starting")

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent to the server."""
        return self._reason is None

    @property
    def is_live(self) -> bool:
        """Whether the supervisor can keep the server running."""
        return self._failed_starts < MAX_FAILED_STARTS

    @property
    def reason(self) -> str:
        """The reason why the server is not ready, "" if it is."""
        return self._reason or ""

    def set_ready(self) -> None:
        """Report that the server is healthy; without effect once it drains."""
        with self._lock:
            self._failed_starts = 0
            if not self._draining:
                self._set(None)

    def set_unready(self, reason: str) -> None:
        """Report that no requests should be sent to the server.

        Args:
            reason: The reason, for a person.
        """
        with self._lock:
            if not self._draining:
                self._set(reason)

    def drain(self) -> None:
        """Report that the server will end; it is never ready again."""
        with self._lock:
            self._draining = True
            self._set("draining: the server ends when its requests are answered")

    def count_failed_start(self) -> None:
        """Report that a restart has failed."""
        with self._lock:
            self._failed_starts += 1

    def _set(self, reason: str | None) -> None:
        self._reason = reason
        text = "Whether requests should be sent to this server."
        self.metrics.set("ready", text, float(reason is None))


class HealthServer:
    """HTTP endpoint with /live, /ready and /metrics, as a context manager.

    /v2/health/live and /v2/health/ready are the same as /live and /ready, so that a
    probe of Triton's endpoint needs another port only.

    Args:
        health: What to report.
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.

    Attributes:
        address: host:port of the endpoint.

    Raises:
        ServeError: The port is in use.
    """

    def __init__(self, health: Health, host: str, port: int) -> None:
        try:
            self._server = _Server(health, host, port)
        except OSError as exc:
            raise ServeError(
                f"health port {port} on {host}: {exc.strerror}; stop what listens "
                "there or choose another with --health-port"
            ) from exc
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="health", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, health: Health, host: str, port: int) -> None:
        self.health = health
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # the base class asks the name service for the host's name here
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            is_full = len(self._open) >= MAX_CONNECTIONS
            oldest = next(iter(self._open)) if is_full else None
            if oldest is not None:
                del self._open[oldest]
            self._open[request] = None
        if oldest is not None:
            _abort(oldest)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # a timeout of the socket restarts with each byte, this one does not
        timer = threading.Timer(CONNECTION_TIMEOUT_S, _abort, (request,))
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            with self._lock:
                self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a caller that breaks its connection."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "personserve", ""
    timeout = CONNECTION_TIMEOUT_S
    error_message_format, error_content_type = "error %(code)d\n", "text/plain"

    def do_GET(self) -> None:
        pages: Mapping[str, Callable[[], tuple[bool, str]]] = {
            "/live": self._live,
            "/ready": self._ready,
            "/metrics": lambda: (True, self.server.health.metrics.render()),
        }
        page = pages.get(self.path.removeprefix("/v2/health"))
        if page is None:
            names = ", ".join(pages)
            self._answer(HTTPStatus.NOT_FOUND, f"no such page; there are: {names}\n")
            return
        is_good, text = page()
        status = HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, text)

    def _live(self) -> tuple[bool, str]:
        health = self.server.health
        return health.is_live, "live\n" if health.is_live else "restarts fail\n"

    def _ready(self) -> tuple[bool, str]:
        health = self.server.health
        reason = health.reason
        return not reason, f"not ready: {reason}\n" if reason else "ready\n"

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Log nothing: probes come every second."""


def _abort(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
