"""Load tests that are pointed at a server that is not Triton, and means harm."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from loadtest import server
from loadtest.errors import LoadTestError

OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def _answering(*pieces: bytes, repeated: bytes = b"") -> Iterator[str]:
    """A server that sends some bytes, then some again and again; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    for piece in pieces:
                        connection.sendall(piece)
                    while repeated:
                        connection.sendall(repeated)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((b"HTTP/1.1 nonsense\r\n\r\n",), "no Triton server answers"),
        ((OK, b"A: " + b"x" * 100_000), "no Triton server answers"),
        ((OK, b"\r\n", b"\xff\xfe"), "no Triton server answers"),
        ((OK, b"\r\n", b"[" * 100_000), "is not JSON"),
        ((b"HTTP/1.1 500 No\r\n\r\n", b"x" * 10_000), r"HTTP 500: x{500}$"),
    ],
)
def test_an_odd_answer_is_an_error_in_words(
    pieces: tuple[bytes, ...], message: str
) -> None:
    with _answering(*pieces) as address, pytest.raises(LoadTestError, match=message):
        server.get_json(address, "v2")


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_RESPONSE_BYTES", 1 << 20)
    with (
        _answering(OK, b"\r\n", repeated=bytes(1 << 16)) as address,
        pytest.raises(LoadTestError, match="more than 1,048,576 bytes"),
    ):
        server.get_json(address, "v2")
