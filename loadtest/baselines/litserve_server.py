"""LitServe, with one API per job and one worker process per core.

Bodies are JSON with Base64, as in LitServe's own examples with images. Started by
`python -m loadtest compare`.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve

from loadtest.baselines import work


class _Gender(litserve.LitAPI):  # type: ignore[misc]
    """API for crops."""

    respond = staticmethod(work.respond_to_crops)

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe passes it
        self.networks = work.open_networks()

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["data"])

    def predict(self, x: bytes) -> bytes:
        return self.respond(self.networks, x)

    def encode_response(self, output: bytes) -> dict[str, Any]:
        return {"data": base64.b64encode(output).decode()}


class _Frame(_Gender):
    """API for frames with boxes."""

    respond = staticmethod(work.respond_to_frame)


if __name__ == "__main__":
    litserve.LitServer(
        [
            _Gender(api_path=f"/{work.GENDER_JOB}"),
            _Frame(api_path=f"/{work.FRAME_JOB}"),
        ],
        accelerator="cpu",
        workers_per_device=work.WORKERS,
        timeout=False,
    ).run(port=int(sys.argv[1]), host="127.0.0.1", log_level="warning")
