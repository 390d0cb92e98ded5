"""A back end without a server: the networks of a built model repository.

The transport answers a client's requests from the repository's own files. A network is
run by the `cpu_session.py` in its version folder, the rendered file that the server's
Python model runs, and not by a copy in this package: the runtime, its options and the
size of a run are then the server's, whatever version of this package asks. The file is
imported by its path. So a repository is trusted as far as a server trusts it, and a
file that is not a rendered session, or that every user may write, is refused.

Crops are cut by the client. Models that take frames need the server, because their
preprocessing does; their forms for crops, and single networks, run here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from personserve._client import Client
from personserve._errors import (
    IncompatibleServerError,
    InvalidInputError,
    ModelUnavailableError,
    ServerError,
)
from personserve._wire.grpc_messages import description_from_config
from personserve._wire.requests import (
    DescribeModel,
    Infer,
    ListModels,
    ModelState,
    Outputs,
    Ready,
    Request,
)

CONFIG_FILES = ("configs/cpu.pbtxt", "config.pbtxt")
"""Configurations of a model on a CPU, the first that is there counts."""

SESSION_FILE = "cpu_session.py"
SESSION_HEADER = "# Rendered by `python -m builders render` from "
SESSION_FUNCTIONS = ("open_session", "split_feed")

NETWORK_FILE = "model.onnx"
MAX_CONFIG_BYTES = 1 << 20


def open_deployed_client(repository: Path | str) -> Client:
    """Open a client of a built repository, for a worker without a server.

    Args:
        repository: The model repository, built for the CPU.

    Returns:
        A client. Ask it with `attributes_of_crops`, or with `crop_on="client"`.

    Raises:
        InvalidInputError: The folder does not exist.
    """
    return Client(transport=DeployedTransport(repository), timeout_s=600.0)


class DeployedTransport:
    """A Transport that answers with the networks of a built repository.

    Args:
        repository: The model repository, built for the CPU.

    Raises:
        InvalidInputError: The folder does not exist.
    """

    def __init__(self, repository: Path | str) -> None:
        self._root = Path(repository).absolute()
        if not self._root.is_dir():
            raise InvalidInputError(
                f"{self._root}: expected a model repository, which `python -m builders "
                "build` makes; there is no such folder"
            )
        self._configs: dict[str, Any] = {}
        self._networks: dict[str, tuple[ModuleType, Any]] = {}
        self._lock = Lock()  # a session has one thread, and takes one run at a time

    def send(self, request: Request, timeout_s: float | None) -> Any:  # noqa: ARG002
        """Answer a request."""
        if isinstance(request, DescribeModel):
            return description_from_config(self._config(request.model))
        if isinstance(request, Infer):
            with self._lock:
                outputs = Outputs(self._run(request.model, request.inputs))
            outputs.model_version = str(self._version(request.model))
            return outputs
        if isinstance(request, Ready):
            return request.model is None or request.model in self._names()
        if isinstance(request, ListModels):
            return tuple(ModelState(name, "1", ready=True) for name in self._names())
        raise InvalidInputError("a built repository shares no memory; it needs none")

    def close(self) -> None:
        """Release the networks."""
        self._networks.clear()

    def _names(self) -> list[str]:
        return sorted(path.parent.name for path in self._root.glob("*/config.pbtxt"))

    def _config(self, model: str) -> Any:
        if model not in self._configs:
            from google.protobuf import text_format
            from tritonclient.grpc import model_config_pb2

            path = self._config_path(model)
            config = model_config_pb2.ModelConfig()
            try:
                with path.open("rb") as file:
                    text_format.Parse(file.read(MAX_CONFIG_BYTES), config)
            except (OSError, text_format.ParseError) as exc:
                raise IncompatibleServerError(f"{path}: {exc}", model=model) from exc
            self._configs[model] = config
        return self._configs[model]

    def _config_path(self, model: str) -> Path:
        if Path(model).name == model:  # a name, not a path out of the repository
            for name in CONFIG_FILES:
                if (path := self._root / model / name).is_file():
                    return path
        raise ModelUnavailableError(
            f"{self._root} has no model {model!r}; it has "
            f"{', '.join(self._names()) or 'none'}",
            model=model,
        )

    def _version(self, model: str) -> int:
        folders = (self._root / model).iterdir()
        return max((int(f.name) for f in folders if f.name.isdecimal()), default=1)

    def _run(self, model: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        config = self._config(model)
        if not config.ensemble_scheduling.step:
            return self._run_network(model, inputs)
        tensors = dict(inputs)
        for step in config.ensemble_scheduling.step:
            feed = {
                name: tensors[value]
                for name, value in step.input_map.items()
                if value in tensors  # of the two forms of a frame, a request has one
            }
            outputs = self._run(step.model_name, feed)
            tensors |= {v: outputs[name] for name, v in step.output_map.items()}
        return {output.name: tensors[output.name] for output in config.output}

    def _run_network(self, model: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if model not in self._networks:
            self._networks[model] = self._open_network(model)
        module, session = self._networks[model]
        feed = {name: np.ascontiguousarray(inputs[name]) for name in session.inputs}
        try:
            runs = [session.run(part) for part in module.split_feed(feed)]
        except Exception as exc:  # its errors share no base class
            raise ServerError(f"{model}: {exc}", model=model) from exc
        outputs = zip(*runs, strict=True)
        return {
            name: np.concatenate(arrays)
            for name, arrays in zip(session.outputs, outputs, strict=True)
        }

    def _open_network(self, model: str) -> tuple[ModuleType, Any]:
        folder = self._root / model / str(self._version(model))
        network = folder / NETWORK_FILE
        try:
            record = json.loads(network.with_suffix(".onnx.json").read_text("utf-8"))
            digest = hashlib.sha256(network.read_bytes()).hexdigest()
        except (OSError, ValueError) as exc:
            raise ModelUnavailableError(
                f"{model} is not built for the CPU, or runs on a server only ({exc}); "
                f"python -m builders build {model}",
                model=model,
            ) from exc
        if digest != record.get("sha256"):
            raise IncompatibleServerError(
                f"{network}: expected the file of its record (SHA-256 "
                f"{record.get('sha256')}), got {digest}; build it again",
                model=model,
            )
        module = load_session_module(folder / SESSION_FILE)
        try:
            session = module.open_session(str(network), record, threads=1)
        except Exception as exc:  # of the runtime, or that it is missing
            raise ServerError(f"{model}: {exc}", model=model) from exc
        return module, session


def load_session_module(path: Path) -> ModuleType:
    """Import the deployed code that runs a network.

    Args:
        path: The rendered `cpu_session.py` in a model's version folder.

    Returns:
        The module.

    Raises:
        IncompatibleServerError: The file is missing, was not rendered by `python -m
            builders`, may be written by every user, or has no session to open.
    """
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except OSError as exc:
        raise IncompatibleServerError(f"cannot read the deployed code: {exc}") from exc
    if not text.startswith(SESSION_HEADER):
        raise IncompatibleServerError(
            f"{path}: expected a file that begins with {SESSION_HEADER!r}; render the "
            "repository again"
        )
    if mode & stat.S_IWOTH:
        raise IncompatibleServerError(
            f"{path}: every user may write this code; chmod o-w it, and its folder"
        )
    spec = importlib.util.spec_from_file_location("deployed_cpu_session", path)
    if spec is None or spec.loader is None:
        raise IncompatibleServerError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in SESSION_FUNCTIONS:
        if not hasattr(module, name):
            raise IncompatibleServerError(
                f"{path}: expected a function {name}; render the repository with a "
                "version that fits this client"
            )
    return module
