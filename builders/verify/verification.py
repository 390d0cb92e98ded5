"""Verification of built files: run, compare, and record the result.

The result goes into the artefact's record. Publishing copies it to
builders/verify/verified/<model>.json, which is committed and shown in the README.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from builders.repository.layout import ARTEFACTS, Repository
from builders.repository.runtimes.cpu_session import OPENVINO
from builders.repository.verified import VERIFIED, write_verified
from builders.spec.model import Network
from builders.tensorrt.library import library_from_name
from builders.verify.comparison import Comparison, compare_outputs
from builders.verify.inputs import Runner, onnx_runner
from builders.verify.reference import ReferenceAnswers, VerificationError


def verify_artefact(
    model: Network,
    repository: Repository,
    target: str,
    precision: str | None,
    reference: ReferenceAnswers,
) -> list[Comparison]:
    """Run a built file, compare it with reference answers, and record the result.

    Args:
        model: Network whose artefact is verified.
        repository: Repository that holds the artefact.
        target: Target that it was built for: cpu, tensorrt or rtx.
        precision: Precision that it must have; any if None.
        reference: Inputs and expected answers, from the same weights.

    Returns:
        One comparison per output.

    Raises:
        VerificationError: Nothing is built, it has another precision or other
            weights, or the reference is of another model.
        RunnerError: The runtime of the cpu target is not installed.
        PlanError: TensorRT is not installed, or cannot load the plan here.
    """
    path, record = _read_artefact(model, repository, target)
    built_precision = record.get("precision", "fp32")
    if precision not in {None, built_precision}:
        raise VerificationError(
            f"{path.name} of {model.name} is {built_precision}, not {precision}; "
            "build that first"
        )
    if record["inputs"]["weights"] != reference.origin:
        weights = record["inputs"]["weights"]
        raise VerificationError(
            f"{path.name} was built from {weights}, the reference from "
            f"{reference.origin}"
        )
    _require_tensors(model, reference)
    run = _open_runner(path, record, target)
    comparisons = compare_outputs(model, reference, run, target, built_precision)
    record["parity"] = [asdict(comparison) for comparison in comparisons]
    record["verified"] = datetime.now(timezone.utc).date().isoformat()
    repository.write_record(path, record)
    return comparisons


def publish_verification(
    model: Network, repository: Repository, target: str, folder: Path = VERIFIED
) -> Path:
    """Copy the recorded result of a verification that passed to a committed file.

    Args:
        model: Network whose artefact was verified.
        repository: Repository that holds the artefact.
        target: Target that it was built for: cpu, tensorrt or rtx.
        folder: Folder of published results.

    Returns:
        The file that was written.

    Raises:
        VerificationError: The artefact was not verified, or did not pass.
    """
    path, record = _read_artefact(model, repository, target)
    parity = record.get("parity")
    if not parity or not all(comparison["passed"] for comparison in parity):
        raise VerificationError(
            f"{path} has not passed verification, so there is nothing to publish; "
            f"python -m builders verify {model.name} --target {target}"
        )
    key = f"{target} {record.get('precision', 'fp32')}"
    if record.get("runtime") == OPENVINO:
        key += " openvino"
    facts = {
        "by": _runtime_name(record),
        "gpu": record.get("gpu_name"),
        "weights": record["inputs"]["weights"],
        "date": record["verified"],
        "parity": parity,
    }
    return write_verified(model.name, key, facts, folder)


def open_artefact(
    model: Network, repository: Repository, target: str
) -> tuple[Runner, Mapping[str, Any]]:
    """Return a runner of a built file, and its record.

    Args:
        model: Network whose artefact is opened.
        repository: Repository that holds the artefact.
        target: Target that it was built for: cpu, tensorrt or rtx.

    Raises:
        VerificationError: Nothing is built.
        RunnerError: The runtime of the cpu target is not installed.
        PlanError: TensorRT is not installed, or cannot load the plan here.
    """
    path, record = _read_artefact(model, repository, target)
    return _open_runner(path, record, target), record


def _read_artefact(
    model: Network, repository: Repository, target: str
) -> tuple[Path, dict[str, Any]]:
    path = repository.artefact_path(model.name, ARTEFACTS[target])
    record = repository.record(path)
    if record is None:
        raise VerificationError(
            f"{path} does not exist, or is not the file that its record describes; "
            f"python -m builders build --target {target} {model.name}"
        )
    return path, record


def _require_tensors(model: Network, reference: ReferenceAnswers) -> None:
    inputs = {tensor.name: tensor.shape for tensor in model.inputs}
    given = {
        # a dimension that varies is of any size
        name: tuple(
            -1 if declared == -1 else size
            for size, declared in zip_longest(array.shape[1:], inputs.get(name, ()))
        )
        for name, array in reference.inputs.items()
    }
    outputs = {output.name for output in model.outputs}
    given_outputs = sorted(reference.answers)
    if inputs != given or outputs != set(given_outputs):
        raise VerificationError(
            f"the reference has inputs {given} and outputs {given_outputs}, but "
            f"{model.name} has inputs {inputs} and outputs {sorted(outputs)}; write "
            f"one with python -m builders reference {model.name} --output FILE"
        )


def _open_runner(path: Path, record: Mapping[str, Any], target: str) -> Runner:
    if target == "cpu":
        return onnx_runner(str(path), record)
    return library_from_name(record["library"]).load_engine(path.read_bytes())


def _runtime_name(record: Mapping[str, Any]) -> str:
    if "library" in record:
        return f"{record['library']} {record['version']}"
    if record.get("runtime") == OPENVINO:
        return f"OpenVINO {version('openvino')}"
    return f"ONNX Runtime {version('onnxruntime')}"
