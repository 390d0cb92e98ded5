"""Too much work: refused at once, dropped if abandoned, and no harm afterwards."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from builders.repository.config import config_name
from builders.repository.layout import Repository
from builders.repository.queue_limits import PEOPLE_PER_CORE
from builders.repository.render import render_for_cores
from builders.serve import tritonserver
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.weights.standin import noise_crops
from personserve import Client, OverloadedError, PersonServeError, Retry

(GENDER,) = models(["person_gender"])
ENSEMBLE = "person_attributes"
CALLERS, PEOPLE, DEADLINE_S = 24, 64, 3.0
FOLLOWING_S = 15.0
"""Time for the next request on a busy machine. Without limits it waits for 24 frames of
64 people: two minutes on two idle cores."""


def _render_with_a_low_limit(repository: Repository, cores: int) -> None:
    """Render this machine's configs, with room for two frames in the ensemble."""
    render_for_cores(repository, cores)
    folder = repository.folder("person_preprocess") / "configs"
    path = folder / f"{config_name('cpu', cores)}.pbtxt"
    text = path.read_text()
    usual = f'string_value: "{PEOPLE_PER_CORE * cores}"'
    assert usual in text
    path.write_text(text.replace(usual, f'string_value: "{2 * PEOPLE}"'))


def test_abandoned_and_refused_work_does_not_delay_the_next_request(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tritonserver, "render_for_cores", _render_with_a_low_limit)
    log = tmp_path / "tritonserver.log"
    server = TritonServer(
        repository, models=[ENSEMBLE], ports=Ports.free(), cores=2, log=log
    )
    frame = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 100, 200]] * PEOPLE, np.float32)
    no_retry = Retry(attempts=1)
    with server, Client(server.grpc_address, retry=no_retry, timeout_s=60) as client:
        before = client.attributes(frame, boxes[:1], crop_on="server")

        def send(_: int) -> tuple[str, float]:
            began = time.monotonic()
            try:
                client.attributes(frame, boxes, crop_on="server", timeout_s=DEADLINE_S)
            except PersonServeError as exc:
                return type(exc).__name__, time.monotonic() - began
            return "answer", time.monotonic() - began

        with ThreadPoolExecutor(CALLERS) as pool:
            outcomes = list(pool.map(send, range(CALLERS)))
        began = time.monotonic()
        after = None
        while after is None and time.monotonic() - began < FOLLOWING_S:
            with suppress(OverloadedError):
                after = client.attributes(frame, boxes[:1], crop_on="server")
            time.sleep(0.1)
        assert time.monotonic() - began < FOLLOWING_S
    kinds = [kind for kind, _ in outcomes]
    assert kinds.count(OverloadedError.__name__) >= 1
    assert kinds.count("RequestTimeoutError") >= 1, "some were admitted"
    assert set(kinds) <= {OverloadedError.__name__, "RequestTimeoutError", "answer"}
    assert after is not None
    np.testing.assert_array_equal(after.embeddings, before.embeddings)
    at_stop = re.findall(r"Found (\d+) model versions", log.read_text(errors="replace"))
    assert at_stop[-1] == "0", "every request was released"


def test_a_network_of_an_ensemble_answers_late_requests_with_nan(
    server: TritonServer,
) -> None:
    crops = noise_crops(GENDER.images[0], 3, seed=1)
    tensor = triton.InferInput("crops", crops.shape, "UINT8")
    tensor.set_data_from_numpy(crops)
    with triton.InferenceServerClient(server.grpc_address) as client:
        for timeout_us, is_late in ((1, True), (60_000_000, False)):
            result = client.infer(GENDER.name, [tensor], timeout=timeout_us)
            values = result.as_numpy("female_probability")
            assert values.shape == (3, 1)
            assert np.isnan(values).all() == is_late
