"""Problems of built files: missing, damaged, or built from other weights or code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builders.build.digest import GraphFormat, graph_digest
from builders.build.plan import plan_format
from builders.doctor.deployment import Deployment
from builders.doctor.problem import Problem, Severity
from builders.repository.layout import ARTEFACTS, ONNX_FILE, PLAN_FILE, Repository
from builders.spec.catalogue import networks
from builders.spec.model import Network
from builders.weights.published import fetch_command

FILE_TARGETS: Mapping[str, str] = {ONNX_FILE: "cpu", PLAN_FILE: "tensorrt"}
"""Target to build for a missing file."""


def find_missing_files(deployment: Deployment, target: str | None) -> Iterator[Problem]:
    """Find models that lack the file that they must have.

    Args:
        deployment: What is deployed.
        target: Target that every model must have its file for; None requires a file
            of any target, of models that were named.

    Yields:
        An error per file name, or one if nothing is built.
    """
    repository = deployment.repository
    if target is not None:
        networks = [*deployment.networks, *deployment.not_built]
        missing = _lacking(networks, repository, ARTEFACTS[target])
        if missing:
            yield _describe_missing(ARTEFACTS[target], target, missing, "error")
        return
    unbuilt = [
        model.name
        for model in deployment.networks
        if not any(_has(repository, model.name, file) for file in FILE_TARGETS)
    ]
    if unbuilt:
        yield _describe_missing(ONNX_FILE, FILE_TARGETS[ONNX_FILE], unbuilt, "error")
    if not deployment.networks:
        yield Problem(
            str(repository.root), "no model is built", "run python -m builders build"
        )


def find_unbuilt_models(
    deployment: Deployment, target: str | None
) -> Iterator[Problem]:
    """Find models with a config and without the file of a target that others have.

    A stock tritonserver that loads the whole repository ends with an error at the
    first of them; `serve` and a server that loads models by name do not.

    Args:
        deployment: What is deployed.
        target: Target whose missing files are errors already; None for none.

    Yields:
        A warning per file name that some models have and others lack.
    """
    if target is not None or deployment.is_named:
        return
    repository = deployment.repository
    networks = [*deployment.networks, *deployment.not_built]
    for file, file_target in FILE_TARGETS.items():
        missing = _lacking(networks, repository, file)
        if missing and len(missing) < len(networks):
            yield _describe_missing(file, file_target, sorted(missing), "warning")


def _describe_missing(
    file: str, target: str, models: Sequence[str], severity: Severity
) -> Problem:
    fetched = [m for m in networks(models) if m.source.weights and target == "cpu"]
    fetch = "".join(f"{fetch_command(model)}; " for model in fetched)
    return Problem(
        f"{file} of {', '.join(models)}",
        f"does not exist, so target {target} cannot load these models",
        f"{fetch}python -m builders build --target {target} MODEL, or load the other "
        "models by name (--model-control-mode=explicit)",
        severity,
    )


def _lacking(
    networks: Sequence[Network], repository: Repository, file: str
) -> list[str]:
    names = [model.name for model in networks]
    return [name for name in names if not _has(repository, name, file)]


def _has(repository: Repository, model: str, file: str) -> bool:
    return repository.artefact_path(model, file).is_file()


def find_artefact_problems(model: Network, repository: Repository) -> Iterator[Problem]:
    """Find built files of a model that do not fit their record, weights or code.

    Args:
        model: Model to check.
        repository: Repository that it is in.

    Yields:
        At most one problem per built file.
    """
    origin = repository.origin(model.name)
    for file in FILE_TARGETS:
        path = repository.artefact_path(model.name, file)
        if not path.exists():
            continue
        record = repository.record(path)
        if record is None:
            fault = "has no record, or was changed after it was built"
        elif record["inputs"]["weights"] != str(origin):
            fault = (
                f"was built from {record['inputs']['weights']}, and the config says "
                f"{origin}"
            )
        elif record["inputs"]["graph"] != graph_digest(
            model, origin, _graph_format(model, file, record)
        ):
            fault = "was built by other code or from another declaration"
        else:
            continue
        yield Problem(f"{model.name}/{file}", fault, "build it again")


def _graph_format(model: Network, file: str, record: Mapping[str, Any]) -> GraphFormat:
    if file == ONNX_FILE:
        return "onnx"
    return plan_format(model, from_onnx=record["inputs"].get("from_onnx", False))
