"""Verification: what was built, run, judged, and that written into its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builders.build import ONNX_FILE, PLAN_FILE
from builders.check import Check, Measure, VerificationError, measures
from builders.parity import Runner, onnx_runner
from builders.repository import Repository
from builders.runtimes.cpu_session import OPENVINO
from builders.spec import Model
from builders.tensorrt.engine import Engine
from builders.tensorrt.library import library_called


def verify_built(
    model: Model,
    repository: Repository,
    target: str,
    precision: str | None,
    check: Check,
) -> list[Measure]:
    """Run what was built of `model`, judge it, and write that into its record.

    Raises VerificationError where there is nothing to judge: not built, of another
    precision than `precision`, or from other weights than the check.
    """
    path, record = _built(model, repository, target)
    built = record.get("precision", "fp32")
    if precision not in {None, built}:
        raise VerificationError(
            f"{path.name} of {model.name} is {built}, not {precision}; build that first"
        )
    if record["inputs"]["weights"] != check.origin:
        raise VerificationError(
            f"{path.name} was built from {record['inputs']['weights']}, the reference "
            f"from {check.origin}"
        )
    found = measures(model, check, _runner(path, record, target), target, built)
    record["parity"] = [asdict(measure) for measure in found]
    repository.write_record(path, record)
    if all(measure.passed for measure in found):
        what = f"{target} {built}"
        if record.get("runtime") == OPENVINO:
            what += " openvino"
        repository.add_verification(model.name, what, _verification(record))
    return found


def _verification(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a verification that passed, wherever it was made."""
    if "library" in record:
        by = f"{record['library']} {record['version']}"
    elif record.get("runtime") == OPENVINO:
        by = f"OpenVINO {version('openvino')}"
    else:
        by = f"ONNX Runtime {version('onnxruntime')}"
    return {
        "by": by,
        "gpu": record.get("gpu_name"),
        "weights": record["inputs"]["weights"],
        "date": datetime.now(timezone.utc).date().isoformat(),
        "parity": record["parity"],
    }


def built_runner(
    model: Model, repository: Repository, target: str
) -> tuple[Runner, Mapping[str, Any]]:
    """What was built of `model`, ready to run, and its record.

    Raises VerificationError where it is not built, EngineError where it cannot run.
    """
    path, record = _built(model, repository, target)
    return _runner(path, record, target), record


def _built(
    model: Model, repository: Repository, target: str
) -> tuple[Path, dict[str, Any]]:
    path = repository.built(model.name, ONNX_FILE if target == "cpu" else PLAN_FILE)
    record = repository.record(path)
    if record is None:
        raise VerificationError(
            f"{path} is not there, or is not the file that its record describes; "
            f"python -m builders build --target {target} {model.name}"
        )
    return path, record


def _runner(path: Path, record: Mapping[str, Any], target: str) -> Runner:
    if target == "cpu":
        return onnx_runner(str(path), record)
    return Engine(library_called(record["library"]).trt, path.read_bytes())
