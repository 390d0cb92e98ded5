"""Recording rules and alerts for Prometheus, as files/rules.yaml of the chart.

One recording rule, SCALING_SIGNAL, says how loaded the servers of a job are.
Autoscaler, dashboard and alert use it, so that they cannot disagree.

The signal is the number of requests that wait for each request that is computed, over
the composing models (an ensemble's own times contain those of its steps). It is
computed in two ways, of which the larger one counts:

- time in queues over time of computation, of the requests that were answered. Both are
  average numbers of requests, by Little's law (Operations Research 9 (3), 1961);
- requests that are pending now over requests in computation. A server that answers
  nothing has no times, and this one still rises.

0 means that no request waits. At 1 the average request waits as long as it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from builders.repository.queue_limits import TIMEOUT_S
from builders.spec.catalogue import catalogue
from builders.spec.ensemble import Ensemble
from builders.spec.model import Model, OnnxModel

SCALING_SIGNAL = "personserve:scaling_signal:ratio"
PEOPLE_RATE = "personserve:people:rate1m"
QUEUE_RATIO = "personserve:queue_compute:ratio"
PENDING_RATIO = "personserve:pending_busy:ratio"

HPA_METRIC = "personserve_scaling_signal"
"""Name of SCALING_SIGNAL among Kubernetes's external metrics, which take no colons."""

SCALING_TARGET = 0.5
"""Signal that the autoscalers hold: a request waits half as long as it is computed."""

OVERLOAD_FACTOR = 4
"""Overload is this many times SCALING_TARGET: autoscaling has not helped, and with more
load the queues of a CPU (24 requests for each instance) are soon full."""

RUNBOOK = "deploy/RUNBOOK.md"
BY_JOB = "by (namespace, job)"


def name_pattern(*kinds: type) -> str:
    """Return a regular expression of the names of all declarations of some kinds.

    Args:
        kinds: Classes of declarations.
    """
    return "|".join(n for n, each in catalogue().items() if isinstance(each, kinds))


def steps() -> str:
    """Return the label matcher of models that are not ensembles, also of new ones."""
    return f'model!~"{name_pattern(Ensemble)}"'


def networks() -> str:
    """Return the label matcher of the declared networks, whose rows are people."""
    return f'model=~"{name_pattern(Model, OnnxModel)}"'


@dataclass(frozen=True)
class Alert:
    """An alert, whose paragraph in the runbook has its name as heading.

    Attributes:
        name: Its name.
        expression: What is wrong, in PromQL.
        lasting: How long before it fires, for example "5m".
        severity: "critical" for what fails requests now, else "warning".
        summary: One sentence, with Prometheus's template variables.
    """

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str

    def render(self) -> dict[str, Any]:
        """Return the alert as Prometheus reads it."""
        anchor = f"{RUNBOOK}#{self.name.lower()}"
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook_url": anchor},
        }


def recording_rules() -> dict[str, str]:
    """Return the expressions of the recording rules by name, in order of evaluation."""
    computed = f"nv_inference_compute_infer_duration_us{{{steps()}}}"
    busy = f"sum {BY_JOB} (rate({computed}[1m]))"
    queued = f"sum {BY_JOB} (rate(nv_inference_queue_duration_us{{{steps()}}}[1m]))"
    pending = (
        f"sum {BY_JOB} "
        f"(avg_over_time(nv_inference_pending_request_count{{{steps()}}}[1m]))"
    )
    both = f"{QUEUE_RATIO.partition(':')[0]}:(queue_compute|pending_busy):ratio"
    return {
        QUEUE_RATIO: f"{queued} / ({busy} > 0)",
        PENDING_RATIO: f"{pending} / clamp_min({busy} / 1e6, 1)",
        SCALING_SIGNAL: f'max {BY_JOB} ({{__name__=~"{both}"}})',
        PEOPLE_RATE: f"max {BY_JOB} (sum by (namespace, job, model) "
        f"(rate(nv_inference_count{{{networks()}}}[1m])))",
    }


def refusals(reasons: str) -> str:
    """Return the rate of requests that Python models refuse, by job.

    Args:
        reasons: Regular expression of reasons.
    """
    counter = f'personserve_requests_refused_total{{reason=~"{reasons}"}}'
    return f"sum {BY_JOB} (rate({counter}[5m]))"


def requests() -> str:
    """Return the rate of requests to the ensembles' first and only steps, by job."""
    counter = f"nv_inference_request_success{{{steps()}}}"
    return f"max {BY_JOB} (sum by (namespace, job, model) (rate({counter}[5m])))"


def alerts() -> Sequence[Alert]:
    """Return all alerts."""
    return (*_alerts_of_servers(), *_alerts_of_requests(), *_alerts_of_gpus())


def _alerts_of_servers() -> Sequence[Alert]:
    job = "{{ $labels.job }}"
    instance = "{{ $labels.instance }}"
    return (
        Alert(
            "PersonserveDown",
            'up{job=~".*personserve.*"} == 0',
            "2m",
            "critical",
            f"{instance} does not answer Prometheus.",
        ),
        Alert(
            "PersonserveNotReady",
            "personserve_ready == 0",
            "5m",
            "critical",
            f"The supervisor of {instance} reports that it is not ready.",
        ),
        Alert(
            "PersonserveRestarts",
            "sum by (namespace, job, instance) "
            "(increase(personserve_restarts_total[15m])) >= 3",
            "0m",
            "critical",
            f"{instance} was restarted {{{{ $value }}}} times in 15 minutes.",
        ),
        Alert(
            "PersonserveMetricsMissing",
            "personserve_ready == 1 unless on (namespace, job, instance) "
            "nv_inference_pending_request_count",
            "5m",
            "warning",
            f"{instance} is ready, and has no metrics of Triton.",
        ),
        Alert(
            "PersonserveOverloaded",
            f"{SCALING_SIGNAL} > {OVERLOAD_FACTOR * SCALING_TARGET:g}",
            "5m",
            "warning",
            f"{{{{ $value }}}} requests of {job} wait for each one that is computed.",
        ),
    )


def _alerts_of_requests() -> Sequence[Alert]:
    job = "{{ $labels.job }}"
    failures = f"sum {BY_JOB} (rate(nv_inference_request_failure[5m]))"
    slow_us = f"nv_inference_request_duration_us{{{steps()}}}"
    counted = f"nv_inference_request_success{{{steps()}}}"
    by_model = "sum by (namespace, job, model)"
    return (
        Alert(
            "PersonserveRequestsRefused",
            f"{refusals('overloaded')} / {requests()} > 0.01",
            "5m",
            "critical",
            f"{job} refuses more than 1 % of its requests, because too many wait.",
        ),
        Alert(
            "PersonserveRequestsInvalid",
            f"{refusals('boxes|image|image_size')} / {requests()} > 0.05",
            "15m",
            "warning",
            f"More than 5 % of the requests to {job} have invalid frames or boxes.",
        ),
        Alert(
            "PersonserveRequestsCancelled",
            f"{refusals('cancelled')} / {requests()} > 0.05",
            "10m",
            "warning",
            f"Clients of {job} give up more than 5 % of their requests.",
        ),
        Alert(
            "PersonserveModelsFail",
            f"{refusals('failed')} > 0",
            "5m",
            "critical",
            f"Models of {job} fail on requests: a fault of the server.",
        ),
        Alert(
            "PersonserveTritonFails",
            f"{failures} > 0.05",
            "10m",
            "warning",
            f"Triton itself refuses requests to {job}.",
        ),
        Alert(
            "PersonserveSlow",
            f"{by_model} (rate({slow_us}[5m])) / "
            f"({by_model} (rate({counted}[5m])) > 0) > {TIMEOUT_S / 3 * 1e6:g}",
            "5m",
            "warning",
            f"{{{{ $labels.model }}}} of {job} takes more than {TIMEOUT_S / 3:g} s.",
        ),
    )


def _alerts_of_gpus() -> Sequence[Alert]:
    return (
        Alert(
            "PersonserveGpuMemory",
            "nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes > 0.95",
            "5m",
            "warning",
            "A GPU of {{ $labels.instance }} has less than 5 % of its memory free.",
        ),
    )


def render_rules() -> dict[str, Any]:
    """Return the rule file."""
    recorded = [{"record": n, "expr": e} for n, e in recording_rules().items()]
    return {
        "groups": [
            {"name": "personserve-signals", "interval": "15s", "rules": recorded},
            {"name": "personserve-alerts", "rules": [a.render() for a in alerts()]},
        ]
    }
