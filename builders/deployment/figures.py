"""Figures of the Helm chart, by the functions that `serve` computes them with.

A chart cannot call Python, and its users choose models and cores. Each model therefore
has its figures for one process, and the chart multiplies and adds:

    instances = fixed + per_core * cores
    /dev/shm  = sum of instances * max(request, largest reserved of the networks)
    memory    = sum of instances * process
    GPU pool  = sum of pool

tests/deploy/test_figures.py compares the chart's results with `serve`'s.
"""

from __future__ import annotations

from typing import Any

from builders.deployment.rules import HPA_METRIC, SCALING_SIGNAL, SCALING_TARGET
from builders.repository.config import DEFAULT_TARGET, count_instances
from builders.serve.access import restrictions
from builders.serve.endpoints import Ports
from builders.serve.resources import (
    cuda_pool_bytes,
    instance_shm_bytes,
    process_bytes,
    request_shm_bytes,
)
from builders.serve.run import HEALTH_PORT
from builders.serve.selection import MAIN_MODELS
from builders.serve.tritonserver import (
    DRAIN_TIMEOUT_S,
    EXIT_TIMEOUT_S,
    START_TIMEOUT_S,
)
from builders.spec.catalogue import catalogue
from builders.spec.ensemble import Ensemble, PythonModel
from builders.spec.model import Model, Network

CHART_TARGETS = (DEFAULT_TARGET, "cpu")
"""Targets that the chart offers: a stock tritonserver with plans, and `serve`."""

FP32_BYTES = 4

SERVER_BYTES = 512 << 20
"""Memory of tritonserver and of the supervisor, without Python models.

Proportional set sizes after the start with Triton 2.51 and `person_attributes`: 25 MiB
and, for the imported command, 45 MiB. The rest is room for what waits: a raw 1080p
frame is 6 MiB, and queues have at least 48 requests (queue_limits.py)."""

KEY_PLACEHOLDER = "$(PERSONSERVE_KEY)"
TOKEN_PLACEHOLDER = "$(PERSONSERVE_TOKEN)"  # noqa: S105 - Kubernetes puts the value in


def chart_figures() -> dict[str, Any]:
    """Return the content of files/figures.json, which the chart's templates read."""
    ports = Ports()
    return {
        "default_models": list(MAIN_MODELS),
        "ensembles": {
            name: [step.model.name for step in declaration.steps]
            for name, declaration in catalogue().items()
            if isinstance(declaration, Ensemble)
        },
        "targets": {target: _target_figures(target) for target in CHART_TARGETS},
        "server_bytes": SERVER_BYTES,
        "scaling": {
            "signal": SCALING_SIGNAL,
            "metric": HPA_METRIC,
            "target": str(SCALING_TARGET),
        },
        "ports": {
            "grpc": ports.grpc,
            "http": ports.http,
            "metrics": ports.metrics,
            "health": HEALTH_PORT,
        },
        "start_timeout_s": int(START_TIMEOUT_S),
        "drain_timeout_s": DRAIN_TIMEOUT_S,
        "exit_timeout_s": int(EXIT_TIMEOUT_S),
        "restrictions": list(restrictions(KEY_PLACEHOLDER, None)),
        "token_restrictions": list(restrictions(KEY_PLACEHOLDER, TOKEN_PLACEHOLDER))[
            1:
        ],
    }


def _target_figures(target: str) -> dict[str, dict[str, int]]:
    return {
        name: _process_figures(declaration, target)
        for name, declaration in catalogue().items()
        if isinstance(declaration, Network | PythonModel)
    }


def _process_figures(declaration: Network | PythonModel, target: str) -> dict[str, int]:
    """Return the figures of one process of a model, and how many processes it has."""
    one, two = (count_instances(declaration, target, cores) for cores in (1, 2))
    weights_bytes = 0
    if target == "cpu" and isinstance(declaration, Model):
        # the file may not be built here; FP32 is the largest precision
        weights_bytes = FP32_BYTES * declaration.summary.parameter_count
    return {
        "fixed": one - (two - one),
        "per_core": two - one,
        "reserved_bytes": instance_shm_bytes([declaration], target),
        "request_bytes": request_shm_bytes(declaration),
        "pool_bytes": cuda_pool_bytes([declaration], target),
        "process_bytes": process_bytes(weights_bytes),
    }
