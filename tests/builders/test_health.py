"""The supervisor's health endpoint: its pages, and hostile callers."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from builders.serve import health as module
from builders.serve.errors import ServeError
from builders.serve.health import Health, HealthServer

PATIENCE_S = 120.0
"""Time for what takes a moment on an idle machine."""


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def endpoint(health: Health) -> Iterator[HealthServer]:
    with HealthServer(health, "127.0.0.1", 0) as endpoint:
        yield endpoint


def _get(endpoint: HealthServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            f"http://{endpoint.address}{path}", timeout=PATIENCE_S
        ) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


@pytest.mark.parametrize("prefix", ["", "/v2/health"])
def test_it_is_ready_when_the_server_is(
    health: Health, endpoint: HealthServer, prefix: str
) -> None:
    assert _get(endpoint, f"{prefix}/ready") == (503, "not ready: starting\n")
    health.set_ready()
    assert _get(endpoint, f"{prefix}/ready") == (200, "ready\n")
    health.set_unready("a process died")
    assert _get(endpoint, f"{prefix}/ready") == (503, "not ready: a process died\n")
    assert _get(endpoint, f"{prefix}/live") == (200, "live\n")


def test_a_draining_server_is_never_ready_again(health: Health) -> None:
    health.set_ready()
    health.drain()
    health.set_ready()
    assert not health.is_ready
    assert "draining" in health.reason


def test_a_server_that_cannot_be_restarted_is_not_live(
    health: Health, endpoint: HealthServer
) -> None:
    for _ in range(module.MAX_FAILED_STARTS):
        assert _get(endpoint, "/live")[0] == 200
        health.count_failed_start()
    assert _get(endpoint, "/live")[0] == 503
    health.set_ready()
    assert _get(endpoint, "/live")[0] == 200


def test_metrics(health: Health, endpoint: HealthServer) -> None:
    health.set_ready()
    health.metrics.count("refusals", "Refused requests.", reason='a "b"\n')
    health.metrics.count("refusals", "Refused requests.", 2, reason='a "b"\n')
    health.metrics.sources.append(lambda: "other 1\n")
    health.metrics.sources.append(_fail)
    status, page = _get(endpoint, "/metrics")
    assert status == 200
    assert "# TYPE personserve_ready gauge\npersonserve_ready 1\n" in page
    assert r'personserve_refusals_total{reason="a \"b\"\n"} 3' in page
    assert page.endswith("other 1\n")


def _fail() -> str:
    raise OSError("no page")


def test_other_pages_and_methods_are_refused(endpoint: HealthServer) -> None:
    assert _get(endpoint, "/secret") == (
        404,
        "no such page; there are: /live, /ready, /metrics\n",
    )
    with socket.create_connection(endpoint.address.split(":"), PATIENCE_S) as caller:
        caller.sendall(b"POST /ready HTTP/1.1\r\n\r\n")
        assert b" 501 " in caller.recv(100)


def test_callers_that_send_nothing_keep_no_probe_out(
    health: Health, endpoint: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECTION_TIMEOUT_S", PATIENCE_S)
    health.set_ready()
    address = endpoint.address.split(":")
    silent = []
    for _ in range(module.MAX_CONNECTIONS + 4):
        silent.append(socket.create_connection(address, PATIENCE_S))
        silent[-1].send(b"G")
    try:
        for _ in range(3):
            assert _get(endpoint, "/ready")[0] == 200
        threads = [each.name for each in threading.enumerate()]
        assert len(threads) < 20 + 2 * module.MAX_CONNECTIONS
        assert silent[0].recv(1) == b"", "the oldest is closed"
    finally:
        for each in silent:
            each.close()


def test_a_slow_caller_is_cut_off(
    endpoint: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECTION_TIMEOUT_S", 0.3)
    address = endpoint.address.split(":")
    with socket.create_connection(address, PATIENCE_S) as caller:
        caller.settimeout(0.1)
        deadline = time.monotonic() + PATIENCE_S
        is_open = True
        while is_open:
            assert time.monotonic() < deadline, "each byte restarts its time"
            try:
                caller.send(b"G")
                is_open = caller.recv(1) != b""
            except TimeoutError:
                continue
            except OSError:
                is_open = False


def test_a_port_in_use_is_an_error_in_words(
    health: Health, endpoint: HealthServer
) -> None:
    port = int(endpoint.address.split(":")[1])
    with pytest.raises(ServeError, match=f"health port {port} .*--health-port"):
        HealthServer(health, "127.0.0.1", port)
