"""mosec, with one runtime per job and one process per core.

Bodies are sent without an encoding. Started by `python -m loadtest compare`.
"""

from __future__ import annotations

import sys
from typing import Any

from mosec import Runtime, Server, Worker

from loadtest.baselines import work

MAX_BODY_BYTES = 64 << 20


class _Gender(Worker):
    """Worker for crops."""

    respond = staticmethod(work.respond_to_crops)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.networks = work.open_networks()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: Any) -> bytes:
        return bytes(data)

    def forward(self, data: bytes) -> bytes:
        return self.respond(self.networks, data)


class _Frame(_Gender):
    """Worker for frames with boxes."""

    respond = staticmethod(work.respond_to_frame)


if __name__ == "__main__":
    sys.argv[1:] = [
        *("--port", sys.argv[1], "--address", "127.0.0.1", "--timeout", "300000"),
        *("--log-level", "error", "--max-request-size", str(MAX_BODY_BYTES)),
    ]
    server = Server()
    server.register_runtime(
        {
            f"/{work.GENDER_JOB}": [Runtime(_Gender, num=work.WORKERS, timeout=300)],
            f"/{work.FRAME_JOB}": [Runtime(_Frame, num=work.WORKERS, timeout=300)],
        }
    )
    server.run()
