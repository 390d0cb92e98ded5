"""Raw gRPC calls of Triton's protocol: valid ones, and mutations of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from builders.spec.catalogue import catalogue
from builders.tensors import ITEM_BYTES
from tests.image_corpus import Mutator
from tests.request_mutations import MUTATIONS, NAMES, NUMBERS, REGIONS, pick, put_image

SERVICE = "/inference.GRPCInferenceService/"
EDGE = 48
"""Height and width of a frame in pixels."""

METHODS: Mapping[str, type] = {
    name: getattr(service_pb2, f"{name}Request")
    for name in (
        "ServerLive",
        "ServerMetadata",
        "ModelReady",
        "ModelMetadata",
        "ModelConfig",
        "ModelStatistics",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryRegister",
        "TraceSetting",
        "LogSettings",
    )
}
"""Methods besides inference, with the types of their messages."""


@dataclass(frozen=True)
class Call:
    """A gRPC call of raw bytes.

    Attributes:
        kind: What was mutated, for reports.
        method: Full name of the method.
        messages: Serialised messages; several only on a stream.
        stream: Whether the method takes a stream.
        timeout_s: Deadline of the call in seconds.
        metadata: Headers of the call.
    """

    kind: str
    method: str
    messages: tuple[bytes, ...]
    stream: bool = False
    timeout_s: float = 20.0
    metadata: Sequence[tuple[str, str | bytes]] = field(default=())


class CallMutator:
    """Mutated gRPC calls; an index gives the same call in every process.

    Args:
        models: Names of the models that calls are for.
        seed: Seed of the mutations.
    """

    def __init__(self, models: Sequence[str], seed: int) -> None:
        self._requests = [make_request(name) for name in models]
        self._images = Mutator(seed)
        self._seed = seed

    def make(self, index: int) -> Call:
        """Return the call of an index."""
        rng = np.random.default_rng((self._seed, index, 1))
        choice = rng.random()
        if choice < 0.08:
            return self._make_management(rng)
        messages, kinds = [], []
        stream = choice < 0.16
        for _ in range(int(rng.integers(1, 6)) if stream else 1):
            kind, message = self.make_infer(rng, index)
            data = message.SerializeToString()
            if rng.random() < 0.2:
                kind, data = "wire", mutate_bytes(data, rng)
            messages.append(data)
            kinds.append(kind)
        return Call(
            f"stream: {kinds[-1]}" if stream else kinds[0],
            SERVICE + ("ModelStreamInfer" if stream else "ModelInfer"),
            tuple(messages),
            stream,
            0.003 if rng.random() < 0.03 else 20.0,
            _make_metadata(rng),
        )

    def make_infer(self, rng: np.random.Generator, index: int) -> tuple[str, Any]:
        """Return the kind of the last mutation, and an inference request."""
        message = service_pb2.ModelInferRequest()
        message.CopyFrom(pick(rng, self._requests))
        name = "valid"
        for _ in range(int(rng.integers(1, 4))):
            if rng.random() < 0.1:
                name = "image"
                put_image(message, self._images.make(index)[1])
                continue
            mutate = pick(rng, MUTATIONS)
            name = mutate.__name__.removeprefix("_").removeprefix("mutate_")
            mutate(message, rng)
        return name, message

    def _make_management(self, rng: np.random.Generator) -> Call:
        method = pick(rng, list(METHODS))
        message = METHODS[method]()
        for each in message.DESCRIPTOR.fields:
            if each.type == each.TYPE_STRING and not each.is_repeated:
                setattr(
                    message, each.name, pick(rng, (*NAMES, *REGIONS, "person_gender"))
                )
            elif each.name in {"byte_size", "offset"}:
                setattr(message, each.name, abs(pick(rng, NUMBERS)))
        data = message.SerializeToString()
        if rng.random() < 0.5:
            data = mutate_bytes(data, rng)
        if rng.random() < 0.05:
            method += "X"
        return Call(f"method {method}", SERVICE + method, (data,))


def make_request(model: str) -> Any:
    """Make a valid inference request of a model with one image or one person."""
    message = service_pb2.ModelInferRequest(model_name=model, id=f"fuzz-{model}")
    for tensor in catalogue()[model].inputs:
        shape = list(tensor.shape)
        if tensor.name == "encoded_frame":
            continue  # put_image sends it
        if tensor.name == "boxes":
            data = np.array([1, 2, 30, 40], np.float32).tobytes()
            shape = [1, 4]
        elif tensor.name == "frame_size":
            data = np.array([EDGE, EDGE], np.int32).tobytes()
        else:
            if tensor.name == "raw_frame":
                shape = [EDGE * EDGE * 3]
            elif len(shape) == 3:
                shape = [1, *shape]
            elif tensor.shape[0] < 0:
                shape[0] = 1
            size = int(np.prod(shape)) * ITEM_BYTES[tensor.data_type]
            data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        message.inputs.add(name=tensor.name, datatype=tensor.data_type, shape=shape)
        message.raw_input_contents.append(data)
    return message


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Overwrite, cut, repeat or replace bytes, most often near the start."""
    for _ in range(int(rng.integers(1, 5))):
        limit = max(1, len(data) if rng.random() < 0.3 else min(len(data), 200))
        start = int(rng.integers(limit))
        end = start + int(rng.integers(1, 40))
        options = (
            data[:start] + rng.bytes(int(rng.integers(1, 9))) + data[start + 1 :],
            data[:start] + data[end:],
            data[:end] + data[start:end] * int(rng.integers(1, 30)) + data[end:],
            data[:start],
            data[:start] + b"\xff" * 10 + data[start:],
            rng.bytes(int(rng.integers(200))),
        )
        data = pick(rng, options)
    return data


def _make_metadata(rng: np.random.Generator) -> tuple[tuple[str, str | bytes], ...]:
    if rng.random() < 0.9:
        return ()
    options: tuple[tuple[str, str | bytes], ...] = (
        ("triton-personserve-key", "0" * 32),
        ("triton_grpc_protocol_x-bin", rng.bytes(40)),
        ("triton-request-id", "x" * 2000),
        ("traceparent", "00-zz-zz-01"),
        ("grpc-encoding", "gzip"),
        ("content-type", "application/grpc+json"),
    )
    return (pick(rng, options),)
