"""Tracing: W3C trace context on every inference, and OpenTelemetry spans.

Spans are made if OpenTelemetry's API is installed; without its SDK they do nothing.
Trace context: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from personserve._wire.requests import Infer

TRACEPARENT = "traceparent"


@dataclass(frozen=True)
class Span:
    """One inference in a trace.

    Attributes:
        headers: Headers that carry the trace context to the server.
    """

    headers: Mapping[str, str]
    _span: Any = None

    def end(self) -> None:
        """End the span of an answered request."""
        if self._span is not None:
            self._span.end()

    def end_with_error(self, error: BaseException) -> None:
        """End the span of a failed request.

        Args:
            error: Recorded as the span's exception and status.
        """
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.record_exception(error)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
            self._span.end()


def _get_tracer() -> Any:
    """Return OpenTelemetry's tracer, or None if its API is not installed."""
    if find_spec("opentelemetry") is None:
        return None
    from opentelemetry import trace

    return trace.get_tracer("personserve")


@dataclass
class Telemetry:
    """Starts a span for each inference."""

    _tracer: Any = field(default_factory=_get_tracer)

    def start_span(self, request: Infer) -> Span:
        """Start a span as a child of the caller's current span.

        Without OpenTelemetry the request's id is the trace's id, so that the logs of
        client and server can be matched; a traceparent header of the request's own is
        left as it is.

        Args:
            request: The inference.

        Returns:
            The started span.
        """
        if self._tracer is None:
            return Span(_trace_context(request))
        from opentelemetry.propagate import inject
        from opentelemetry.trace import SpanKind, set_span_in_context

        span = self._tracer.start_span(
            f"infer {request.model}",
            kind=SpanKind.CLIENT,
            attributes={
                "personserve.model": request.model,
                "personserve.request_id": request.request_id,
            },
        )
        headers: dict[str, str] = {}
        inject(headers, set_span_in_context(span))
        return Span(headers or _trace_context(request), span)


def _trace_context(request: Infer) -> dict[str, str]:
    if TRACEPARENT in request.headers:
        return {}
    trace_id = request.request_id or secrets.token_hex(16)
    return {TRACEPARENT: f"00-{trace_id}-{secrets.token_hex(8)}-01"}
