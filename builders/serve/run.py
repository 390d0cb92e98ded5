"""A server's run in the foreground: start, supervision, signals, and a drained end.

The first SIGTERM drains: the health endpoint turns not ready, load balancers get some
time to notice, then the server takes no new requests and answers those in flight. The
second signal ends everything at once, as does Ctrl-C after the requests in flight.
"""

from __future__ import annotations

import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType

from builders.progress import Progress
from builders.serve.endpoints import LOOPBACK
from builders.serve.errors import ServeError
from builders.serve.health import Health, HealthServer
from builders.serve.processes import describe_exit
from builders.serve.selection import build_command
from builders.serve.supervisor import Supervisor
from builders.serve.tritonserver import TritonServer
from builders.serve.vulnerabilities import summarise_vulnerabilities
from builders.serve.wheel import find_triton_version

HEALTH_PORT = 8003
METRICS_TIMEOUT_S = 1.0
MAX_METRICS_BYTES = 4 << 20

SIGNAL_POLL_S = 0.25
"""Time between two looks at an unsupervised server."""


@dataclass(frozen=True)
class HealthSettings:
    """Settings of the health endpoint, the drain and the supervision.

    Attributes:
        host: Address of the health endpoint.
        port: Port of the health endpoint.
        drain_delay_s: Seconds between SIGTERM and the end of new requests.
        supervise: Whether a failed server is restarted.
    """

    host: str = LOOPBACK
    port: int = HEALTH_PORT
    drain_delay_s: float = 0.0
    supervise: bool = True


def run_until_signal(
    server: TritonServer,
    settings: HealthSettings,
    log: Callable[[str], None],
    show_progress: Callable[[], AbstractContextManager[Progress]],
) -> None:
    """Start a server, and keep it running until SIGTERM.

    Args:
        server: The server, not started.
        settings: Settings of the health endpoint, the drain and the supervision.
        log: Called with each line or paragraph to print.
        show_progress: Opens the display of progress while the server starts.

    Raises:
        ServeError: The server cannot start; or it has ended and is not supervised.
        KeyboardInterrupt: On Ctrl-C, or on a second SIGTERM.
    """
    health = Health()
    health.metrics.sources.append(lambda: read_metrics(server.metrics_address))
    with (
        _draining_on_sigterm(health, log) as (stop, abort),
        HealthServer(health, settings.host, settings.port) as endpoint,
    ):
        try:
            log(f"loading {', '.join(server.loaded)}")
            with show_progress() as progress:
                server.start(cancel=stop, progress=progress)
            health.set_ready()
            _announce(server, endpoint.address, log)
            if settings.supervise:
                Supervisor(server, log, health).run(stop)
            else:
                _wait(server, stop)
            # in the meantime the server takes new requests as before
            abort.wait(settings.drain_delay_s)
        except ServeError:
            if not stop.is_set():  # a signal has cancelled the start
                raise
        except KeyboardInterrupt:
            if stop.is_set():
                server.stop(0)
            raise
        finally:
            server.stop(abort=abort)
    if abort.is_set():
        raise KeyboardInterrupt
    log("the server has ended; all requests in flight were given their time")


def read_metrics(address: str) -> str:
    """Return the page of Triton's metrics.

    Args:
        address: host:port of the metrics endpoint.

    Raises:
        OSError: It does not answer.
    """
    # proxies of the environment have no business with the loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"http://{address}/metrics"
    with opener.open(url, timeout=METRICS_TIMEOUT_S) as response:
        return str(response.read(MAX_METRICS_BYTES).decode("utf-8", "replace"))


@contextmanager
def _draining_on_sigterm(
    health: Health, log: Callable[[str], None]
) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Yield an event that the first SIGTERM sets, and one that the second sets.

    A thread reads the signals from a pipe, because Python's handlers merge two signals
    that arrive together, and do not end a wait that is about to begin.
    """
    stop, abort = threading.Event(), threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def read_signals() -> None:
        while numbers := os.read(reader, 1):
            if signal.SIGTERM not in numbers:
                continue
            if stop.is_set():
                abort.set()
                continue
            stop.set()
            health.drain()
            log("SIGTERM: draining; a second signal ends the server at once")

    thread = threading.Thread(target=read_signals, name="signals", daemon=True)
    thread.start()
    # without a handler in Python, nothing is written to the pipe
    before = signal.signal(signal.SIGTERM, _ignore_signal)
    descriptor = signal.set_wakeup_fd(writer)
    try:
        yield stop, abort
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)
        thread.join()
        os.close(reader)


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the pipe of signal.set_wakeup_fd carries the signal."""


def _wait(server: TritonServer, stop: threading.Event) -> None:
    """Wait for the signal; raise ServeError if the server ends by itself."""
    while not stop.wait(SIGNAL_POLL_S):
        code = server.exit_code
        if code is not None:
            raise ServeError(
                f"tritonserver {describe_exit(code)}\n{server.describe_failure()}"
            )


def _announce(
    server: TritonServer, health_address: str, log: Callable[[str], None]
) -> None:
    log(f"serving {', '.join(server.loaded)}")
    if server.missing:
        command = build_command(server.target, server.missing)
        log(
            f"not built for {server.target}, so not served: "
            f"{', '.join(server.missing)} ({command})"
        )
    version = find_triton_version()
    if version is not None:
        log(summarise_vulnerabilities(version))
    log(f"gRPC     {'grpcs://' if server.tls else ''}{server.grpc_address}")
    if server.http:
        log(f"HTTP     http://{server.http_address}")
    log(f"health   http://{health_address}/ready")
    log(f"metrics  http://{server.metrics_address}/metrics")
