"""The built files of a model, as their records describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from builders.repository.layout import ONNX_FILE, PLAN_FILE, Repository
from builders.repository.versions import list_versions

AGES = ((86_400, "d"), (3600, "h"), (60, "min"))
"""Units of an age, the largest first: seconds, and the symbol."""

DIGEST_DIGITS = 8


@dataclass(frozen=True)
class BuiltFile:
    """A built file of a model.

    Attributes:
        version: Number of its version folder; servers load the largest.
        target: Target that it was built for: cpu, tensorrt or rtx.
        precision: Precision that it was built in.
        runtime: Runtime that executes it.
        weights: Its weights in a few words.
        age: Time since it was built, for example "3 h".
    """

    version: int
    target: str
    precision: str
    runtime: str
    weights: str
    age: str


def list_built_files(
    repository: Repository, model: str, now: datetime | None = None
) -> list[BuiltFile]:
    """Return the built files of a model, those of the newest version first.

    Args:
        repository: Repository of the model.
        model: Name of the model.
        now: Time that ages are relative to; None for the present.
    """
    now = now or datetime.now(timezone.utc)
    built = []
    for version in reversed(list_versions(repository.folder(model))):
        for file in (ONNX_FILE, PLAN_FILE):
            record = repository.record(repository.artefact_path(model, file, version))
            if record is not None:
                built.append(_describe_file(version, record, now))
    return built


def _describe_file(version: int, record: Mapping[str, Any], now: datetime) -> BuiltFile:
    runtime, target = record.get("runtime", ""), "cpu"
    if "library" in record:
        runtime = f"{record['library']} {record['version']}"
        target = "rtx" if record["library"] == "TensorRT-RTX" else "tensorrt"
    built = record.get("built")
    seconds = (now - datetime.fromisoformat(built)).total_seconds() if built else None
    return BuiltFile(
        version,
        target,
        record.get("precision", "fp32"),
        runtime,
        shorten_weights(record["inputs"]["weights"]),
        "-" if seconds is None else format_age(seconds),
    )


def shorten_weights(origin: str) -> str:
    """Return the origin of weights in a few words.

    Args:
        origin: The origin as text, for example "gender.pth, sha256 <64 digits>".
    """
    name, _, digest = origin.partition(", sha256 ")
    return f"{name} {digest[:DIGEST_DIGITS]}" if digest else name.partition(",")[0]


def format_age(seconds: float) -> str:
    """Return an age in its largest unit, for example "3 h".

    Args:
        seconds: The age.
    """
    for size, symbol in AGES:
        if seconds >= size:
            return f"{seconds // size:.0f} {symbol}"
    return "now"
