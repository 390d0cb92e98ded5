"""Comparing with any server that speaks KServe v2: names, data types, protocols."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest.baselines.endpoints import (
    Endpoint,
    describe_tensors,
    open_sender,
    parse_endpoint,
)
from loadtest.baselines.jobs import Job, find_difference
from loadtest.errors import LoadTestError

CROPS = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
JOB = Job("2 crops", 2, CROPS)
MEANS = CROPS.reshape(2, -1).mean(axis=1, dtype=np.float32)[:, None]


def _describe(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 4, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    }


class _Json(BaseHTTPRequestHandler):
    """A server without the binary extension, whose model averages each crop."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self._send({"extensions": []} if name == "v2" else _describe(name))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        (tensor,) = json.loads(content)["inputs"]
        assert (tensor["name"], tensor["datatype"]) == ("x", "FP32")
        values = np.array(tensor["data"]).reshape(tensor["shape"])
        means = values.reshape(len(values), -1).mean(axis=1).tolist()
        self._send({"outputs": [{"name": "y", "shape": [len(means)], "data": means}]})

    def _send(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The same over gRPC."""

    def ModelMetadata(self, request: Any, _context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelMetadataResponse(**_describe(request.name))

    def ModelInfer(self, request: Any, _context: Any) -> Any:  # noqa: N802
        (tensor,), (data,) = request.inputs, request.raw_input_contents
        values = np.frombuffer(data, np.float32).reshape(tensor.shape)
        means = values.reshape(len(values), -1).mean(axis=1)
        output = {"name": "y", "datatype": "FP32", "shape": means.shape}
        return service_pb2.ModelInferResponse(
            outputs=[output], raw_output_contents=[means.tobytes()]
        )


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that is not Triton."""
    if request.param == "http":
        with HTTPServer(("127.0.0.1", 0), _Json) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()
        return
    with ThreadPoolExecutor(2) as pool:
        grpc_server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            _Grpc(), grpc_server
        )
        port = grpc_server.add_insecure_port("127.0.0.1:0")
        grpc_server.start()
        yield f"grpc://127.0.0.1:{port}"
        grpc_server.stop(None).wait()


def test_a_model_with_other_names_and_types_does_the_job(url: str) -> None:
    endpoint = parse_endpoint(f"other={url}/mean?crops=x&female_probability=y")
    assert endpoint.names == {"crops": "x", "female_probability": "y"}
    assert str(endpoint) == f"mean at {url}"
    for each in (endpoint, parse_endpoint(f"other={url}/mean")):
        tensors = describe_tensors(each)
        assert tensors.takes(JOB)
        assert not tensors.takes(Job("frame", 1, jpeg=b"x"))
        with open_sender(each, tensors) as send:
            result = send(JOB)
        np.testing.assert_allclose(result[0], MEANS, rtol=1e-6)
        assert find_difference("other", JOB, result, (MEANS + 0.5,)) == 0.5


def test_a_model_of_another_kind_is_refused_by_its_tensors(url: str) -> None:
    endpoint = parse_endpoint(f"other={url}/mean?female_probability=z")
    with pytest.raises(LoadTestError, match=r"has inputs x and outputs y, expected "):
        describe_tensors(endpoint)
    with pytest.raises(LoadTestError, match=r"shapes \[\(2, 1\)\] for 2 crops"):
        find_difference("other", JOB, (MEANS,), (MEANS, MEANS))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_server_is_an_error(scheme: str) -> None:
    with pytest.raises(LoadTestError, match=r"127\.0\.0\.1:9"):
        describe_tensors(Endpoint("other", scheme, "127.0.0.1:9", "m", {}))


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/m",
        "a=127.0.0.1:8000/m",
        "a=https://127.0.0.1:8000/m",
        "a=grpc://127.0.0.1/m",
        "a=grpc://127.0.0.1:8001",
        "a=grpc://127.0.0.1:x/m",
        "a=grpc://127.0.0.1:8001/m?crops",
    ],
)
def test_a_wrong_server_is_refused(text: str) -> None:
    with pytest.raises(LoadTestError, match=r"expected NAME=grpc://HOST:PORT/MODEL"):
        parse_endpoint(text)
