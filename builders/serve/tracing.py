"""Tracing: tritonserver's options that send OpenTelemetry spans of requests.

Triton exports OTLP over HTTP in JSON. The client sends a W3C trace context with every
inference (`traceparent`), and Triton traces each request that has one, whatever its
rate; see "OpenTelemetry Context Propagation" in Triton's user guide. A rate of 0
leaves out requests without one, such as health probes.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from builders.serve.errors import ServeError

SERVICE_NAME = "personserve"


def trace_arguments(url: str) -> list[str]:
    """Return tritonserver's arguments that send spans to a collector.

    Args:
        url: OTLP/HTTP address of the collector, for example
            http://127.0.0.1:4318/v1/traces.

    Raises:
        ServeError: It is not such an address.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.path.strip("/"):
        raise ServeError(
            f"--trace {url}: expected the collector's OTLP/HTTP address with its path, "
            "for example http://127.0.0.1:4318/v1/traces; Triton's exporter has no TLS "
            "of its own, so send to a collector on this host"
        )
    settings = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=0",
        f"opentelemetry,url={url}",
        f"opentelemetry,resource=service.name={SERVICE_NAME}",
    )
    return [f"--trace-config={each}" for each in settings]
