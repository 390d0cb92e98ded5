"""Triton's HTTP endpoints: model configuration, statistics and metrics."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from loadtest.errors import LoadTestError
from personserve.internal.access import access_headers

SAMPLE_INTERVAL_S = 0.5
REQUEST_TIMEOUT_S, LOAD_TIMEOUT_S = 5, 300
MAX_RESPONSE_BYTES = 64 << 20

CPU_METRIC, GPU_METRIC = "nv_cpu_utilization", "nv_gpu_utilization"

QUEUE = ("queue",)
COMPUTE = ("compute_input", "compute_infer", "compute_output")


def get_json(http: str, path: str) -> dict[str, Any]:
    """Return the JSON object at a path of Triton's HTTP endpoint.

    Args:
        http: Address, host:port.
        path: Path without the leading slash, for example "v2/models/NAME/config".

    Raises:
        LoadTestError: If the server is unreachable, refuses, or does not send JSON.
    """
    return _json_from_text(http, path, _fetch_text(http, path))


def post_json(http: str, path: str, content: object) -> dict[str, Any]:
    """Post a JSON value to Triton's HTTP endpoint and return the response.

    Args:
        http: Address, host:port.
        path: Path without the leading slash.
        content: A value that json.dumps accepts.

    Raises:
        LoadTestError: If the server is unreachable, refuses, or does not send JSON.
    """
    body = json.dumps(content).encode()
    return _json_from_text(http, path, _fetch_text(http, path, body))


def get_config(http: str, model: str) -> dict[str, Any]:
    """Return the configuration that the server runs a model with.

    Args:
        http: Address, host:port.
        model: Name of the model.

    Raises:
        LoadTestError: If the server is unreachable or does not know the model.
    """
    return get_json(http, f"v2/models/{model}/config")


def get_served_version(http: str, model: str) -> str:
    """Return the version of a model that answers requests.

    Args:
        http: Address, host:port.
        model: Name of the model.

    Raises:
        LoadTestError: If the server is unreachable or does not know the model.
    """
    versions: list[str] = get_json(http, f"v2/models/{model}")["versions"]
    return max(versions, key=int)


def ensemble_steps(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the models that an ensemble joins, empty for any other model.

    Args:
        config: The model's configuration (get_config).
    """
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return tuple(step["model_name"] for step in steps)


def model_by_output(config: Mapping[str, Any]) -> dict[str, str]:
    """Return {tensor: model} for all tensors that an ensemble's steps produce.

    Args:
        config: The ensemble's configuration (get_config).
    """
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return {
        tensor: step["model_name"]
        for step in steps
        for tensor in step["output_map"].values()
    }


@dataclass(frozen=True)
class ServerTimes:
    """Mean times of a model's requests inside the server.

    Attributes:
        requests: Number of successful requests.
        queue_ms: Mean time in queues, in ms.
        compute_ms: Mean time in the backend, copies included, in ms.
        total_ms: Mean time from receipt to response, in ms.
    """

    requests: int
    queue_ms: float
    compute_ms: float
    total_ms: float


class Statistics:
    """Statistics of models, and of an ensemble's steps, since this object was made."""

    def __init__(self, http: str, models: Iterable[str]) -> None:
        """Read the counters to start from.

        Args:
            http: Address, host:port.
            models: Names of the models.

        Raises:
            LoadTestError: If the server is unreachable or does not know a model.
        """
        self._http = http
        self._steps = {name: ensemble_steps(get_config(http, name)) for name in models}
        self._before = self._read_counters()

    def times(self, model: str) -> ServerTimes | None:
        """Return the mean times of `model`'s requests, or None if it had none.

        An ensemble's queue and compute times are the sums over its steps, as if no two
        steps ran at the same time.

        Args:
            model: One of the models given at the start.

        Raises:
            LoadTestError: If the server is no longer reachable.
        """
        now = self._read_counters()
        requests, total_ms = self._mean_ms(now, model, ("success",))
        if not requests:
            return None
        steps = self._steps[model] or (model,)
        return ServerTimes(
            requests,
            sum(self._mean_ms(now, step, QUEUE)[1] for step in steps),
            sum(self._mean_ms(now, step, COMPUTE)[1] for step in steps),
            total_ms,
        )

    def _mean_ms(
        self, now: Mapping[str, Any], model: str, parts: Sequence[str]
    ) -> tuple[int, float]:
        """Return the number of requests and their mean ms in `parts`."""
        before, after = self._before[model], now[model]
        requests = after["success"]["count"] - before["success"]["count"]
        ns = sum(after[part]["ns"] - before[part]["ns"] for part in parts)
        return requests, ns / 1e6 / max(1, requests)

    def _read_counters(self) -> dict[str, Any]:
        names = {
            name for model, steps in self._steps.items() for name in (model, *steps)
        }
        counters = {}
        for name in names:
            answer = get_json(self._http, f"v2/models/{name}/stats")
            (statistics,) = answer["model_stats"]
            counters[name] = statistics["inference_stats"]
        return counters


@contextmanager
def sample_utilisation(metrics: str) -> Iterator[dict[str, list[float]]]:
    """Sample CPU and GPU utilisation (0 to 1) until the block ends.

    Args:
        metrics: Address of the metrics endpoint, host:port; empty to sample nothing.

    Yields:
        {metric name: samples}, growing while the block runs.

    Raises:
        LoadTestError: If the metrics endpoint is unreachable at the start.
    """
    samples: dict[str, list[float]] = {}
    if not metrics:
        yield samples
        return
    check_metrics(metrics)
    stop = threading.Event()
    sampler = threading.Thread(
        target=_sample_until, args=(stop, metrics, samples), daemon=True
    )
    sampler.start()
    try:
        yield samples
    finally:
        stop.set()
        sampler.join()


def check_metrics(metrics: str) -> None:
    """Check that the metrics endpoint answers.

    Args:
        metrics: Address, host:port; empty where utilisation is not wanted.

    Raises:
        LoadTestError: If it does not answer.
    """
    if not metrics:
        return
    try:
        _fetch_text(metrics, "metrics")
    except LoadTestError as exc:
        raise LoadTestError(
            f"no metrics at http://{metrics}, which CPU and GPU utilisation come from: "
            'set --metrics to the metrics address, or pass --metrics "" to leave '
            "utilisation out"
        ) from exc


def _sample_until(
    stop: threading.Event, metrics: str, samples: dict[str, list[float]]
) -> None:
    while not stop.wait(SAMPLE_INTERVAL_S):
        try:
            text = _fetch_text(metrics, "metrics")
        except LoadTestError:
            return  # the server was stopped meanwhile; the load reports that
        for line in text.splitlines():
            name = line.partition("{")[0].partition(" ")[0]
            if name in {CPU_METRIC, GPU_METRIC}:
                samples.setdefault(name, []).append(float(line.rpartition(" ")[2]))


def _json_from_text(http: str, path: str, text: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(text or "{}")
    except (ValueError, RecursionError) as exc:
        raise LoadTestError(f"http://{http}/{path} is not JSON: {exc}") from exc
    return answer


def local_access_headers(address: str, *, is_grpc: bool = False) -> dict[str, str]:
    """Return the headers for the restricted endpoints of a server on this machine.

    Args:
        address: Address of the server, host:port.
        is_grpc: Whether that port speaks gRPC.

    Returns:
        One header, or none for another machine or an unknown server.
    """
    host, _, port = address.rpartition(":")
    return access_headers(host, int(port), is_grpc=is_grpc) if port.isdecimal() else {}


def _read_bounded(response: Any, timeout_s: float) -> bytes:
    deadline, data = time.monotonic() + timeout_s, bytearray()
    while piece := response.read1(1 << 16):
        data += piece
        if len(data) > MAX_RESPONSE_BYTES or time.monotonic() > deadline:
            raise OSError(f"more than {MAX_RESPONSE_BYTES:,} bytes or {timeout_s} s")
    return bytes(data)


def _fetch_text(address: str, path: str, body: bytes | None = None) -> str:
    # the servers under test are local or on a trusted network: no proxy
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    timeout_s = REQUEST_TIMEOUT_S if body is None else LOAD_TIMEOUT_S
    url = f"http://{address}/{path}"
    try:
        request = urllib.request.Request(url, body, local_access_headers(address))
        with opener.open(request, timeout=timeout_s) as response:
            return _read_bounded(response, timeout_s).decode()
    except urllib.error.HTTPError as exc:
        words = exc.read(500).decode(errors="replace")
        raise LoadTestError(f"{url}: HTTP {exc.code}: {words}") from exc
    # ValueError: an address that is no URL, or bytes that are no text
    except (OSError, HTTPException, ValueError) as exc:
        raise LoadTestError(
            f"no Triton server answers at http://{address}: "
            f"{getattr(exc, 'reason', exc)}. Start it: python -m builders serve --http"
        ) from exc
