"""Problems of a running server: models that differ from their declarations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from builders.doctor.deployment import Deployment
from builders.doctor.problem import Problem
from builders.repository.layout import Repository
from builders.spec.ensemble import Declaration
from builders.spec.model import Network
from personserve import Client, ModelDescription, ModelState, PersonServeError

TIMEOUT_S = 5

UNLOADED = "unloaded"
"""Reason that Triton gives for a model that it was told to unload."""


def find_server_problems(deployment: Deployment, address: str) -> Iterator[Problem]:
    """Compare a running server's models with the declarations.

    A model that is not loaded and has no error was not asked for: the server was told
    to load others, or to unload it.

    Args:
        deployment: What is deployed. Models that were named must be loaded.
        address: gRPC address of the server, host:port.

    Yields:
        Models that failed to load, or whose tensors, batch limit or weights differ.
    """
    with Client(address, timeout_s=TIMEOUT_S) as client:
        states: Sequence[ModelState] = ()
        # a server of another machine may not list its models: that needs its key
        with suppress(PersonServeError):
            states = client.models()
        if not client.ready():
            yield _describe_unready(f"server {address}", is_reachable=bool(states))
            if not states:
                return
        for declaration in deployment.deployed:
            yield from _find_model_problems(
                client, states, declaration, deployment, address
            )


def _describe_unready(subject: str, *, is_reachable: bool) -> Problem:
    if not is_reachable:
        return Problem(subject, "does not answer", "start it: python -m builders serve")
    return Problem(
        subject,
        "is not ready, so probes and load balancers leave it out",
        "see the models that failed to load, and the server's log",
    )


def _find_model_problems(
    client: Client,
    states: Sequence[ModelState],
    declaration: Declaration,
    deployment: Deployment,
    address: str,
) -> Iterator[Problem]:
    subject = f"{declaration.name} on {address}"
    if not client.ready(declaration.name):
        reasons = [
            state.reason
            for state in states
            if state.name == declaration.name and state.reason not in {"", UNLOADED}
        ]
        if reasons:
            yield Problem(subject, f"failed to load: {reasons[0]}", "build it again")
        elif deployment.is_named:
            yield Problem(subject, "is not loaded", "build it and start again")
        return
    try:
        description = client.describe(declaration.name)
    except PersonServeError as exc:
        yield Problem(subject, str(exc), "see the server's log")
        return
    yield from _compare(subject, declaration, description, deployment.repository)


def _compare(
    subject: str,
    declaration: Declaration,
    description: ModelDescription,
    repository: Repository,
) -> Iterator[Problem]:
    declared = {t.name: t.shape for t in declaration.inputs}
    served = {t.name: t.shape for t in description.inputs}
    if declared != served:
        yield Problem(
            subject,
            f"takes {served}, and the declaration says {declared}",
            "render and restart",
        )
    if not isinstance(declaration, Network):
        return
    if description.max_batch_size != declaration.batching.max_batch_size:
        yield Problem(
            subject,
            f"takes batches up to {description.max_batch_size}, and the declaration "
            f"says {declaration.batching.max_batch_size}",
            "render and restart",
        )
    weights = description.parameters.get("weights")
    origin = str(repository.origin(declaration.name))
    if weights != origin:
        yield Problem(
            subject,
            f"serves {weights}, and the repository has {origin}",
            f"python -m builders rollout {declaration.name} --server HOST:PORT, or "
            "restart the server",
        )
