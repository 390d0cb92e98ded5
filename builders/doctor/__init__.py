"""Doctor: problems of a repository that would otherwise show when it is served.

Reads records and configs of the deployed models. Looks at this machine (its GPU,
TensorRT and Python packages) or at a container instead, and at a running server if
its address is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builders.doctor.artefacts import (
    find_artefact_problems,
    find_missing_files,
    find_unbuilt_models,
)
from builders.doctor.deployment import Deployment, find_deployment
from builders.doctor.packages import find_container_needs, find_package_problems
from builders.doctor.plans import CONTAINERS, find_plan_problems
from builders.doctor.problem import SEVERITIES, Problem, Severity
from builders.doctor.server import find_server_problems
from builders.doctor.vulnerabilities import find_vulnerabilities
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.weights import StandIn
from builders.weights.published import fetch_command

__all__ = ["CONTAINERS", "SEVERITIES", "Problem", "Severity", "find_problems"]


def find_problems(
    repository: Repository,
    container: str | None = None,
    server: str | None = None,
    target: str | None = None,
    models: Sequence[str] = (),
) -> Iterator[Problem]:
    """Find what will not load or would answer wrongly.

    Args:
        repository: Repository to check.
        container: Month of NVIDIA's Triton container that plans are for, for example
            "26.08"; None to check them for this machine.
        server: gRPC address "host:port" of a running server to check as well.
        target: Target that every model must have its file for; None for every target
            that has built files.
        models: Models that must be deployed; none means those that are built.

    Yields:
        Problems of rendered files, missing files, artefacts, packages and the server,
        and at last the models with stand-in weights.

    Raises:
        RepositoryError: A weights.json cannot be read.
        UnknownModelError: A name is not declared.
    """
    if container is not None and container not in CONTAINERS:
        yield Problem(
            f"container {container}",
            "its TensorRT version is not confirmed here",
            f"known months: {', '.join(CONTAINERS)}",
            "warning",
        )
        container = None
    deployment = find_deployment(repository, models)
    yield from _find_stale_files(deployment)
    yield from find_missing_files(deployment, target)
    yield from find_unbuilt_models(deployment, target)
    for network in deployment.networks:
        yield from find_artefact_problems(network, repository)
        yield from find_plan_problems(network, repository, container)
    if container is None:
        yield from find_package_problems(deployment.deployed, repository)
    else:
        yield from find_container_needs(deployment.deployed, repository, container)
    yield from find_vulnerabilities(container)
    if server is not None:
        yield from find_server_problems(deployment, server)
    yield from _find_stand_ins(deployment)


def _find_stale_files(deployment: Deployment) -> Iterator[Problem]:
    """Stale files of models that are not deployed are read by no server yet."""
    root = deployment.repository.root
    for path in render_repository(deployment.repository, check=True):
        inner = path.relative_to(root)
        is_deployed = inner.parts[0] in deployment.names
        if is_deployed or not deployment.is_named:
            yield Problem(
                str(inner),
                "differs from the declaration",
                "run python -m builders render",
                "error" if is_deployed else "warning",
            )


def _find_stand_ins(deployment: Deployment) -> Iterator[Problem]:
    untrained = [
        model.name
        for model in deployment.networks
        if isinstance(deployment.repository.origin(model.name), StandIn)
    ]
    if untrained:
        fetched = [m for m in deployment.networks if m.source.weights is not None]
        commands = [fetch_command(m) for m in fetched if m.name in untrained]
        yield Problem(
            ", ".join(untrained),
            "stand-in weights, so the answers mean nothing",
            "; ".join([*commands, "python -m builders build MODEL --weights FILE"]),
            "warning",
        )
