"""Spans of the server join those of the client, in a collector of this test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from builders.repository.layout import Repository
from builders.serve.errors import ServeError
from builders.serve.tracing import trace_arguments
from builders.serve.tritonserver import Ports, TritonServer
from personserve import Client

STEPS = ("person_preprocess", "person_gender", "person_reid_kd_r18")
PATIENCE_S = 300.0


class Collector(ThreadingHTTPServer):
    """Keeps the spans that are posted to it as OTLP in JSON."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Posted)
        self.spans: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class _Posted(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for resource in body["resourceSpans"]:
            names = {
                each["key"]: each["value"]
                for each in resource["resource"]["attributes"]
            }
            assert names["service.name"] == {"stringValue": "personserve"}
            for scope in resource["scopeSpans"]:
                self.server.spans += scope["spans"]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


def test_the_spans_of_server_and_client_are_one_trace(
    repository: Repository, collector: Collector
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    frame = np.zeros((480, 640, 3), np.uint8)
    server = TritonServer(
        repository,
        models=["person_attributes"],
        cores=1,
        ports=Ports.free(),
        arguments=trace_arguments(collector.url),
    )
    with server, Client(server.grpc_address, timeout_s=PATIENCE_S) as client:
        parts = client._parts
        kind = type(parts.dispatcher.telemetry)
        # not the process's own tracer, which other tests would see
        parts.dispatcher.telemetry = kind(provider.get_tracer("test"))
        client.attributes(frame, [[10, 10, 200, 300]])
        deadline = time.monotonic() + PATIENCE_S
        while len(collector.spans) < 2 + 2 * len(STEPS):  # a step has "compute" below
            assert time.monotonic() < deadline, collector.spans
            time.sleep(0.05)
    (sent,) = exporter.get_finished_spans()
    trace_id, span_id = f"{sent.context.trace_id:032x}", f"{sent.context.span_id:016x}"
    assert {each["traceId"] for each in collector.spans} == {trace_id}
    named = {each["name"]: each for each in collector.spans}
    assert named["InferRequest"]["parentSpanId"] == span_id
    for step in STEPS:
        assert named[step]["parentSpanId"] == named["person_attributes"]["spanId"]
    computed = [each for each in collector.spans if each["name"] == "compute"]
    assert {each["parentSpanId"] for each in computed} == {
        named[step]["spanId"] for step in STEPS
    }


@pytest.mark.parametrize("url", ["https://host/v1/traces", "host:4318", "http://host"])
def test_a_wrong_collector_is_refused(url: str) -> None:
    with pytest.raises(ServeError, match="OTLP/HTTP address with its path"):
        trace_arguments(url)
