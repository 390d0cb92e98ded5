"""Servers that die, restart and fill up, and clients that die: what callers see."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from builders.repository.layout import Repository
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.weights.standin import noise_crops
from personserve import (
    Client,
    PersonServeError,
    RequestTimeoutError,
    Retry,
    ServerUnavailableError,
)
from personserve.internal.access import access_headers

(GENDER,) = models(["person_gender"])
MODEL = GENDER.name
SHARED_MEMORY = Path("/dev/shm")
ROUNDING = 2e-6
"""What the company of other crops in a batch changes."""

CALLS, CALLERS, TIMEOUT_S = 200, 8, 60.0

DEFAULT_TIMEOUT_S = 60.0
"""Time for a call that says nothing else; the server hangs for longer."""

LATENESS_S = 10.0
"""Delay of a call's end on a busy machine."""

PATIENCE_S = 900.0
"""Time for what takes seconds on an idle machine."""


def _server(repository: Repository, ports: Ports | None = None) -> TritonServer:
    return TritonServer(
        repository, models=[MODEL], ports=ports or Ports.free(), http=True
    )


@pytest.fixture
def own(repository: Repository) -> Iterator[TritonServer]:
    """A server that a test may harm."""
    with _server(repository) as server:
        yield server


def _crops(count: int) -> list[np.ndarray]:
    return [crop[None] for crop in noise_crops(GENDER.images[0], count, seed=1)]


def _regions(server: TritonServer) -> tuple[str, ...]:
    """Names of the shared-memory regions that a server has registered."""
    url = f"http://{server.http_address}/v2/systemsharedmemory/status"
    opener = urllib.request.build_opener()
    headers = access_headers("127.0.0.1", server.ports.http, is_grpc=False)
    opener.addheaders = list(headers.items())
    with opener.open(url, timeout=PATIENCE_S) as response:
        return tuple(region["name"] for region in json.load(response))


@pytest.mark.parametrize("memory", [None, "system"])
def test_sigkill_of_one_of_two_servers_under_load(
    repository: Repository, own: TritonServer, memory: Literal["system"] | None
) -> None:
    crops = _crops(16)
    with _server(repository) as victim:
        with Client(own.grpc_address, timeout_s=TIMEOUT_S) as alone:
            expected = [
                float(alone.infer(MODEL, {"crops": crop})["female_probability"].item())
                for crop in crops
            ]
        gaps = np.diff(np.sort(expected))
        assert gaps.min() > 20 * ROUNDING, "answers must tell crops apart"
        addresses = [own.grpc_address, f"http://{victim.http_address}"]
        with Client(addresses, timeout_s=TIMEOUT_S, shared_memory=memory) as client:

            def ask(number: int) -> tuple[str, float]:
                if number == CALLS // 3:
                    assert victim.pid is not None
                    os.kill(victim.pid, signal.SIGKILL)
                began = time.monotonic()
                which = number % len(crops)
                try:
                    found = client.infer(MODEL, {"crops": crops[which]})
                except PersonServeError as exc:
                    return type(exc).__name__, time.monotonic() - began
                error = found["female_probability"].item() - expected[which]
                right = abs(error) < ROUNDING
                return "right" if right else "WRONG", time.monotonic() - began

            with ThreadPoolExecutor(CALLERS) as pool:
                outcomes = list(pool.map(ask, range(CALLS)))
    counted = Counter(kind for kind, _ in outcomes)
    assert counted == {"right": CALLS}
    assert max(seconds for _, seconds in outcomes) < TIMEOUT_S + LATENESS_S


def test_a_dead_server_is_an_error_and_a_new_one_is_found(
    repository: Repository,
) -> None:
    ports = Ports.free()
    (crop,) = _crops(1)
    # the channel itself tries every 2 s at the latest
    patient = Retry(attempts=10_000, max_backoff_s=1.0)
    with Client(
        f"grpc://127.0.0.1:{ports.grpc}",
        shared_memory="system",
        timeout_s=PATIENCE_S,
        retry=patient,
    ) as client:
        with _server(repository, ports) as server:
            before = client.infer(MODEL, {"crops": crop})
            assert len(_regions(server)) == 1
        with pytest.raises((ServerUnavailableError, RequestTimeoutError)):
            client.infer(MODEL, {"crops": crop}, timeout_s=3)
        with _server(repository, ports) as server:
            after = client.infer(MODEL, {"crops": crop})
            np.testing.assert_array_equal(
                after["female_probability"], before["female_probability"]
            )
            assert len(_regions(server)) == 1, "registered again"
    assert not list(SHARED_MEMORY.glob(f"personserve-*-{os.getpid()}-*"))


def test_a_server_that_hangs_does_not_hold_its_callers(own: TritonServer) -> None:
    (crop,) = _crops(1)
    for address in (own.grpc_address, f"http://{own.http_address}"):
        with Client(address, timeout_s=DEFAULT_TIMEOUT_S) as client:
            client.infer(MODEL, {"crops": crop})
            assert own.pid is not None
            os.kill(own.pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.raises(RequestTimeoutError):
                    client.infer(MODEL, {"crops": crop}, timeout_s=1)
                assert time.monotonic() - began < DEFAULT_TIMEOUT_S
            finally:
                os.kill(own.pid, signal.SIGCONT)
            client.infer(MODEL, {"crops": crop})


PROGRAM = """
import os, signal, sys
import numpy as np
from personserve import Client

client = Client(sys.argv[1], shared_memory="system")
client.infer("person_gender", {"crops": np.zeros((1, 224, 224, 3), np.uint8)})
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_clients_leave_behind(own: TritonServer) -> None:
    (crop,) = _crops(1)
    run = [sys.executable, "-c", PROGRAM, own.grpc_address]
    subprocess.run([*run, "leave"], check=True)
    assert _regions(own) == (), "unregistered when the interpreter ended"
    with subprocess.Popen([*run, "kill"]) as killed:
        killed.wait()
    left_files = list(SHARED_MEMORY.glob(f"personserve-*-{killed.pid}-*"))
    assert not left_files, "no file, even so"
    (left,) = _regions(own)
    client = Client(own.grpc_address, shared_memory="system")
    client.infer(MODEL, {"crops": crop})
    (mine,) = _regions(own)
    assert mine != left, "the next client swept what the dead one left"
    del client
    gc.collect()
    assert _regions(own) == ()


def test_a_stream_survives_its_server(repository: Repository) -> None:
    ports = Ports.free()
    frame = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    box = np.float32([[0, 0, 100, 200]])
    names = ["person_attributes"]
    retry = Retry(attempts=10_000, initial_backoff_s=0.5, max_backoff_s=1.0)

    def frames(server: TritonServer) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in range(12):
            if number == 6:
                server.stop()
                server.start()
            yield frame, box

    server = TritonServer(repository, models=names, ports=ports)
    with (
        server,
        Client(server.grpc_address, retry=retry, timeout_s=PATIENCE_S) as client,
    ):
        found = [
            people.embeddings for people in client.attributes_stream(frames(server))
        ]
    assert len(found) == 12
    for embeddings in found[1:]:
        np.testing.assert_array_equal(embeddings, found[0])
