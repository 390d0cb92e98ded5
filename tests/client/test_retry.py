"""Retries, failover, deadlines and tracing, with scripted transports."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from personserve import (
    InvalidInputError,
    ModelDescription,
    ModelUnavailableError,
    OverloadedError,
    RequestTimeoutError,
    Retry,
    ServerUnavailableError,
)
from personserve._client import run_actions
from personserve._errors import error_from_status
from personserve._retry import Dispatcher, Endpoint, send_directly
from personserve._telemetry import Telemetry
from personserve._wire.connection import Address, Connection
from personserve._wire.grpc_messages import rpc_from_request
from personserve._wire.http_messages import message_from_request
from personserve._wire.requests import DescribeModel, Infer, Request

QUICK = Retry(attempts=4, initial_backoff_s=0.001, max_backoff_s=0.002)
REQUEST = Infer("m", {"x": np.zeros(1, np.float32)}, "f" * 32)


class Scripted:
    """A transport that gives its answers in order, and then the last one again."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.sent: list[Request] = []
        self.timeouts: list[float | None] = []

    def send(self, request: Request, timeout_s: float | None) -> Any:
        self.sent.append(request)
        self.timeouts.append(timeout_s)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


GONE = ServerUnavailableError("gone")


def send_request(
    *wires: Scripted,
    request: Request = REQUEST,
    retry: Retry = QUICK,
    timeout_s: float = 5,
) -> Any:
    dispatcher = build_dispatcher(*wires, retry=retry)
    return run_actions(dispatcher.run_call(send_directly(request), timeout_s))


def build_dispatcher(*wires: Scripted, retry: Retry = QUICK) -> Dispatcher[Any]:
    endpoints = [Endpoint(f"server {i}", w, send_directly) for i, w in enumerate(wires)]
    return Dispatcher(endpoints, retry, Telemetry(None))


def test_what_was_not_answered_is_asked_again() -> None:
    wire = Scripted(GONE, GONE, "answer")
    assert send_request(wire) == "answer"
    assert [r.request_id for r in wire.sent] == [REQUEST.request_id] * 3


def test_a_model_that_is_being_loaded_is_waited_for() -> None:
    message = "Request for unknown model: 'm' has no available versions"
    loading = error_from_status("UNAVAILABLE", message, REQUEST, "there")
    assert send_request(Scripted(loading, "answer")) == "answer"
    message = "Request for unknown model: 'm' is not found"
    missing = Scripted(error_from_status("UNAVAILABLE", message, REQUEST, "there"))
    with pytest.raises(ModelUnavailableError):
        send_request(missing)
    assert len(missing.sent) == 1


def test_a_call_that_a_server_ends_as_it_shuts_down_is_repeated() -> None:
    ended = error_from_status("CANCELLED", "CANCELLED", REQUEST, "there")
    assert send_request(Scripted(ended, "answer")) == "answer"


@pytest.mark.parametrize("place", ["", "in ensemble 'e', [request id: 1] "])
def test_a_model_whose_process_died_is_asked_for_elsewhere(place: str) -> None:
    message = f"{place}Stub process 'm_0_0' is not healthy."
    dead = Scripted(error_from_status("INTERNAL", message, REQUEST, "there"))
    alive = Scripted("answer")
    retry = Retry(attempts=4, initial_backoff_s=1e6, max_backoff_s=1e6)
    dispatcher = build_dispatcher(dead, alive, retry=retry)
    for _ in range(3):
        call = dispatcher.run_call(send_directly(REQUEST), 5)
        assert run_actions(call) == "answer"
    assert len(dead.sent) == 1, "it rests"


def test_attempts_end() -> None:
    wire = Scripted(GONE)
    with pytest.raises(ServerUnavailableError, match="gone"):
        send_request(wire)
    assert len(wire.sent) == 4


@pytest.mark.parametrize(
    "error", [RequestTimeoutError("late"), InvalidInputError("no")], ids=repr
)
def test_nothing_else_is_repeated(error: Exception) -> None:
    wire = Scripted(error)
    with pytest.raises(type(error)):
        send_request(wire)
    assert len(wire.sent) == 1


def test_a_stateful_model_is_asked_once() -> None:
    wire = Scripted(GONE)
    with pytest.raises(ServerUnavailableError):
        send_request(wire, request=Infer("m", {}, "r", repeatable=False))
    assert len(wire.sent) == 1


def test_pauses_do_not_outlast_the_deadline() -> None:
    wire = Scripted(GONE)
    with pytest.raises(ServerUnavailableError):
        send_request(wire, retry=Retry(50, 0.05, 0.05), timeout_s=0.2)
    assert len(wire.sent) < 50, "the deadline comes first"
    assert all(0 < (timeout or 0) <= 0.2 for timeout in wire.timeouts)


def test_all_requests_of_a_call_share_its_deadline() -> None:
    class Slow(Scripted):
        def send(self, request: Request, timeout_s: float | None) -> Any:
            time.sleep(0.06)
            return super().send(request, timeout_s)

    def call() -> Any:
        for _ in range(5):
            yield REQUEST

    wire = Slow("answer")
    with pytest.raises(RequestTimeoutError, match="no time is left"):
        run_actions(build_dispatcher(wire).run_call(call(), 0.1))
    assert len(wire.sent) == 2


def test_endpoints_take_turns_and_failing_ones_rest() -> None:
    first, second, dead = Scripted("1"), Scripted("2"), Scripted(GONE)
    dispatcher = build_dispatcher(first, dead, second, retry=Retry(4, 10, 10))
    answers = [
        run_actions(dispatcher.run_call(send_directly(REQUEST), 5)) for _ in range(12)
    ]
    assert set(answers) == {"1", "2"}
    assert len(dead.sent) == 1, "it rests, and the others are asked at once"
    assert abs(answers.count("1") - answers.count("2")) <= 6


def test_a_recovered_endpoint_is_asked_again() -> None:
    wire, other = Scripted(GONE, "back"), Scripted("other")
    dispatcher = build_dispatcher(wire, other)
    for _ in range(20):
        run_actions(dispatcher.run_call(send_directly(REQUEST), 5))
        time.sleep(0.001)
    assert len(wire.sent) > 5


def test_a_call_is_told_of_errors_where_it_stands() -> None:
    def call() -> Any:
        try:
            yield REQUEST
        except InvalidInputError:
            return (yield DescribeModel("m"))

    described = ModelDescription("m", 0, (), (), {})
    wire = Scripted(InvalidInputError("no"), described)
    answer = run_actions(build_dispatcher(wire).run_call(call(), 5))
    assert answer == described
    assert answer.endpoint == "server 0"


def test_pauses_grow_and_are_spread() -> None:
    retry = Retry(initial_backoff_s=0.1, max_backoff_s=1.0)
    pauses = [[retry.backoff_s(n) for _ in range(300)] for n in (1, 3, 9)]
    assert [max(p) for p in pauses] == pytest.approx([0.1, 0.4, 1.0], rel=0.1)
    assert min(pauses[2]) < 0.1, "full jitter"
    assert retry.backoff_s(100_000) <= 1.0, "an endpoint that failed for days"
    with pytest.raises(InvalidInputError, match="at least 1"):
        Retry(attempts=0)


def test_requests_carry_trace_context() -> None:
    wire = Scripted("answer")
    send_request(wire)
    (sent,) = wire.sent
    version, trace, span, flags = sent.headers["traceparent"].split("-")
    assert (version, trace, len(span), flags) == ("00", "f" * 32, 16, "01")
    own = Infer("m", {}, "r" * 32, headers={"traceparent": "mine"})
    send_request(wire, request=own)
    assert wire.sent[1].headers == {"traceparent": "mine"}


def test_spans_tell_what_was_asked_and_what_failed() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    wire = Scripted("answer", InvalidInputError("no"))
    dispatcher = Dispatcher(
        [Endpoint("server", wire, send_directly)], QUICK, Telemetry(tracer)
    )
    with tracer.start_as_current_span("frame"):
        run_actions(dispatcher.run_call(send_directly(REQUEST), 5))
    with pytest.raises(InvalidInputError):
        run_actions(dispatcher.run_call(send_directly(REQUEST), 5))
    good, frame, bad = spans.get_finished_spans()
    assert good.name == "infer m"
    assert good.attributes["personserve.request_id"] == REQUEST.request_id
    assert good.parent.span_id == frame.context.span_id
    assert f"{good.context.trace_id:032x}" in wire.sent[0].headers["traceparent"]
    assert not bad.status.is_ok
    assert bad.events[0].name == "exception"


FULL = "in ensemble 'e', [request id: 1] Exceeds maximum queue size"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("UNAVAILABLE", FULL),
        ("UNAVAILABLE", "in ensemble 'e', Request timeout expired"),
        ("UNAVAILABLE", "the server is overloaded: 300 people wait"),
        (
            "INTERNAL",
            "Failed to increase the shared memory pool size for key 'x' to 9 bytes.",
        ),
    ],
)
def test_a_server_that_refuses_work_is_overloaded(status: str, message: str) -> None:
    error = error_from_status(status, message, REQUEST, "there")
    assert type(error) is OverloadedError
    assert message in str(error)


def test_an_overloaded_server_rests_and_another_one_answers() -> None:
    full = Scripted(OverloadedError("full"))
    idle = Scripted("answer")
    dispatcher = build_dispatcher(full, idle, retry=Retry(4, 1e6, 1e6))
    for _ in range(30):
        call = dispatcher.run_call(send_directly(REQUEST), 5)
        assert run_actions(call) == "answer"
    assert len(full.sent) == 1


def test_retries_do_not_multiply_the_load_of_overloaded_servers() -> None:
    servers = Scripted(OverloadedError("full")), Scripted(OverloadedError("full"))
    dispatcher = build_dispatcher(*servers, retry=Retry(4, 1e-6, 1e-6))
    for _ in range(100):
        with pytest.raises(OverloadedError):
            run_actions(dispatcher.run_call(send_directly(REQUEST), 5))
    attempts = sum(len(server.sent) for server in servers)
    assert attempts <= 2 * 100 + 5, "one for each server, and five of the budget"

    alone = Scripted(OverloadedError("full"))
    dispatcher = build_dispatcher(alone)
    for _ in range(100):
        with pytest.raises(OverloadedError):
            run_actions(dispatcher.run_call(send_directly(REQUEST), 5))
    assert len(alone.sent) == 105

    alone.script = ["answer"] * 60 + [OverloadedError("full"), "answer"]
    for _ in range(61):
        call = dispatcher.run_call(send_directly(REQUEST), 5)
        assert run_actions(call) == "answer", "answers fill the budget again"


@pytest.mark.parametrize(
    ("timeout_s", "expected_us"), [(1.5, 1_500_000), (1e-9, 1), (1e30, 10**12)]
)
def test_the_remaining_time_reaches_the_server(
    timeout_s: float, expected_us: int
) -> None:
    _, message = rpc_from_request(REQUEST, timeout_s)
    assert message.parameters["timeout"].int64_param == expected_us
    connection = Connection(Address.parse("http://127.0.0.1:1"))
    http = message_from_request(REQUEST, connection, timeout_s)
    assert http.content is not None
    head = json.loads(http.content[:-4])  # one value of 32 bits follows
    assert head["parameters"]["timeout"] == expected_us
