"""Runners: torch, ONNX Runtime, TensorRT or a Triton server behind one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.build.source import load_arrays
from builders.repository.layout import ARTEFACTS, Repository
from builders.repository.runtimes.cpu_session import ONNX_RUNTIME
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import require_operations
from builders.spec.model import Network
from builders.verify.inputs import Runner
from builders.verify.verification import open_artefact
from personserve import Client

FloatArray = npt.NDArray[np.float32]

RUNNERS = ("torch", "onnx", "plan", "server")
TARGETS = {"onnx": "cpu", "plan": "tensorrt"}
"""Target whose artefact a runner opens. RTX and TensorRT plans share a file name."""

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class ModelRunner:
    """A runner of one model, with the facts for reports.

    Attributes:
        label: Name of the run, with precision and runtime where they are not the usual
            ones, for example "onnx", "onnx-int8-openvino" or "plan-fp16".
        run: The runner: input arrays as keywords to {output name: FP32 [N, size]}.
        facts: Facts recorded with the run, as JSON values: the weights, and the SHA-256
            of an artefact.
        file_bytes: Size of the artefact, if there is one.
    """

    label: str
    run: Runner
    facts: Mapping[str, Any]
    file_bytes: int | None = None


@contextmanager
def open_runner(
    name: str, model: Network, repository: Repository, server_url: str | None = None
) -> Iterator[ModelRunner]:
    """Open a runner of a model until the block ends.

    Args:
        name: One of RUNNERS.
        model: The model to run.
        repository: Repository with the model's weights and artefacts.
        server_url: Server of the runner "server", for example "localhost:8001"; None
            starts one on the repository.

    Yields:
        The open runner.

    Raises:
        BuildersError: If the weights or the artefact are missing, do not fit, or cannot
            run on this machine, or if the server does not start.
        PersonServeError: If the server does not answer.
    """
    if name == "torch":
        from builders.ops.torch import Reference

        origin = repository.origin(model.name)
        declared = require_operations(model, "run it --with onnx, plan or server")
        run = Reference(declared, load_arrays(declared, origin))
        yield ModelRunner(name, run, {"weights": str(origin)})
    elif name == "server":
        with ExitStack() as stack:
            if server_url is None:
                server = TritonServer(
                    repository, models=[model.name], ports=Ports.free()
                )
                server_url = stack.enter_context(server).grpc_address
            yield stack.enter_context(_open_server_runner(model, server_url))
    else:
        yield _open_artefact_runner(name, model, repository)


def _open_artefact_runner(
    name: str, model: Network, repository: Repository
) -> ModelRunner:
    target = TARGETS[name]
    run, record = open_artefact(model, repository, target)
    facts = {"weights": record["inputs"]["weights"], "sha256": record["sha256"]}
    path = repository.artefact_path(model.name, ARTEFACTS[target])
    return ModelRunner(_artefact_label(name, record), run, facts, path.stat().st_size)


def _artefact_label(name: str, record: Mapping[str, Any]) -> str:
    precision = record.get("precision", "fp32")
    runtime = record.get("runtime", ONNX_RUNTIME)
    parts = [name]
    if name == "plan" or precision != "fp32":
        parts.append(precision)
    if runtime != ONNX_RUNTIME:
        parts.append(runtime)
    return "-".join(parts)


@contextmanager
def _open_server_runner(model: Network, server_url: str) -> Iterator[ModelRunner]:
    with Client(server_url) as client:
        parameters = client.describe(model.name).parameters

        def run(**inputs: npt.NDArray[Any]) -> Mapping[str, FloatArray]:
            return client.infer(model.name, inputs, timeout_s=TIMEOUT_S)

        facts = {"weights": parameters.get("weights", "unknown")}
        yield ModelRunner("server", run, facts)
