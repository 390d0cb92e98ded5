"""Retries, failover and deadlines, with transports in place of servers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from personserve import (
    InvalidInputError,
    ModelDescription,
    ModelUnavailableError,
    RequestTimeoutError,
    Retry,
    ServerUnavailableError,
)
from personserve._client import _carried_out
from personserve._delivery import Delivery, Endpoint, directly
from personserve._errors import error_of_status
from personserve._requests import DescribeModel, Infer, Request
from personserve._telemetry import Telemetry

QUICK = Retry(attempts=4, first_pause_s=0.001, longest_pause_s=0.002)
ASKED = Infer("m", {"x": np.zeros(1, np.float32)}, "f" * 32)


class Scripted:
    """Answers with what it was told, one after another; the last stays."""

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


def _asked(
    *wires: Scripted,
    request: Request = ASKED,
    retry: Retry = QUICK,
    timeout_s: float = 5,
) -> Any:
    delivery = _delivery(*wires, retry=retry)
    return _carried_out(delivery.run(directly(request), timeout_s))


def _delivery(*wires: Scripted, retry: Retry = QUICK) -> Delivery[Any]:
    endpoints = [Endpoint(f"server {i}", w, directly) for i, w in enumerate(wires)]
    return Delivery(endpoints, retry, Telemetry(None))


def test_what_was_not_answered_is_asked_again() -> None:
    wire = Scripted(GONE, GONE, "answer")
    assert _asked(wire) == "answer"
    assert [r.request_id for r in wire.sent] == [ASKED.request_id] * 3


def test_a_model_that_is_being_loaded_is_waited_for() -> None:
    message = "Request for unknown model: 'm' has no available versions"
    loading = error_of_status("UNAVAILABLE", message, ASKED, "there")
    assert _asked(Scripted(loading, "answer")) == "answer"
    message = "Request for unknown model: 'm' is not found"
    missing = Scripted(error_of_status("UNAVAILABLE", message, ASKED, "there"))
    with pytest.raises(ModelUnavailableError):
        _asked(missing)
    assert len(missing.sent) == 1


def test_attempts_end() -> None:
    wire = Scripted(GONE)
    with pytest.raises(ServerUnavailableError, match="gone"):
        _asked(wire)
    assert len(wire.sent) == 4


@pytest.mark.parametrize(
    "error", [RequestTimeoutError("late"), InvalidInputError("no")], ids=repr
)
def test_nothing_else_is_repeated(error: Exception) -> None:
    wire = Scripted(error)
    with pytest.raises(type(error)):
        _asked(wire)
    assert len(wire.sent) == 1


def test_a_stateful_model_is_asked_once() -> None:
    wire = Scripted(GONE)
    with pytest.raises(ServerUnavailableError):
        _asked(wire, request=Infer("m", {}, "r", repeatable=False))
    assert len(wire.sent) == 1


def test_pauses_do_not_outlast_the_deadline() -> None:
    wire = Scripted(GONE)
    began = time.monotonic()
    with pytest.raises(ServerUnavailableError):
        _asked(wire, retry=Retry(50, 0.05, 0.05), timeout_s=0.2)
    assert time.monotonic() - began < 1
    assert all(0 < (timeout or 0) <= 0.2 for timeout in wire.timeouts)


def test_all_requests_of_a_call_share_its_deadline() -> None:
    class Slow(Scripted):
        def send(self, request: Request, timeout_s: float | None) -> Any:
            time.sleep(0.06)
            return super().send(request, timeout_s)

    def call() -> Any:
        for _ in range(5):
            yield ASKED

    wire = Slow("answer")
    with pytest.raises(RequestTimeoutError, match="no time is left"):
        _carried_out(_delivery(wire).run(call(), 0.1))
    assert len(wire.sent) == 2


def test_endpoints_take_turns_and_failing_ones_rest() -> None:
    first, second, dead = Scripted("1"), Scripted("2"), Scripted(GONE)
    delivery = _delivery(first, dead, second, retry=Retry(4, 10, 10))
    found = [_carried_out(delivery.run(directly(ASKED), 5)) for _ in range(12)]
    assert set(found) == {"1", "2"}
    assert len(dead.sent) == 1, "it rests, and the others are asked at once"
    assert abs(found.count("1") - found.count("2")) <= 6


def test_a_recovered_endpoint_is_asked_again() -> None:
    wire, other = Scripted(GONE, "back"), Scripted("other")
    delivery = _delivery(wire, other)
    for _ in range(20):
        _carried_out(delivery.run(directly(ASKED), 5))
        time.sleep(0.001)
    assert len(wire.sent) > 5


def test_a_call_is_told_of_errors_where_it_stands() -> None:
    def call() -> Any:
        try:
            yield ASKED
        except InvalidInputError:
            return (yield DescribeModel("m"))

    described = ModelDescription("m", 0, (), (), {})
    wire = Scripted(InvalidInputError("no"), described)
    assert _carried_out(_delivery(wire).run(call(), 5)) is described


def test_pauses_grow_and_are_spread() -> None:
    retry = Retry(first_pause_s=0.1, longest_pause_s=1.0)
    pauses = [[retry.pause_s(n) for _ in range(300)] for n in (1, 3, 9)]
    assert [max(p) for p in pauses] == pytest.approx([0.1, 0.4, 1.0], rel=0.1)
    assert min(pauses[2]) < 0.1, "full jitter"
    with pytest.raises(InvalidInputError, match="at least 1"):
        Retry(attempts=0)


def test_requests_carry_trace_context() -> None:
    wire = Scripted("answer")
    _asked(wire)
    (sent,) = wire.sent
    version, trace, span, flags = sent.headers["traceparent"].split("-")
    assert (version, trace, len(span), flags) == ("00", "f" * 32, 16, "01")
    own = Infer("m", {}, "r" * 32, headers={"traceparent": "mine"})
    _asked(wire, request=own)
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
    delivery = Delivery([Endpoint("server", wire, directly)], QUICK, Telemetry(tracer))
    with tracer.start_as_current_span("frame"):
        _carried_out(delivery.run(directly(ASKED), 5))
    with pytest.raises(InvalidInputError):
        _carried_out(delivery.run(directly(ASKED), 5))
    good, frame, bad = spans.get_finished_spans()
    assert good.name == "infer m"
    assert good.attributes["personserve.request_id"] == ASKED.request_id
    assert good.parent.span_id == frame.context.span_id
    assert f"{good.context.trace_id:032x}" in wire.sent[0].headers["traceparent"]
    assert not bad.status.is_ok
    assert bad.events[0].name == "exception"
