"""Servers whose answers have no end, or come more than once: calls end, and rightly."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from personserve import AsyncClient, Client, PersonServeError, RequestTimeoutError
from personserve._wire.requests import Infer
from tests.client.hostile_servers import (
    GrpcServer,
    HttpServer,
    grpc_response,
    parse_config,
    people_config,
    row_bytes,
)
from tests.client.test_deadlines import INPUTS, both

MODEL = "person_attributes"
FRAMES = [(np.zeros((10, 10, 3), np.uint8), [[0, 0, 5, 5]])]
TIMEOUT_S = 0.6
TOLERANCE_S = 10.0
"""Delay on a busy machine. Without a deadline these calls take for ever."""

PATIENCE_S = 120.0
"""Time for a call that is expected to succeed."""


def _people(request: Any, probability: float = 0.25, **changes: Any) -> Any:
    return grpc_response(
        request,
        ("female_probability", "FP32", [1, 1], row_bytes(probability)),
        ("embedding", "FP32", [1, 8], row_bytes(*[8**-0.5] * 8)),
        **changes,
    )


def _configure(name: str) -> Any:
    return parse_config(people_config(name))


def _stream_sync(address: str, timeout_s: float) -> list[Any]:
    with Client(address, timeout_s=timeout_s) as client:
        client.describe(MODEL, timeout_s=PATIENCE_S)
        return list(client.attributes_stream(FRAMES))


def _stream_async(address: str, timeout_s: float) -> list[Any]:
    async def run() -> list[Any]:
        async with AsyncClient(address, timeout_s=timeout_s) as client:
            await client.describe(MODEL, timeout_s=PATIENCE_S)
            return [people async for people in client.attributes_stream(FRAMES)]

    return asyncio.run(run())


both_streams = pytest.mark.parametrize("stream", [_stream_sync, _stream_async])


def _refuse(_request: Any, context: Any) -> Any:
    time.sleep(TIMEOUT_S)
    context.abort_with_status(None)


@both_streams
def test_a_stream_of_other_answers_ends_at_the_deadline(
    stream: Callable[[str, float], list[Any]],
) -> None:
    ended = threading.Event()

    def flood(request: Any) -> Iterator[Any]:
        try:
            while not ended.wait(0.001):
                yield _stream_response(_people(request, id="another"))
        finally:
            ended.set()

    with GrpcServer(_refuse, _configure) as server:
        server.stream = flood
        start_s = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            stream(server.address, TIMEOUT_S)
        assert time.monotonic() - start_s < TIMEOUT_S + TOLERANCE_S
        assert ended.wait(PATIENCE_S), "closing the client ends the stream"


@both_streams
def test_the_first_of_two_answers_counts(
    stream: Callable[[str, float], list[Any]],
) -> None:
    def answer_twice(request: Any) -> Iterator[Any]:
        yield _stream_response(_people(request))
        yield _stream_response(_people(request, probability=0.75))

    with GrpcServer(_refuse, _configure) as server:
        server.stream = answer_twice
        ((person,),) = stream(server.address, PATIENCE_S)
    assert person.gender.probability == 0.75  # of the label "male"
    assert person.gender.label == "male"


@both
@pytest.mark.parametrize(
    "line", [b"x: y\r\n", b"x" * 50, b"HTTP/1.1 103 Early Hints\r\n\r\n"]
)
def test_endless_headers_are_refused(
    send: Callable[[str, Any, float], Any], line: bytes
) -> None:
    def respond(_path: str, _body: bytes) -> Iterator[bytes]:
        if b"103" not in line:
            yield b"HTTP/1.1 200 OK\r\n"
        while server.wait(0):
            yield line * 100

    with HttpServer(respond) as server:
        start_s = time.monotonic()
        with pytest.raises(PersonServeError):
            send(server.address, Infer("m", INPUTS, "r"), TIMEOUT_S)
        assert time.monotonic() - start_s < TIMEOUT_S + TOLERANCE_S
        assert server.sent_bytes < 100 << 20


def _stream_response(response: Any) -> Any:
    from tritonclient.grpc import service_pb2

    return service_pb2.ModelStreamInferResponse(infer_response=response)
