"""Problems of plans: another GPU, TensorRT, declaration, or no verification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from builders.doctor.problem import Problem
from builders.repository.layout import PLAN_FILE, Repository
from builders.spec.model import Network
from builders.tensorrt.engine import Engine, EngineError, current_gpu
from builders.tensorrt.library import MODULES, Target

CONTAINERS: dict[str, str] = {
    **{f"23.{month:02}": "8.6.1" for month in range(4, 11)},
    "26.03": "10.16",
    "26.04": "10.16",
    "26.05": "10.16.1.11",
    "26.06": "11.0.0.114",
    "26.07": "11.1.0.106",
    "26.08": "11.2.1.2",
}
"""TensorRT versions of NVIDIA's tritonserver containers by month, where confirmed."""


def find_plan_problems(
    model: Network, repository: Repository, container: str | None
) -> Iterator[Problem]:
    """Find out whether a model's plan would load and answer correctly.

    Args:
        model: Model to check.
        repository: Repository that it is in.
        container: Month of the container that would load it; None for this machine.

    Yields:
        Problems of the plan; none if there is no plan.
    """
    path = repository.artefact_path(model.name, PLAN_FILE)
    record = repository.record(path) if path.exists() else None
    if record is None:
        return
    subject = f"{model.name}/{PLAN_FILE}"
    if container is not None:
        yield from _check_container(
            subject, record["library"], record["version"], container
        )
    else:
        yield from _check_machine(subject, record, path.read_bytes())
    yield from _check_declaration(subject, model, record)
    parity = record["parity"]
    if parity is None:
        yield Problem(
            subject,
            "was never compared with the reference",
            f"python -m builders verify {model.name} --target tensorrt",
            "warning",
        )
    elif not all(comparison["passed"] for comparison in parity):
        yield Problem(
            subject,
            "is outside the model's tolerance",
            f"see {PLAN_FILE}.json, and build with a higher precision",
        )


def _check_declaration(
    subject: str, model: Network, record: Mapping[str, Any]
) -> Iterator[Problem]:
    declared = {
        t.name: [t.data_type, *t.shape] for t in (*model.inputs, *model.output_tensors)
    }
    if record["tensors"] != declared:
        yield Problem(
            subject,
            f"has tensors {record['tensors']}, and the declaration has {declared}",
            "build it again",
        )
    if record["profile"][2] != model.batching.max_batch_size:
        yield Problem(
            subject,
            f"takes batches up to {record['profile'][2]}, the config says "
            f"{model.batching.max_batch_size}",
            "build it again",
        )


def _check_container(
    subject: str, library: str, version: str, container: str
) -> Iterator[Problem]:
    container_version = CONTAINERS[container]
    if library == "TensorRT-RTX":
        yield Problem(
            subject,
            f"is a {library} plan, which no Triton container loads",
            "serve it with --target rtx, or build with --target tensorrt",
        )
    elif not f"{version}.".startswith(f"{container_version}."):
        suitable = [
            m for m, v in CONTAINERS.items() if f"{version}.".startswith(f"{v}.")
        ]
        alternative = f"use container {suitable[-1]}, or " if suitable else ""
        yield Problem(
            subject,
            f"was built by TensorRT {version}, and container {container} has "
            f"{container_version}",
            f"{alternative}build it inside that container",
        )


def _check_machine(
    subject: str, record: Mapping[str, Any], plan: bytes
) -> Iterator[Problem]:
    gpu = current_gpu()
    if gpu is None:
        yield Problem(
            subject,
            "cannot run here: no NVIDIA GPU",
            "serve the cpu target, or move to a machine with "
            f"{' or '.join(record['gpus'])}",
            "warning",
        )
    elif gpu.capability not in record["gpus"]:
        yield Problem(
            subject,
            f"was built for {', '.join(record['gpus'])}, and this {gpu.name} is "
            f"{gpu.capability}",
            "build it on this machine: one plan per GPU type",
        )
    else:
        yield from _check_library(subject, record["library"], record["version"], plan)


def _check_library(
    subject: str, library: str, version: str, plan: bytes
) -> Iterator[Problem]:
    target: Target = "rtx" if library == "TensorRT-RTX" else "tensorrt"
    try:
        trt = import_module(MODULES[target])
    except (ImportError, OSError):
        yield Problem(
            subject,
            f"was built by {library} {version}, which is not installed",
            f'pip install -e ".[{target}]", in that version',
        )
        return
    if version != trt.__version__:
        yield Problem(
            subject,
            f"was built by {library} {version}, and {trt.__version__} is installed",
            "install that version, or build it again",
        )
        return
    try:
        Engine(trt, plan).close()
    except EngineError as exc:
        yield Problem(subject, str(exc), "build it again")
