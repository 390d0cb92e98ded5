"""LitServe: an API for each job, a worker process a core, JSON with Base64 as its
examples carry pictures: `python -m loadtest.rivals.litserve_server PORT`.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve

from loadtest.rivals.work import (
    FRAME,
    GENDER,
    WORKERS,
    answer_frame,
    answer_gender,
    networks,
)


class Gender(litserve.LitAPI):  # type: ignore[misc]
    """Crops."""

    work = staticmethod(answer_gender)

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe passes it
        self.networks = networks()

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["data"])

    def predict(self, x: bytes) -> bytes:
        return self.work(self.networks, x)

    def encode_response(self, output: bytes) -> dict[str, Any]:
        return {"data": base64.b64encode(output).decode()}


class Frame(Gender):
    """A picture and boxes."""

    work = staticmethod(answer_frame)


if __name__ == "__main__":
    litserve.LitServer(
        [Gender(api_path=f"/{GENDER}"), Frame(api_path=f"/{FRAME}")],
        accelerator="cpu",
        workers_per_device=WORKERS,
        timeout=False,
    ).run(port=int(sys.argv[1]), host="127.0.0.1", log_level="warning")
