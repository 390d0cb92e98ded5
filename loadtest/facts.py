"""Facts for a report: machine, server, models, runtimes and precisions."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loadtest.errors import LoadTestError
from loadtest.machine import find_listening_process, machine_name
from loadtest.server import (
    ensemble_steps,
    get_config,
    get_json,
    get_served_version,
)

WEIGHTS = "weights"
"""Name of the fact that charts repeat."""

REPOSITORY_OPTION = "--model-repository="


@dataclass(frozen=True)
class ServedModel:
    """How a server runs a model, for a report.

    Attributes:
        summary: Platform, file, instances, weights, and how the file was built.
        runtime: Library that executes the file, "" where unknown. Several runtimes of
            an ensemble are joined with "+".
        precision: Precision of the file, likewise.
        weights: Origin of the weights by network; several for an ensemble.
    """

    summary: str
    runtime: str = ""
    precision: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)


def describe_session(label: str = "") -> dict[str, str]:
    """Return the date and the machine that a load test runs on.

    Args:
        label: A note by the user, left out where empty.
    """
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "client": f"{machine_name()}, Python {platform.python_version()}",
    }
    return facts | ({"label": label} if label else {})


def describe_server(
    address: str, http: str, models: Mapping[str, ServedModel]
) -> dict[str, str]:
    """Return the server's version and one line for each model.

    Args:
        address: Address that the load goes to.
        http: HTTP address, host:port.
        models: The models under load (describe_models).
    """
    try:
        version = get_json(http, "v2").get("version", "unknown")
    except LoadTestError as exc:
        return {"server": f"{address} (version and models unknown: {exc})"}
    server = {"server": f"Triton {version} at {address}"}
    return server | {name: model.summary for name, model in models.items()}


def describe_models(http: str, names: Iterable[str]) -> dict[str, ServedModel]:
    """Return how the server runs each model; empty if HTTP is unreachable.

    Args:
        http: HTTP address, host:port.
        names: Names of the models.
    """
    try:
        return {name: _describe_model(http, name) for name in names}
    except LoadTestError:
        return {}


def describe_weights(models: Iterable[ServedModel]) -> dict[str, str]:
    """Return a fact that names the weights of all networks, or {} without any.

    Args:
        models: The models under load (describe_models).
    """
    origins = {n: origin for model in models for n, origin in model.weights.items()}
    text = "; ".join(f"{name} {origin}" for name, origin in origins.items())
    return {WEIGHTS: text} if text else {}


def _describe_model(http: str, name: str) -> ServedModel:
    config = get_config(http, name)
    steps = ensemble_steps(config)
    if steps:
        parts = [_describe_model(http, step) for step in steps]
        return ServedModel(
            f"ensemble of {', '.join(steps)}",
            _join_distinct(part.runtime for part in parts),
            _join_distinct(part.precision for part in parts),
            {name: origin for p in parts for name, origin in p.weights.items()},
        )
    weights = config.get("parameters", {}).get("weights", {}).get("string_value")
    kind = config.get("platform") or config.get("backend") or "unknown"
    instances = sum(int(group.get("count", 1)) for group in config["instance_group"])
    file = config.get("default_model_filename", "")
    record = _read_record(http, config)
    words = [f"{kind} {file}".strip(), f"{instances} instances"]
    words += [f"weights: {weights}"] if weights else []
    words += [
        record[key] for key in ("runtime", "library", "precision") if key in record
    ]
    return ServedModel(
        ", ".join(words),
        record.get("runtime", record.get("library", "")),
        record.get("precision", ""),
        {name: weights} if weights else {},
    )


def _join_distinct(words: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(word for word in words if word))


def _read_record(http: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the record beside a local server's artefact, or {} if unreadable."""
    file = config.get("default_model_filename", "")
    # the Python backend's files for plans and for ONNX name what they run
    artefact = "model.plan" if "plan" in file else "model.onnx"
    try:
        command = find_listening_process(http).cmdline()
        option = next(word for word in command if word.startswith(REPOSITORY_OPTION))
        model = config["name"]
        version = get_served_version(http, model)
        folder = Path(option.partition("=")[2]) / model / version
        record = json.loads((folder / f"{artefact}.json").read_text(encoding="utf-8"))
    except (LoadTestError, StopIteration, OSError, ValueError, psutil.Error):
        return {}  # a server on another machine, or of another user
    return {key: value for key, value in record.items() if isinstance(value, str)}
