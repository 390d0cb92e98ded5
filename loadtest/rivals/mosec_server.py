"""mosec: a runtime for each job, a process a core, bodies as they are:
`python -m loadtest.rivals.mosec_server PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

from mosec import Runtime, Server, Worker

from loadtest.rivals.work import (
    FRAME,
    GENDER,
    WORKERS,
    answer_frame,
    answer_gender,
    networks,
)

LARGEST_BODY_BYTES = 64 << 20


class Gender(Worker):
    """Crops."""

    work = staticmethod(answer_gender)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.networks = networks()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: Any) -> bytes:
        return bytes(data)

    def forward(self, data: bytes) -> bytes:
        return self.work(self.networks, data)


class Frame(Gender):
    """A picture and boxes."""

    work = staticmethod(answer_frame)


if __name__ == "__main__":
    sys.argv[1:] = [
        *("--port", sys.argv[1], "--address", "127.0.0.1", "--timeout", "300000"),
        *("--log-level", "error", "--max-request-size", str(LARGEST_BODY_BYTES)),
    ]
    server = Server()
    server.register_runtime(
        {
            f"/{GENDER}": [Runtime(Gender, num=WORKERS, timeout=300)],
            f"/{FRAME}": [Runtime(Frame, num=WORKERS, timeout=300)],
        }
    )
    server.run()
