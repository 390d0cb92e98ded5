"""Every malformed answer, over HTTP and gRPC, ends in one of the client's errors."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from personserve import (
    AsyncClient,
    Client,
    IncompatibleServerError,
    PersonServeError,
    Retry,
    ServerError,
    ServerUnavailableError,
)
from personserve._wire import grpc as grpc_transport
from tests.client.hostile_servers import (
    CONFIG,
    OUTPUT,
    GrpcServer,
    HttpServer,
    config_of,
    grpc_response,
    http,
    infer_response,
    parse_config,
    row_bytes,
)

ONCE = Retry(attempts=1)
INPUTS = {"x": np.zeros((1, 2), np.float32)}
HTML = "<html><body>Sign in to the guest network</body></html>"
ROW = row_bytes(1, 2)


def output(**changes: Any) -> dict[str, Any]:
    plain = {
        "name": OUTPUT,
        "datatype": "FP32",
        "shape": [1, 2],
        "parameters": {"binary_data_size": 8},
    }
    return {**plain, **changes}


def head(**changes: Any) -> dict[str, Any]:
    return {"outputs": [output(**changes)]}


def size(count: Any) -> dict[str, Any]:
    return {"binary_data_size": count}


def strings(*lengths: int, data: bytes = b"ab") -> bytes:
    return b"".join(struct.pack("<I", length) + data for length in lengths)


def bytes_head(shape: list[int], data: bytes) -> bytes:
    changes = {"datatype": "BYTES", "shape": shape, "parameters": size(len(data))}
    return infer_response(head(**changes), data)


INFERENCES: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "bad status": b"HTTP/1.1 9000 OK\r\n\r\n",
    "a page": http(HTML, "content-type: text/html"),
    "empty body": http(b""),
    "no content": http(b"", status="204 No Content"),
    "redirect": http(b"", "location: http://elsewhere/", status="302 Found"),
    "a page as error": http(HTML, status="500 Internal Server Error"),
    "error of a number": http({"error": 5}, status="400 Bad Request"),
    "deep error": http("[" * 100_000, status="400 Bad Request"),
    "bytes as error": http(b"\xff\xfe\x00\xd8", status="418 Teapot"),
    "null": http("null"),
    "a list": http([]),
    "a number": http("7"),
    "infinity": http('{"outputs": Infinity}'),
    "deep JSON": http("[" * 30_000),
    "bad UTF8": http(b'{"outputs": "\xff"}'),
    "no outputs": http({}),
    "outputs are an object": http({"outputs": {}}),
    "an output is a number": http({"outputs": [1]}),
    "no name": infer_response({"outputs": [{"shape": [1]}]}),
    "name is null": infer_response(head(name=None), ROW),
    "name is a list": infer_response(head(name=[]), ROW),
    "the same name twice": infer_response({"outputs": [output()] * 2}, ROW * 2),
    "type is missing": infer_response(head(datatype=None), ROW),
    "type is a list": infer_response(head(datatype=["FP32"]), ROW),
    "type is unknown": infer_response(head(datatype="FP31"), ROW),
    "type is longer": infer_response(head(datatype="FP64"), ROW),
    "shape is a number": infer_response(head(shape=2), ROW),
    "shape is an object": infer_response(head(shape={"0": 2}), ROW),
    "shape of text": infer_response(head(shape=["two"]), ROW),
    "shape of fractions": infer_response(head(shape=[1, 2.0]), ROW),
    "shape of truths": infer_response(head(shape=[True, 2]), ROW),
    "shape of nulls": infer_response(head(shape=[None, 2]), ROW),
    "negative shape": infer_response(head(shape=[-1, -2]), ROW),
    "huge shape": infer_response(head(shape=[1 << 40]), ROW),
    "huge product": infer_response(head(shape=[1 << 40, 1 << 40]), ROW),
    "product that wraps": infer_response(head(shape=[1 << 62, 4, 2]), b""),
    "huge and empty": infer_response(
        head(shape=[0, 1 << 62, 1 << 62], parameters=size(0))
    ),
    "many dimensions": infer_response(head(shape=[1] * 5000 + [2]), ROW),
    "no parameters": infer_response(head(parameters=None), ROW),
    "parameters are a list": infer_response(head(parameters=[8]), ROW),
    "size is text": infer_response(head(parameters=size("8")), ROW),
    "size is a fraction": infer_response(head(parameters=size(8.0)), ROW),
    "size is negative": infer_response(head(parameters=size(-8)), ROW),
    "size is huge": infer_response(head(parameters=size(1 << 63)), ROW),
    "size is larger": infer_response(head(parameters=size(16)), ROW),
    "size is smaller": infer_response(head(parameters=size(4)), ROW),
    "data is left": infer_response(head(), ROW + b"more"),
    "no data": infer_response(head()),
    "header length is text": infer_response(head(), ROW, "many"),
    "header length is negative": infer_response(head(), ROW, "-5"),
    "header length is zero": infer_response(head(), ROW, "0"),
    "header length is huge": infer_response(head(), ROW, "9" * 30),
    "header length is short": infer_response(head(), ROW, "9"),
    "header length is foreign": infer_response(head(), ROW, "\u00b2"),
    "another model": infer_response({**head(), "model_name": "other"}, ROW),
    "another request": infer_response({**head(), "id": "other"}, ROW),
    "id is a number": infer_response({**head(), "id": 5}, ROW),
    "bytes overrun": bytes_head([1], strings(1 << 31)),
    "bytes overrun by one": bytes_head([1], strings(3)),
    "bytes end in a length": bytes_head([1], b"\x01\x00"),
    "bytes too few": bytes_head([3], strings(2, 2)),
    "bytes too many": bytes_head([1], strings(2, 2)),
    "bytes huge": bytes_head([1 << 40], strings(2)),
    "truncated": http(b'{"outputs": []}', length="500"),
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "no gzip": http(b"plain", "content-encoding: gzip"),
    "half a gzip": http(gzip.compress(b"{}" * 99)[:-9], "content-encoding: gzip"),
    "unknown encoding": http(b"{}", "content-encoding: br"),
    "long header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
}

NOT_HTTP = {
    *("nothing", "no HTTP", "bad status", "truncated", "bad chunk", "long header"),
}
"""Answers that break HTTP itself: another attempt may help."""

CONFIGS: dict[str, Any] = {
    "page": HTML,
    "list": [],
    "text": '"text"',
    "null": "null",
    "empty": {},
    "name": {"name": 5},
    "foreign": {"name": "another"},
    "batch-text": {"max_batch_size": "4"},
    "batch-negative": {"max_batch_size": -4},
    "batch-true": {"max_batch_size": True},
    "input-missing": {"input": None},
    "input-object": {"input": {}},
    "input-number": {"input": [5]},
    "input-twice": {"input": CONFIG["input"] * 2},
    "dims-number": {"output": [{**CONFIG["output"][0], "dims": 5}]},
    "dims-text": {"output": [{**CONFIG["output"][0], "dims": ["x"]}]},
    "dims-negative": {"output": [{**CONFIG["output"][0], "dims": [-2]}]},
    "dims-huge": {"output": [{**CONFIG["output"][0], "dims": [1 << 40]}]},
    "dims-digits": {"output": [{**CONFIG["output"][0], "dims": ["9" * 5000]}]},
    "type-number": {"output": [{**CONFIG["output"][0], "data_type": 11}]},
    "parameters-list": {"parameters": []},
    "parameters-text": {"parameters": {"max_people": "4"}},
    "parameters-number": {"parameters": {"max_people": {"string_value": 4}}},
}

LISTS = {
    "page": HTML,
    "object": {},
    "numbers": [1],
    "names": ["a"],
    "null name": [{"name": None}],
    "number as reason": [{"name": "a", "reason": 5}],
    "deep": "[" * 100_000,
}


def respond(path: str, _: bytes) -> bytes:
    *_, name, verb = path.split("/")
    if verb == "config" and name.startswith("config-"):
        config = CONFIGS[name.removeprefix("config-")]
        if not isinstance(config, dict) or not config:
            return http(config)
        return http(config_of(path, **config))
    if verb == "config":
        return http(config_of(path))
    if verb == "infer":
        return INFERENCES[name.replace("-", " ").replace("%20", " ")]
    if name == "repository":
        return http(LISTS[respond.case])  # type: ignore[attr-defined]
    return http(HTML)


@pytest.fixture(scope="module")
def http_client() -> Iterator[Client]:
    server = HttpServer(respond)
    with server, Client(server.address, retry=ONCE, timeout_s=5) as client:
        yield client


@pytest.mark.parametrize("name", INFERENCES)
def test_malformed_http_inferences(http_client: Client, name: str) -> None:
    with pytest.raises(PersonServeError) as caught:
        http_client.infer(name.replace(" ", "-"), INPUTS)
    assert isinstance(caught.value, ServerUnavailableError) == (name in NOT_HTTP)


@pytest.mark.parametrize("name", CONFIGS)
def test_malformed_http_configurations(http_client: Client, name: str) -> None:
    with pytest.raises(IncompatibleServerError, match="does not answer as a Triton"):
        http_client.describe(f"config-{name}")


@pytest.mark.parametrize("name", LISTS)
def test_malformed_http_lists(http_client: Client, name: str) -> None:
    respond.case = name  # type: ignore[attr-defined]
    with pytest.raises(IncompatibleServerError):
        http_client.models()


def test_a_page_is_not_a_ready_server(http_client: Client) -> None:
    assert not http_client.ready()
    assert not http_client.ready("m")


def test_the_asynchronous_client_raises_the_same() -> None:
    async def run(address: str) -> list[type[BaseException]]:
        async with AsyncClient(address, retry=ONCE, timeout_s=5) as client:
            calls = [
                client.infer(name.replace(" ", "-"), INPUTS) for name in INFERENCES
            ]
            results = await asyncio.gather(*calls, return_exceptions=True)
        return [type(each) for each in results]

    with HttpServer(respond) as server:
        kinds = asyncio.run(run(server.address))
    assert len(kinds) == len(INFERENCES)
    assert all(issubclass(kind, PersonServeError) for kind in kinds)


def test_answers_that_are_right_pass() -> None:
    answers = {
        "plain": infer_response(head(), ROW),
        "packed": infer_response(head(), ROW),
        "texts": bytes_head([2], strings(2, 2)),
    }
    text = answers["packed"].partition(b"\r\n\r\n")[2]
    length = len(text) - len(ROW)
    answers["packed"] = http(
        gzip.compress(text),
        "content-encoding: gzip",
        f"inference-header-content-length: {length}",
    )

    def right(path: str, _: bytes) -> bytes:
        *_, name, verb = path.split("/")
        return http(config_of(path)) if verb == "config" else answers[name]

    with HttpServer(right) as server, Client(server.address) as client:
        for name in ("plain", "packed"):
            outputs = client.infer(name, INPUTS)
            np.testing.assert_array_equal(outputs[OUTPUT], [[1, 2]])
        assert client.infer("texts", INPUTS)[OUTPUT].tolist() == [b"ab", b"ab"]


# ---- gRPC ------------------------------------------------------------------------

Y = (OUTPUT, "FP32", [1, 2], ROW)

MESSAGES: dict[str, Callable[[Any], Any]] = {
    "no data": lambda r: grpc_response(r, (OUTPUT, "FP32", [1, 2], None)),
    "more data than outputs": lambda r: grpc_response(r, Y, raw_output_contents=[ROW]),
    "short": lambda r: grpc_response(r, (OUTPUT, "FP32", [1, 2], ROW[:5])),
    "long": lambda r: grpc_response(r, (OUTPUT, "FP32", [1, 2], ROW * 2)),
    "negative": lambda r: grpc_response(r, (OUTPUT, "FP32", [-1, -2], ROW)),
    "huge": lambda r: grpc_response(r, (OUTPUT, "FP32", [1 << 40, 1 << 40], ROW)),
    "wraps": lambda r: grpc_response(r, (OUTPUT, "FP32", [1 << 62, 4], b"")),
    "rank": lambda r: grpc_response(r, (OUTPUT, "FP32", [1] * 500 + [2], ROW)),
    "type": lambda r: grpc_response(r, (OUTPUT, "", [1, 2], ROW)),
    "overrun": lambda r: grpc_response(r, (OUTPUT, "BYTES", [1], strings(1 << 31))),
    "count": lambda r: grpc_response(r, (OUTPUT, "BYTES", [5], strings(2))),
    "ends early": lambda r: grpc_response(r, (OUTPUT, "BYTES", [1], b"\1")),
    "twice": lambda r: grpc_response(r, Y, Y),
    "another model": lambda r: grpc_response(r, Y, model_name="other"),
    "another request": lambda r: grpc_response(r, Y, id="other"),
}


def _answer(request: Any, context: grpc.ServicerContext) -> Any:
    name = request.model_name.replace("-", " ")
    if name in MESSAGES:
        return MESSAGES[name](request)
    if name.isdigit():
        context.abort(
            next(code for code in grpc.StatusCode if code.value[0] == int(name)), "no"
        )
    raise RuntimeError("a bug of the server")


def _configure(name: str) -> Any:
    if name == "foreign":
        return parse_config({"name": "another", **CONFIG})
    config = parse_config({"name": name, **CONFIG})
    if name == "type":
        config.output[0].data_type = 99
    elif name == "dims":
        config.output[0].dims[:] = [-5]
    elif name == "batch":
        config.max_batch_size = -1
    return config


@pytest.fixture(scope="module")
def grpc_server() -> Iterator[GrpcServer]:
    with GrpcServer(_answer, _configure) as server:
        yield server


CODES = [str(code.value[0]) for code in grpc.StatusCode if code.value[0]]
GRPC_NAMES = [*MESSAGES, *CODES, "a bug"]


@pytest.mark.parametrize("name", GRPC_NAMES)
def test_malformed_grpc_inferences(grpc_server: GrpcServer, name: str) -> None:
    with Client(grpc_server.address, retry=ONCE, timeout_s=5) as client:
        model = "fine" if name == "type" else name.replace(" ", "-")
        client.describe(model)
        with pytest.raises(PersonServeError):
            client.infer(model, INPUTS)


def test_the_asynchronous_grpc_client_raises_the_same(grpc_server: GrpcServer) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(grpc_server.address, retry=ONCE, timeout_s=5) as client:
            calls = [
                client.infer(name.replace(" ", "-"), INPUTS) for name in GRPC_NAMES
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(run())
    assert len(results) == len(GRPC_NAMES)
    assert all(isinstance(each, PersonServeError) for each in results)


@pytest.mark.parametrize("name", ["type", "dims", "batch", "foreign"])
def test_malformed_grpc_configurations(grpc_server: GrpcServer, name: str) -> None:
    with (
        Client(grpc_server.address, retry=ONCE) as client,
        pytest.raises(IncompatibleServerError, match="does not answer as a Triton"),
    ):
        client.describe(name)


def test_an_answer_of_another_request_is_named(grpc_server: GrpcServer) -> None:
    with (
        Client(grpc_server.address, retry=ONCE) as client,
        pytest.raises(ServerError, match=r"of this request, got that of 'other'"),
    ):
        client.infer("another-request", INPUTS)


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_grpc_answers_have_a_limit(
    monkeypatch: pytest.MonkeyPatch, compression: grpc.Compression | None
) -> None:
    options = dict(grpc_transport.CHANNEL_OPTIONS)
    assert options["grpc.max_receive_message_length"] == 256 << 20
    options["grpc.max_receive_message_length"] = 1 << 20
    monkeypatch.setattr(grpc_transport, "CHANNEL_OPTIONS", tuple(options.items()))

    def flood(request: Any, context: grpc.ServicerContext) -> Any:
        if compression is not None:
            context.set_compression(compression)
        return grpc_response(request, (OUTPUT, "FP32", [1, 2], bytes(2 << 20)))

    with (
        GrpcServer(flood) as server,
        Client(server.address, retry=ONCE) as client,
        pytest.raises(IncompatibleServerError, match="larger than"),
    ):
        client.infer("m", INPUTS)
