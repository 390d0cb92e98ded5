"""The Grafana dashboard, from a table of panels.

Expressions have two of Grafana's variables, $namespace and $job, which are regular
expressions. tests/deploy/evaluate_expressions.py evaluates each of them
against a real Prometheus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from builders.deployment.rules import (
    PEOPLE_RATE,
    SCALING_SIGNAL,
    SCALING_TARGET,
    name_pattern,
    steps,
)
from builders.spec.ensemble import Ensemble, PythonModel

SELECTOR = 'namespace=~"$namespace",job=~"$job"'
SCHEMA_VERSION = 39
WIDTH, HEIGHT = 12, 8
COLUMNS = 24


@dataclass(frozen=True)
class Panel:
    """One plot over time.

    Attributes:
        title: What it shows, with the unit.
        unit: Grafana's name of the unit, for example "reqps".
        queries: Expressions in PromQL by legend; a legend may have labels.
        threshold: Value that is drawn as a line; None for no line.
        needs: Who exposes the metrics: "server", "supervisor" or "gpu".
    """

    title: str
    unit: str
    queries: dict[str, str] = field(default_factory=dict)
    threshold: float | None = None
    needs: str = "server"


def _of(metric: str, *matchers: str) -> str:
    return f"{metric}{{{','.join((SELECTOR, *matchers))}}}"


def _mean_ms(metric: str, *matchers: str) -> str:
    """Return the mean of a duration per request in milliseconds, by model."""
    by = "sum by (model)"
    total = f"{by} (rate({_of(metric, *matchers)}[1m]))"
    count = f"{by} (rate({_of('nv_inference_request_success', *matchers)}[1m]))"
    return f"{total} / ({count} > 0) / 1000"


def _slowest_ms(metric: str, *matchers: str) -> str:
    return f"max by (model) ({_of(metric, *matchers)}) / 1000"


def panels() -> Sequence[Panel]:
    """Return the panels in reading order."""
    return (*_panels_of_load(), *_panels_of_requests(), *_panels_of_machines())


def _panels_of_load() -> Sequence[Panel]:
    return (
        Panel("People per second", "short", {"{{job}}": _of(PEOPLE_RATE)}),
        Panel(
            "Waiting requests for each computed one (scaling signal)",
            "short",
            {"{{job}}": _of(SCALING_SIGNAL)},
            SCALING_TARGET,
        ),
        Panel(
            "Mean time in queue, by step",
            "ms",
            {"{{model}}": _mean_ms("nv_inference_queue_duration_us", steps())},
        ),
        Panel(
            "Mean time of computation, by step",
            "ms",
            {"{{model}}": _mean_ms("nv_inference_compute_infer_duration_us", steps())},
        ),
    )


def _panels_of_requests() -> Sequence[Panel]:
    ensembles = f'model=~"{name_pattern(Ensemble)}"'
    summary = "nv_inference_request_summary_us"
    preprocessing = f'model=~"{name_pattern(PythonModel)}"'
    pending = _of("nv_inference_pending_request_count", preprocessing)
    refused = _of("personserve_requests_refused_total")
    return (
        Panel(
            "Time of a request, p50 and p99 of the slowest server",
            "ms",
            {
                "{{model}} p50": _slowest_ms(summary, ensembles, 'quantile="0.5"'),
                "{{model}} p99": _slowest_ms(summary, ensembles, 'quantile="0.99"'),
            },
        ),
        Panel(
            "Requests per second",
            "reqps",
            {
                "{{model}}": "sum by (model) "
                f"(rate({_of('nv_inference_request_success')}[1m]))"
            },
        ),
        Panel(
            "Refused requests per second, by reason",
            "reqps",
            {
                "{{reason}}": f"sum by (reason) (rate({refused}[1m]))",
                "Triton: {{reason}}": "sum by (reason) "
                f"(rate({_of('nv_inference_request_failure')}[1m]))",
            },
        ),
        Panel(
            "Frames behind: frames that wait for preprocessing",
            "short",
            {"{{model}}": f"sum by (model) ({pending})"},
        ),
    )


def _panels_of_machines() -> Sequence[Panel]:
    restarts = f"increase({_of('personserve_restarts_total')}[15m])"
    return (
        Panel(
            "Ready servers",
            "short",
            {"{{job}}": f"sum by (job) ({_of('personserve_ready')})"},
            needs="supervisor",
        ),
        Panel(
            "Restarts in 15 minutes, by reason",
            "short",
            {"{{reason}}": f"sum by (reason) ({restarts})"},
            needs="supervisor",
        ),
        Panel(
            "GPU utilisation",
            "percentunit",
            {"{{instance}} {{gpu_uuid}}": _of("nv_gpu_utilization")},
            needs="gpu",
        ),
        Panel(
            "GPU memory",
            "bytes",
            {"{{instance}} {{gpu_uuid}}": _of("nv_gpu_memory_used_bytes")},
            needs="gpu",
        ),
    )


def render_dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "personserve",
        "title": "personserve",
        "schemaVersion": SCHEMA_VERSION,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "15s",
        "templating": {
            "list": [
                _variable("datasource", "datasource", "prometheus"),
                _variable("namespace", "query", _label_values("namespace")),
                _variable("job", "query", _label_values("job")),
            ]
        },
        "panels": [_render_panel(i, panel) for i, panel in enumerate(panels())],
    }


def _label_values(label: str) -> str:
    return f"label_values(nv_inference_request_success, {label})"


def _variable(name: str, kind: str, query: str) -> dict[str, Any]:
    own: dict[str, Any] = {"name": name, "type": kind, "query": query}
    if kind == "query":
        source = {"type": "prometheus", "uid": "${datasource}"}
        # one host has no namespace, which the value "all" must match
        own |= {"datasource": source, "refresh": 2, "includeAll": True}
        own |= {"multi": True, "allValue": ".*"}
    return own


def _render_panel(number: int, panel: Panel) -> dict[str, Any]:
    across = COLUMNS // WIDTH
    x, y = number % across * WIDTH, number // across * HEIGHT
    marks: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.threshold is not None:
        marks.append({"color": "red", "value": panel.threshold})
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": marks},
                "custom": {"thresholdsStyle": {"mode": "line"}},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expression, "legendFormat": legend}
            for i, (legend, expression) in enumerate(panel.queries.items())
        ],
    }
