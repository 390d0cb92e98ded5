"""What an operator sees of a refused request: a line with its id, and a counter."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from builders.serve.tritonserver import TritonServer
from personserve import Client, InvalidInputError
from personserve.images.inputs import tensors_from_frame

NO_IMAGE = {"encoded_frame": np.full(100, 7, np.uint8)}
BOX = np.array([[0, 0, 9, 9]], np.float32)
FRAME = tensors_from_frame(np.zeros((20, 20, 3), np.uint8))
OUTSIDE = np.array([[100, 100, 120, 120]], np.float32)

PATIENCE_S = 120.0
"""Time for what takes a moment on an idle machine."""


def _read_counter(server: TritonServer, reason: str) -> int:
    url = f"http://{server.metrics_address}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
        text = reply.read().decode()
    labels = f'{{model="person_preprocess",reason="{reason}"}}'
    (value,) = re.findall(
        re.escape(f"personserve_requests_refused_total{labels}") + r" (\d+)", text
    )
    return int(value)


def _wait_for(condition: Callable[[], bool]) -> bool:
    """Triton reads metrics and lines of a Python model with a small delay."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("frame", "boxes", "reason"),
    [(NO_IMAGE, BOX, "image"), (FRAME, OUTSIDE, "boxes")],
)
def test_a_refused_request_is_counted_and_logged_with_its_id(
    server: TritonServer,
    client: Client,
    frame: dict[str, npt.NDArray[Any]],
    boxes: npt.NDArray[np.float32],
    reason: str,
) -> None:
    before = _read_counter(server, reason)
    with pytest.raises(InvalidInputError) as caught:
        client.infer("person_attributes", {**frame, "boxes": boxes})
    request_id = caught.value.request_id
    assert request_id
    assert request_id in str(caught.value)
    assert _wait_for(lambda: _read_counter(server, reason) == before + 1)

    pattern = (
        rf"refused reason={reason} model=person_preprocess request={request_id} "
        r"unlogged=\d+ text=.+"
    )
    assert _wait_for(lambda: bool(re.search(pattern, server.log_path.read_text())))


def test_a_right_request_is_neither_counted_nor_logged(
    server: TritonServer, client: Client
) -> None:
    counts = [_read_counter(server, reason) for reason in ("image", "boxes", "failed")]
    lines = server.log_path.read_text().count("refused reason=")
    client.infer("person_attributes", {**FRAME, "boxes": BOX})
    time.sleep(0.3)
    again = [_read_counter(server, reason) for reason in ("image", "boxes", "failed")]
    assert again == counts
    assert server.log_path.read_text().count("refused reason=") == lines
