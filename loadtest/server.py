"""What a running Triton server says of itself: its models, where requests spent their
time, and what it used of the machine.
"""

from __future__ import annotations

import json
import platform
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from loadtest.machine import listening_at, machine_name

REPOSITORY = "--model-repository="

RECORDS = {
    "cpu_model.py": "model.onnx.json",
    "model.onnx": "model.onnx.json",
    "plan_model.py": "model.plan.json",
    "model.plan": "model.plan.json",
}
"""The record beside what a target runs."""

SAMPLE_S = 0.5
ASK_TIMEOUT_S, LOAD_TIMEOUT_S = 5, 300

USES = ("nv_cpu_utilization", "nv_gpu_utilization")

PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class Spent:
    """So many requests, and their mean ms in the server: waiting, computing, in all."""

    requests: int
    queue_ms: float
    compute_ms: float
    total_ms: float


class Statistics:
    """The statistics of `models` since this was made, an ensemble's steps included.
    Raises OSError where no server answers.
    """

    def __init__(self, http: str, models: Iterable[str]) -> None:
        self._http = http
        self._steps = {
            name: _steps(got(http, f"v2/models/{name}/config")) for name in models
        }
        self._before = self._counts()

    def spent(self, model: str) -> Spent | None:
        """Where `model`'s requests were; None where it had none. Of an ensemble the
        steps added up, as if none ran beside another.
        """
        now = self._counts()
        requests, total_ms = self._mean(now, model, ("success",))
        if not requests:
            return None
        steps = self._steps[model] or (model,)
        return Spent(
            requests,
            sum(self._mean(now, step, PARTS[:1])[1] for step in steps),
            sum(self._mean(now, step, PARTS[1:])[1] for step in steps),
            total_ms,
        )

    def _mean(
        self, now: Mapping[str, Any], model: str, parts: Sequence[str]
    ) -> tuple[int, float]:
        """Requests, and their mean ms in `parts`."""
        before, after = self._before[model], now[model]
        requests = after["success"]["count"] - before["success"]["count"]
        ns = sum(after[part]["ns"] - before[part]["ns"] for part in parts)
        return requests, ns / 1e6 / max(1, requests)

    def _counts(self) -> dict[str, Any]:
        names = {name for own in self._steps.items() for name in (own[0], *own[1])}
        found = {}
        for name in names:
            (stats,) = got(self._http, f"v2/models/{name}/stats")["model_stats"]
            found[name] = {
                part: stats["inference_stats"][part] for part in ("success", *PARTS)
            }
        return found


def _steps(config: Mapping[str, Any]) -> tuple[str, ...]:
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return tuple(step["model_name"] for step in steps)


@contextmanager
def used(metrics: str) -> Iterator[dict[str, list[float]]]:
    """CPU and GPU use while inside (0 to 1), as the server's metrics tell it."""
    found: dict[str, list[float]] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            try:
                text = _text(metrics, "metrics")
            except OSError:
                return
            for line in text.splitlines():
                name = line.partition("{")[0].partition(" ")[0]
                if name in USES:
                    found.setdefault(name, []).append(float(line.rpartition(" ")[2]))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def facts(address: str, http: str, models: Iterable[str], label: str) -> dict[str, str]:
    """Where and with what, for a report."""
    found = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "client": f"{machine_name()}, Python {platform.python_version()}",
    }
    try:
        version = got(http, "v2").get("version", "unknown")
        found["server"] = f"Triton {version} at {address}"
        for name in models:
            config = got(http, f"v2/models/{name}/config")
            found[name] = ", ".join([_described(config), *_built(http, config)])
    except OSError:
        found["server"] = f"{address}; http://{http} does not say more"
    return found | ({"label": label} if label else {})


def _described(config: Mapping[str, Any]) -> str:
    """Target, instances and weights of a model."""
    parameters = config.get("parameters", {})
    weights = parameters.get("weights", {}).get("string_value", "several")
    steps = _steps(config)
    if steps:
        return f"ensemble of {', '.join(steps)}"
    kind = config.get("platform") or config.get("backend") or "unknown"
    count = sum(int(group.get("count", 1)) for group in config["instance_group"])
    file = config.get("default_model_filename", "")
    return f"{kind} {file}, {count} instances, weights: {weights}"


def _built(http: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Runtime and precision, by the record beside what a local server runs."""
    record = RECORDS.get(config.get("default_model_filename", ""))
    if record is None:
        return
    try:
        command = listening_at(http).cmdline()
        root = next(w for w in command if w.startswith(REPOSITORY)).partition("=")[2]
        path = Path(root) / config["name"] / "1" / record
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (LookupError, StopIteration, OSError, ValueError, psutil.Error):
        return  # another machine's, or another user's
    for key in ("runtime", "library", "precision"):
        if key in facts:
            yield str(facts[key])


def got(http: str, path: str, content: object = None) -> dict[str, Any]:
    """JSON from Triton's HTTP endpoint, `content` being posted. Raises OSError."""
    body = None if content is None else json.dumps(content).encode()
    try:
        found: dict[str, Any] = json.loads(_text(http, path, body) or "{}")
    except ValueError as exc:
        raise OSError(f"http://{http}/{path} is not JSON: {exc}") from exc
    return found


def _text(address: str, path: str, body: bytes | None = None) -> str:
    # a proxy is not meant for servers of our own; loading a model takes its time
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    timeout_s = ASK_TIMEOUT_S if body is None else LOAD_TIMEOUT_S
    with opener.open(f"http://{address}/{path}", body, timeout=timeout_s) as reply:
        text: str = reply.read().decode()
        return text
