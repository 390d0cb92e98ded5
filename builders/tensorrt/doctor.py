"""What will not load, or would answer wrongly, said before anyone waits for a crash.

Reads passports and configs; looks at the GPU, the installed TensorRT, a container
month, or a running server where it is told to. Each finding is one line: what, why,
what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from builders.build import ONNX_FILE, PLAN_FILE, graph_digest, render
from builders.catalogue import catalogue, networks
from builders.repository import Repository
from builders.spec import Network
from builders.tensorrt.engine import Engine, EngineError, current_gpu
from builders.tensorrt.library import MODULES, PlanError
from builders.weights import StandIn
from personserve import Client, PersonServeError

CONTAINERS: dict[str, str] = {
    **{f"23.{month:02}": "8.6.1" for month in range(4, 11)},
    "26.03": "10.16",
    "26.04": "10.16",
    "26.05": "10.16.1.11",
    "26.06": "11.0.0.114",
    "26.07": "11.1.0.106",
    "26.08": "11.2.1.2",
}
"""TensorRT of NVIDIA's tritonserver containers by month, as far as it is confirmed."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    what: str
    why: str
    todo: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.todo}"


def findings(
    repository: Repository, container: str | None = None, server: str | None = None
) -> Iterator[Finding]:
    """Everything that is wrong, for this machine, or for `container` (a month, as
    "26.08") instead, and with what `server` ("host:port", gRPC) has loaded.
    """
    if container is not None and container not in CONTAINERS:
        yield Finding(
            f"container {container}",
            "its TensorRT is not confirmed here",
            f"known months: {', '.join(CONTAINERS)}",
        )
        container = None
    for path in render(repository, check=True):
        yield Finding(
            str(path.relative_to(repository.root)),
            "is not what the declaration says",
            "run python -m builders render",
        )
    for model in networks():
        yield from _weights(model, repository)
        yield from _plan(model, repository, container)
    if server is not None:
        yield from _server(repository, server)


def _weights(model: Network, repository: Repository) -> Iterator[Finding]:
    origin = repository.origin(model.name)
    if isinstance(origin, StandIn):
        yield Finding(
            model.name,
            "has stand-in weights, so its answers mean nothing",
            f"python -m builders build {model.name} --weights FILE",
        )
    for file in (ONNX_FILE, PLAN_FILE):
        path = repository.built(model.name, file)
        if not path.exists():
            continue
        record = repository.record(path)
        if record is None:
            yield Finding(
                f"{model.name}/{file}",
                "has no record, or was changed after it was built",
                "build it again",
            )
        elif record["inputs"]["weights"] != str(origin):
            yield Finding(
                f"{model.name}/{file}",
                f"was built from {record['inputs']['weights']}, and the config says "
                f"{origin}",
                "build it again",
            )
        elif record["inputs"]["graph"] != graph_digest():
            yield Finding(
                f"{model.name}/{file}",
                "was built by other code than is here now",
                "build it again",
            )


def _plan(
    model: Network, repository: Repository, container: str | None
) -> Iterator[Finding]:
    path = repository.built(model.name, PLAN_FILE)
    passport = repository.record(path) if path.exists() else None
    if passport is None:
        return
    name = f"{model.name}/{PLAN_FILE}"
    built_by = f"{passport['library']} {passport['version']}"
    if container is not None:
        yield from _container(name, passport["library"], passport["version"], container)
    else:
        yield from _machine(name, built_by, passport, path.read_bytes())
    declared = {
        t.name: [t.data_type, *t.shape] for t in (*model.inputs, *model.output_tensors)
    }
    if passport["tensors"] != declared:
        yield Finding(
            name,
            f"has tensors {passport['tensors']}, the declaration {declared}",
            "build it again",
        )
    if passport["profile"][2] != model.batching.maximum:
        yield Finding(
            name,
            f"takes batches up to {passport['profile'][2]}, the config says "
            f"{model.batching.maximum}",
            "build it again",
        )
    parity = passport["parity"]
    if parity is None:
        yield Finding(
            name,
            "was never compared with the reference",
            f"python -m builders verify {model.name} --target tensorrt",
        )
    elif not all(measure["passed"] for measure in parity):
        yield Finding(name, "is outside the model's tolerance", "see its passport")


def _container(
    name: str, library: str, version: str, container: str
) -> Iterator[Finding]:
    has = CONTAINERS[container]
    if library == "TensorRT-RTX":
        yield Finding(
            name,
            f"is a {library} plan, which no Triton container loads",
            "serve it with --target rtx, or build with --target tensorrt",
        )
    elif not f"{version}.".startswith(f"{has}."):
        fitting = [
            m for m, v in CONTAINERS.items() if f"{version}.".startswith(f"{v}.")
        ]
        use = f"use container {fitting[-1]}, or " if fitting else ""
        yield Finding(
            name,
            f"was built by TensorRT {version}, and container {container} has {has}",
            f"{use}build it inside that container",
        )


def _machine(
    name: str, built_by: str, passport: dict[str, list[str]], plan: bytes
) -> Iterator[Finding]:
    gpu = current_gpu()
    if gpu is None:
        yield Finding(
            name,
            "cannot run here: no NVIDIA GPU",
            "serve the cpu target, or move to a machine with "
            f"{' or '.join(passport['gpus'])}",
        )
        return
    if gpu.capability not in passport["gpus"]:
        yield Finding(
            name,
            f"was built for {', '.join(passport['gpus'])}, and this {gpu.name} is "
            f"{gpu.capability}",
            "build it on this machine: one plan per GPU type",
        )
        return
    module = MODULES["rtx" if built_by.startswith("TensorRT-RTX") else "tensorrt"]
    try:
        trt = import_module(module)
    except (ImportError, OSError):
        yield Finding(
            name, f"was built by {built_by}, which is not installed", "install it"
        )
        return
    if built_by.split()[1] != trt.__version__:
        yield Finding(
            name,
            f"was built by {built_by}, and {trt.__version__} is installed",
            "install that version, or build it again",
        )
        return
    try:
        Engine(trt, plan).close()
    except (EngineError, PlanError) as exc:
        yield Finding(name, str(exc), "build it again")


def _server(repository: Repository, address: str) -> Iterator[Finding]:
    with Client(address, timeout_s=5) as client:
        if not client.ready():
            yield Finding(
                f"server {address}",
                "does not answer",
                "start it: python -m builders serve",
            )
            return
        for declaration in catalogue().values():
            name = f"{declaration.name} on {address}"
            if not client.ready(declaration.name):
                if isinstance(declaration, Network) and declaration.on_request:
                    continue
                yield Finding(name, "is not loaded", "build it and start again")
                continue
            try:
                served = client.describe(declaration.name)
            except PersonServeError as exc:
                yield Finding(name, str(exc), "see the server's log")
                continue
            declared = {t.name: t.shape for t in declaration.inputs}
            offered = {t.name: t.shape for t in served.inputs}
            if declared != offered:
                yield Finding(
                    name,
                    f"takes {offered}, the declaration says {declared}",
                    "render and restart",
                )
            if not isinstance(declaration, Network):
                continue
            if served.max_batch_size != declaration.batching.maximum:
                yield Finding(
                    name,
                    f"takes batches up to {served.max_batch_size}, the declaration "
                    f"says {declaration.batching.maximum}",
                    "render and restart",
                )
            origin = str(repository.origin(declaration.name))
            if served.parameters.get("weights") != origin:
                yield Finding(
                    name,
                    f"serves {served.parameters.get('weights')}, and here is {origin}",
                    "restart the server",
                )
