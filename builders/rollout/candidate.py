"""A candidate: a version that a server runs under another name, to verify it.

Triton answers requests without a version by the highest one that is loaded. A version
that is loaded beside the current one would therefore serve at once, unverified. A
candidate has a name that no client requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from builders.repository.config import DEFAULT_TARGET, TARGETS, tensor_fields
from builders.repository.layout import ARTEFACTS, Repository
from builders.rollout.control import ModelControl, RolloutError
from builders.serve.processes import CANDIDATE
from builders.spec.model import Network

IDENTITY = ("backend", "platform", "default_model_filename")
"""Fields of a configuration that differ between targets."""

MAX_FILE_BYTES = (1 << 31) - (1 << 20)
"""Largest file of a load request: gRPC's limit of 2 GiB, less the rest of it."""


def find_target(model: Network, config: Mapping[str, Any]) -> str:
    """Return the target that a served model was configured for.

    Args:
        model: The declaration.
        config: Its configuration on the server.

    Raises:
        RolloutError: The configuration fits no target.
    """
    served = {key: config.get(key, "") for key in IDENTITY}
    for target, make_fields in TARGETS.items():
        fields = make_fields(model, 1, ())
        # Triton adds the one of platform and backend that a configuration lacks
        if all(fields.get(key) in {None, "", served[key]} for key in IDENTITY):
            return target
    raise RolloutError(
        f"{model.name} is served by {served}, which is no target of this repository: "
        f"{', '.join(TARGETS)}"
    )


@contextmanager
def serve_candidate(
    control: ModelControl,
    model: Network,
    repository: Repository,
    target: str,
    path: Path,
) -> Iterator[str]:
    """Serve a version under another name until the block ends.

    Args:
        control: The server.
        model: Network whose version it is.
        repository: Repository with the model's configurations.
        target: Target that the server runs.
        path: Folder of the version, which a server need not see.

    Yields:
        The name of the candidate.

    Raises:
        LoadError: The server cannot load it.
    """
    name = f"{model.name}{CANDIDATE}"
    number = path.name.rpartition("-")[2]
    config = read_config(repository, model.name, target)
    # the rendered config is of the served version, whose crops may have another size
    config["input"] = tensor_fields(model.inputs)
    config |= {"name": name, "version_policy": {"specific": {"versions": [number]}}}
    # a name of its own for the instance, and one of it: there is little to compute
    config["instance_group"] = [
        {key: value for key, value in group.items() if key != "name"} | {"count": 1}
        for group in config["instance_group"]
    ]
    # Triton 2.51 may end with SIGSEGV where a request of a warm-up fails, as one does
    # with a file of other inputs or outputs; the same request of a client is answered
    config.pop("model_warmup", None)
    if name in control.list_versions():
        control.unload(name)  # of a rollout that was killed: it would stay as it is
    control.load(name, config, _read_files(path, number, ARTEFACTS[target]))
    try:
        yield name
    finally:
        control.unload(name)


def read_config(
    repository: Repository, model: str, target: str = DEFAULT_TARGET
) -> dict[str, Any]:
    """Return a rendered configuration.

    Args:
        repository: The model repository.
        model: Name of the model.
        target: Name of the target; the default one's is that of ensembles, too.
    """
    path = repository.folder(model) / "configs" / f"{target}.pbtxt"
    if target == DEFAULT_TARGET:
        path = repository.folder(model) / "config.pbtxt"
    message = model_config_pb2.ModelConfig()
    text_format.Parse(path.read_text(encoding="utf-8"), message)
    config: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True
    )
    return config


def _read_files(path: Path, number: str, artefact: str) -> dict[str, bytes]:
    size = (path / artefact).stat().st_size
    if size > MAX_FILE_BYTES:
        raise RolloutError(
            f"{path / artefact} has {size:,} bytes, and a load request carries at most "
            f"{MAX_FILE_BYTES:,}; restart the server instead"
        )
    names = [artefact, f"{artefact}.json", *(each.name for each in path.glob("*.py"))]
    return {f"file:{number}/{name}": (path / name).read_bytes() for name in names}
