"""The end of `python -m builders serve`: drained, at once, and in turn under load."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import cv2
import numpy as np
import pytest

from builders.repository.layout import Repository
from builders.serve.tritonserver import Ports, TritonServer
from personserve import Client, ModelLoadingError, Retry
from tests.chaos_restarts import run_restarts
from tests.serve_command import MODEL, PATIENCE_S, serving


def _send(
    pool: ThreadPoolExecutor, client: Client, people: int
) -> list[Future[dict[str, np.ndarray]]]:
    crops = np.zeros((people, 224, 224, 3), np.uint8)
    return [pool.submit(client.infer, MODEL, {"crops": crops}) for _ in range(8)]


def test_sigterm_answers_what_is_in_flight(repository: Repository) -> None:
    with (
        serving(
            repository, "--drain-delay", "0.5", "--drain-timeout", f"{PATIENCE_S:g}"
        ) as served,
        Client(f"127.0.0.1:{served.ports.grpc}", timeout_s=PATIENCE_S) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        assert served.health("ready") == (200, "ready\n")
        assert "nv_inference_request_success" in served.health("metrics")[1]
        client.describe(MODEL)
        answers = _send(pool, client, 32)  # a second of work or more
        time.sleep(0.1)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_drain()
        answers += _send(pool, client, 1)  # load balancers have not noticed yet
        for answer in answers:
            assert answer.result()["female_probability"].shape[1] == 1
        assert served.process.wait(PATIENCE_S) == 0


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
    with serving(repository, "--drain-delay", f"{PATIENCE_S:g}") as served:
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_drain()
        assert served.process.poll() is None
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE_S / 2) == 130


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
