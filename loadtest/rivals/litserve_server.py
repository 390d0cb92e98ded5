"""LitServe: an API for each job, a worker process a core, JSON with Base64 as its
examples carry pictures: `python -m loadtest.rivals.litserve_server PORT`.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve

from loadtest.rivals import work


class Gender(litserve.LitAPI):  # type: ignore[misc]
    """Crops."""

    answer = staticmethod(work.answer_gender)

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe passes it
        self.networks = work.networks()

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["data"])

    def predict(self, x: bytes) -> bytes:
        return self.answer(self.networks, x)

    def encode_response(self, output: bytes) -> dict[str, Any]:
        return {"data": base64.b64encode(output).decode()}


class Frame(Gender):
    """A picture and boxes."""

    answer = staticmethod(work.answer_frame)


if __name__ == "__main__":
    litserve.LitServer(
        [Gender(api_path=f"/{work.GENDER}"), Frame(api_path=f"/{work.FRAME}")],
        accelerator="cpu",
        workers_per_device=work.WORKERS,
        timeout=False,
    ).run(port=int(sys.argv[1]), host="127.0.0.1", log_level="warning")
