"""mosec: a runtime for each job, a process a core, bodies as they are:
`python -m loadtest.rivals.mosec_server PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

from mosec import Runtime, Server, Worker

from loadtest.rivals import work

LARGEST_BODY_BYTES = 64 << 20


class Gender(Worker):
    """Crops."""

    answer = staticmethod(work.answer_gender)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.networks = work.networks()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: Any) -> bytes:
        return bytes(data)

    def forward(self, data: bytes) -> bytes:
        return self.answer(self.networks, data)


class Frame(Gender):
    """A picture and boxes."""

    answer = staticmethod(work.answer_frame)


if __name__ == "__main__":
    sys.argv[1:] = [
        *("--port", sys.argv[1], "--address", "127.0.0.1", "--timeout", "300000"),
        *("--log-level", "error", "--max-request-size", str(LARGEST_BODY_BYTES)),
    ]
    server = Server()
    server.register_runtime(
        {
            f"/{work.GENDER}": [Runtime(Gender, num=work.WORKERS, timeout=300)],
            f"/{work.FRAME}": [Runtime(Frame, num=work.WORKERS, timeout=300)],
        }
    )
    server.run()
