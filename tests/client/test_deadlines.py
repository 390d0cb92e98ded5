"""One deadline for a whole call, and a limit for the size of each answer.

The servers here send their answers slowly, late, or without end.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from personserve import (
    AsyncClient,
    Client,
    IncompatibleServerError,
    PersonServeError,
    RequestTimeoutError,
    Retry,
    ServerError,
)
from personserve._wire.connection import Address, Connection
from personserve._wire.http import AsyncHttpTransport, HttpTransport
from personserve._wire.requests import DescribeModel, Infer
from tests.client.hostile_servers import (
    GrpcServer,
    HttpServer,
    config_of,
    grpc_response,
    http,
    infer_response,
    parse_config,
    people_config,
    row_bytes,
)

TIMEOUT_S = 0.4
TOLERANCE_S = 10.0
"""Delay on a busy machine. Without a deadline these calls take longer, or for ever."""

PATIENCE_S = 120.0
"""Time for a call that is expected to succeed."""

DRIP_INTERVAL_S = 0.2
"""Time between two bytes: less than TIMEOUT_S, so that no single read is late."""
INPUTS = {"x": np.zeros((1, 2), np.float32)}
HEAD = {
    "outputs": [
        {
            "name": "y",
            "datatype": "FP32",
            "shape": [1, 2],
            "parameters": {"binary_data_size": 8},
        }
    ]
}
ANSWER = infer_response(HEAD, row_bytes(1, 2))

Send = Callable[[str, Any, float], Any]


def send_sync(address: str, request: Any, timeout_s: float) -> Any:
    transport = HttpTransport(Connection(Address.parse(address)))
    try:
        return transport.send(request, timeout_s)
    finally:
        transport.close()


def send_async(address: str, request: Any, timeout_s: float) -> Any:
    async def run() -> Any:
        transport = AsyncHttpTransport(Connection(Address.parse(address)))
        try:
            return await transport.send(request, timeout_s)
        finally:
            await transport.close()

    return asyncio.run(run())


both = pytest.mark.parametrize("send", [send_sync, send_async])


def drip(server: HttpServer, data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        if not server.wait(DRIP_INTERVAL_S):
            return
        yield data[i : i + 1]


BODY = ANSWER.partition(b"\r\n\r\n")[2]
SLOW: dict[str, tuple[bytes, bytes]] = {
    "the status line": (b"", ANSWER),
    "a header": (b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 99),
    "the body": (ANSWER[: -len(BODY)], BODY),
    "a chunk": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n",
        b"z" * 99,
    ),
    "an error": (b"HTTP/1.1 500 Oh\r\ncontent-length: 999\r\n\r\n", b"z" * 99),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 9),
}


@both
@pytest.mark.parametrize("part", SLOW)
def test_a_dripping_answer_ends_at_the_deadline(send: Send, part: str) -> None:
    at_once, slowly = SLOW[part]

    def respond(_path: str, _body: bytes) -> Iterator[bytes]:
        yield at_once
        yield from drip(server, slowly)

    request = Infer("m", INPUTS, "r")
    with HttpServer(respond) as server:
        start_s = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            send(server.address, request, TIMEOUT_S)
        duration_s = time.monotonic() - start_s
    assert TIMEOUT_S * 0.9 < duration_s < TIMEOUT_S + TOLERANCE_S


@both
def test_a_server_that_does_not_read_ends_at_the_deadline(send: Send) -> None:
    large = Infer("m", {"x": np.zeros(24 << 20, np.uint8)}, "r")
    with HttpServer(lambda *_: b"", reads=False) as server:
        start_s = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            send(server.address, large, TIMEOUT_S)
        assert time.monotonic() - start_s < TIMEOUT_S + TOLERANCE_S


def test_the_deadline_includes_the_description() -> None:
    def respond(path: str, _: bytes) -> Iterator[bytes]:
        server.wait(0.25)
        yield http(config_of(path)) if path.endswith("config") else ANSWER

    with HttpServer(respond) as server, Client(server.address) as client:
        start_s = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            client.infer("m", INPUTS, timeout_s=TIMEOUT_S)
        assert time.monotonic() - start_s < TIMEOUT_S + TOLERANCE_S


@both
def test_no_timeout_waits(send: Send) -> None:
    def respond(_path: str, _body: bytes) -> Iterator[bytes]:
        yield ANSWER[:-5]
        server.wait(0.1)
        yield ANSWER[-5:]

    with HttpServer(respond) as server:
        reply = send(server.address, Infer("m", INPUTS, "r"), None)  # type: ignore[arg-type]
    assert reply["y"].tolist() == [[1, 2]]


# ---- streams ---------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_late_refusal_on_a_stream_ends_at_the_deadline(*, asynchronous: bool) -> None:
    """The stream reports a failure late; the single call after it hangs."""
    delay_s, timeout_s = 0.7, 0.8
    left_s: list[float] = []

    def refuse(request: Any) -> Iterator[Any]:
        time.sleep(delay_s)
        yield service_pb2.ModelStreamInferResponse(
            error_message="late", infer_response=grpc_response(request)
        )

    def hang(request: Any, context: Any) -> Any:
        left_s.append(context.time_remaining())
        time.sleep(1.0)
        return grpc_response(request, ("y", "FP32", [1, 2], row_bytes(1, 2)))

    frame = np.zeros((10, 10, 3), np.uint8)
    frames = [(frame, [[0, 0, 5, 5]])]
    with GrpcServer(hang, lambda name: parse_config(people_config(name))) as server:
        server.stream = refuse
        if asynchronous:
            asyncio.run(_stream_async(server.address, frames, timeout_s))
        else:
            with Client(server.address, timeout_s=timeout_s) as client:
                client.describe("person_attributes", timeout_s=PATIENCE_S)
                with pytest.raises(RequestTimeoutError):
                    list(client.attributes_stream(frames))
    rounding_s = 0.05
    assert all(each_s < timeout_s - delay_s + rounding_s for each_s in left_s), left_s


async def _stream_async(address: str, frames: Any, timeout_s: float) -> None:
    async with AsyncClient(address, timeout_s=timeout_s) as client:
        await client.describe("person_attributes", timeout_s=PATIENCE_S)
        with pytest.raises(RequestTimeoutError):
            _ = [people async for people in client.attributes_stream(frames)]


# ---- sizes -----------------------------------------------------------------------


def _flood(server: HttpServer, start: bytes) -> Iterator[bytes]:
    yield start
    while server.wait(0):
        yield b" " * (64 << 10)


LENGTH = f"content-length: {1 << 40}\r\n"


@both
@pytest.mark.parametrize("announced", [True, False])
def test_large_answers_are_refused_before_they_are_read(
    send: Send, *, announced: bool
) -> None:
    field = LENGTH if announced else "connection: close\r\n"
    start = f"HTTP/1.1 200 OK\r\n{field}\r\n".encode()

    def respond(_path: str, _body: bytes) -> Iterator[bytes]:
        return _flood(server, start)

    with HttpServer(respond) as server:
        request = Infer("m", INPUTS, "r", max_reply_bytes=1 << 20)
        with pytest.raises(IncompatibleServerError, match="larger than 1048576 bytes"):
            send(server.address, request, PATIENCE_S)
        with pytest.raises(IncompatibleServerError, match="larger than"):
            send(server.address, DescribeModel("m"), PATIENCE_S)
        assert server.sent_bytes < 24 << 20


@both
def test_endless_errors_are_cut(send: Send) -> None:
    start = f"HTTP/1.1 400 Bad Request\r\n{LENGTH}\r\nno ".encode()

    def respond(_path: str, _body: bytes) -> Iterator[bytes]:
        return _flood(server, start)

    with HttpServer(respond) as server:
        with pytest.raises(PersonServeError, match="HTTP 400: no"):
            send(server.address, Infer("m", INPUTS, "r"), PATIENCE_S)
        assert server.sent_bytes < 12 << 20


@both
def test_a_page_of_html_is_not_printed(send: Send) -> None:
    page = b"<!DOCTYPE HTML><title>Error</title>"
    head = f"HTTP/1.1 501 Not Implemented\r\nContent-Length: {len(page)}\r\n\r\n"

    def respond(_path: str, _body: bytes) -> Iterator[bytes]:
        yield head.encode() + page

    with HttpServer(respond) as server:
        with pytest.raises(PersonServeError) as caught:
            send(server.address, Infer("m", INPUTS, "r"), PATIENCE_S)
        assert f"a page of HTML from {server.address}" in str(caught.value)
        assert "DOCTYPE" not in str(caught.value)


@both
def test_compressed_answers_are_bounded_as_they_are_unpacked(send: Send) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    with HttpServer(lambda *_: http(bomb, "content-encoding: gzip")) as server:
        request = Infer("m", INPUTS, "r", max_reply_bytes=1 << 20)
        with pytest.raises(IncompatibleServerError, match="larger than 1048576 bytes"):
            send(server.address, request, PATIENCE_S)


def test_the_limit_is_that_of_the_described_outputs() -> None:
    def respond(path: str, _: bytes) -> bytes:
        if path.endswith("config"):
            return http(config_of(path))
        return http(b" " * (66 << 10))  # the margin is 64 KiB

    with (
        HttpServer(respond) as server,
        Client(server.address) as client,
        pytest.raises(IncompatibleServerError, match="larger than 65552 bytes"),
    ):
        client.infer("m", INPUTS)


def test_headers_that_cannot_be_sent_are_refused() -> None:
    for value in ("a\nb", "\u00e4"):
        with (
            HttpServer(lambda *_: ANSWER) as server,
            Client(server.address, headers={"x": value}, retry=Retry(1)) as client,
            pytest.raises(PersonServeError, match="headers"),
        ):
            client.describe("m")


def test_an_answer_of_another_request_is_refused() -> None:
    answer = infer_response({**HEAD, "id": "theirs"}, row_bytes(1, 2))
    with (
        HttpServer(lambda *_: answer) as server,
        pytest.raises(ServerError, match="got that of 'theirs'"),
    ):
        send_sync(server.address, Infer("m", INPUTS, "ours"), 5.0)
