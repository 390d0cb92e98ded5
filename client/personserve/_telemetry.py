"""Who asked what, for whoever reads traces: W3C trace context on every request, and
OpenTelemetry spans where its API is installed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from personserve._requests import Infer

TRACEPARENT = "traceparent"


@dataclass(frozen=True)
class Span:
    """One request in a trace. `headers` carry it to the server."""

    headers: Mapping[str, str]
    _span: Any = None

    def finished(self) -> None:
        """The request was answered."""
        if self._span is not None:
            self._span.end()

    def failed(self, error: BaseException) -> None:
        """The request was not."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.record_exception(error)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
            self._span.end()


def _tracer() -> Any:
    """OpenTelemetry's, if its API is installed (without its SDK it does nothing)."""
    if find_spec("opentelemetry") is None:
        return None
    from opentelemetry import trace

    return trace.get_tracer("personserve")


@dataclass
class Telemetry:
    """Starts a span for each inference."""

    _tracer: Any = field(default_factory=_tracer)

    def started(self, request: Infer) -> Span:
        """A span for `request`, below the caller's current one. Where nobody traces,
        the request's id is the trace's, so that logs can be laid side by side; a
        traceparent that the caller gave stays.
        """
        if self._tracer is None:
            return Span(_own_context(request))
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
        return Span(headers or _own_context(request), span)


def _own_context(request: Infer) -> dict[str, str]:
    if TRACEPARENT in request.headers:
        return {}
    trace = request.request_id or secrets.token_hex(16)
    return {TRACEPARENT: f"00-{trace}-{secrets.token_hex(8)}-01"}
