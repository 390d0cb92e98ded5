"""The end of `python -m builders serve`: drained, at once, and in turn under load."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from builders.repository.layout import ROOT, Repository
from builders.serve.tritonserver import Ports, TritonServer
from personserve import Client, ModelLoadingError, Retry
from tests.chaos_restarts import run_restarts

MODEL = "person_gender"
PATIENCE_S = 600.0
"""Time for what takes seconds on an idle machine."""

PROGRAM = """
import sys
from pathlib import Path
from builders.commands import serving
from builders.commands.app import run
from builders.repository.layout import Repository

root = Path(sys.argv.pop(1))
serving.Repository = lambda: Repository(root)
run()
"""


@dataclass
class Serving:
    process: subprocess.Popen[str]
    ports: Ports
    health_port: int

    def health(self, page: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.health_port}/{page}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()


@contextmanager
def _serving(repository: Repository, *arguments: str) -> Iterator[Serving]:
    """`python -m builders serve` as a process, on the repository of this run."""
    ports, health_port = Ports.free(), Ports.free().grpc
    command = [
        *(sys.executable, "-c", PROGRAM, str(repository.root)),
        *("serve", "--model", MODEL, "--cores", "1"),
        *("--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)),
        *("--health-port", str(health_port), *arguments),
    ]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        printed = ""
        while "metrics" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        try:
            yield Serving(process, ports, health_port)
        finally:
            process.kill()


def _wait_for_drain(serving: Serving) -> None:
    """Wait until the first signal was read: the kernel merges it with a second one.

    That the server is unready does not tell this, because a supervisor that a busy
    machine delays turns it unready, too.
    """
    deadline = time.monotonic() + PATIENCE_S
    while "draining" not in serving.health("ready")[1]:
        assert time.monotonic() < deadline, "it drains"
        time.sleep(0.05)
    assert serving.health("ready")[0] == 503


def _send(
    pool: ThreadPoolExecutor, client: Client, people: int
) -> list[Future[dict[str, np.ndarray]]]:
    crops = np.zeros((people, 224, 224, 3), np.uint8)
    return [pool.submit(client.infer, MODEL, {"crops": crops}) for _ in range(8)]


def test_sigterm_answers_what_is_in_flight(repository: Repository) -> None:
    with (
        _serving(
            repository, "--drain-delay", "0.5", "--drain-timeout", f"{PATIENCE_S:g}"
        ) as serving,
        Client(f"127.0.0.1:{serving.ports.grpc}", timeout_s=PATIENCE_S) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        assert serving.health("ready") == (200, "ready\n")
        assert "nv_inference_request_success" in serving.health("metrics")[1]
        client.describe(MODEL)
        answers = _send(pool, client, 32)  # a second of work or more
        time.sleep(0.1)
        serving.process.send_signal(signal.SIGTERM)
        _wait_for_drain(serving)
        answers += _send(pool, client, 1)  # load balancers have not noticed yet
        for answer in answers:
            assert answer.result()["female_probability"].shape[1] == 1
        assert serving.process.wait(PATIENCE_S) == 0


def test_frames_in_flight_are_answered_and_an_open_stream_is_not_waited_for(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    # frames wait for longer than descriptions are used on a slow machine
    monkeypatch.setattr("personserve._descriptions.DESCRIPTION_TTL_S", PATIENCE_S)
    _, jpeg = cv2.imencode(".jpg", np.zeros((5000, 5000, 3), np.uint8))
    frame, boxes = jpeg.tobytes(), np.float32([[0, 0, 32, 64]])
    with (
        TritonServer(
            repository,
            models=["person_attributes"],
            ports=Ports.free(),
            cores=1,
            drain_timeout_s=int(PATIENCE_S),
        ) as server,
        Client(
            server.grpc_address, timeout_s=PATIENCE_S, retry=Retry(attempts=1)
        ) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        stream = client.attributes_stream((frame, boxes) for _ in range(2))
        next(stream)
        futures = [pool.submit(client.attributes, frame, boxes) for _ in range(8)]
        wait(futures, return_when=FIRST_COMPLETED)
        waiting = [future for future in futures if not future.done()]
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < PATIENCE_S / 2
        stream.close()
    errors = Counter(type(future.exception()) for future in futures)
    refused = errors.pop(ModelLoadingError, 0)  # they came too late
    assert set(errors) == {type(None)}, errors
    assert refused < len(waiting), "most were in flight"


def test_a_second_signal_ends_it_at_once(repository: Repository) -> None:
    with _serving(repository, "--drain-delay", f"{PATIENCE_S:g}") as serving:
        serving.process.send_signal(signal.SIGTERM)
        _wait_for_drain(serving)
        assert serving.process.poll() is None
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(PATIENCE_S / 2) == 130


def test_no_call_fails_while_two_servers_restart_in_turn(
    repository: Repository,
) -> None:
    servers = [
        TritonServer(repository, models=[MODEL], ports=Ports.free(), cores=1)
        for _ in range(2)
    ]
    with servers[0], servers[1]:
        outcome = run_restarts(servers, 200, log=lambda _line: None)
    assert outcome.failed == 0, outcome.text()
    assert outcome.restarts >= 2, outcome.text()
