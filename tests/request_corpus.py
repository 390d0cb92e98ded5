"""Raw gRPC calls of Triton's protocol: valid ones, and mutations of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from builders.spec.catalogue import catalogue
from builders.tensors import ITEM_BYTES
from tests.image_corpus import Mutator

SERVICE = "/inference.GRPCInferenceService/"
EDGE = 48
"""Height and width of a frame in pixels."""

NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 32, 33, 65, 255, 4096, 65536, 50_000_001),
    *((1 << 31) - 1, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, -(1 << 63)),
)
NAMES = (
    *("", "encoded_frame", "raw_frame", "frame_size", "frame", "boxes", "crops"),
    *("embedding", "female_probability", "x" * 5000),
    *("../../../etc/passwd", "%s%n%x", "a\nE1124 forged line", "\u202e", "\0", "é"),
)
TYPES = ("UINT8", "FP32", "FP64", "INT64", "BOOL", "FP16", "BF16", "BYTES", "", "none")
REGIONS = ("", "x", "/dev/shm", "triton_python_backend_shm_region_1", "personserve_0_0")
SETTINGS = (
    *("sequence_id", "sequence_start", "sequence_end", "priority", "timeout"),
    *("binary_data_output", "classification", "triton_enable_empty_final_response"),
)
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
        message.CopyFrom(_pick(rng, self._requests))
        name = "valid"
        for _ in range(int(rng.integers(1, 4))):
            if rng.random() < 0.1:
                name = "image"
                _put_image(message, self._images.make(index)[1])
                continue
            mutate = _pick(rng, MUTATIONS)
            name = mutate.__name__.removeprefix("_mutate_")
            mutate(message, rng)
        return name, message

    def _make_management(self, rng: np.random.Generator) -> Call:
        method = _pick(rng, list(METHODS))
        message = METHODS[method]()
        for each in message.DESCRIPTOR.fields:
            if each.type == each.TYPE_STRING and not each.is_repeated:
                setattr(
                    message, each.name, _pick(rng, (*NAMES, *REGIONS, "person_gender"))
                )
            elif each.name in {"byte_size", "offset"}:
                setattr(message, each.name, abs(_pick(rng, NUMBERS)))
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
            continue  # _put_image sends it
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
        data = _pick(rng, options)
    return data


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


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
    return (_pick(rng, options),)


def _put_image(message: Any, data: bytes) -> None:
    """Send an encoded image where the model takes a frame, else as raw bytes."""
    if not message.inputs or not message.raw_input_contents:
        return
    if message.inputs[0].name == "raw_frame":
        message.inputs[0].name = "encoded_frame"
        message.inputs[0].shape[:] = [len(data)]
        if len(message.inputs) > 1 and message.inputs[1].name == "frame_size":
            del message.inputs[1], message.raw_input_contents[1:2]
    message.raw_input_contents[0] = data


def _mutate_shape(message: Any, rng: np.random.Generator) -> None:
    if not message.inputs:
        return
    shape = list(_pick(rng, message.inputs).shape)
    tensor = _pick(rng, message.inputs)
    at = int(rng.integers(len(shape))) if shape else 0
    number = _pick(rng, NUMBERS)
    tensor.shape[:] = _pick(
        rng,
        (
            [*shape[:at], number, *shape[at + 1 :]],
            [*shape, number],
            shape[:-1],
            [],
            [1 << 32, 1 << 32],
            [number] * int(rng.integers(1, 600)),
            [1] * 100 + shape,
        ),
    )


def _mutate_signs(message: Any, rng: np.random.Generator) -> None:
    """Negate dimensions; the bytes then agree with the product of an even number."""
    if message.inputs:
        tensor = _pick(rng, message.inputs)
        least = 1 - (1 << 63)  # one more has no positive counterpart of 64 bits
        tensor.shape[:] = [
            -max(d, least) if rng.random() < 0.7 else d for d in tensor.shape
        ]


def _mutate_type(message: Any, rng: np.random.Generator) -> None:
    if message.inputs:
        _pick(rng, message.inputs).datatype = _pick(rng, TYPES)


def _mutate_length(message: Any, rng: np.random.Generator) -> None:
    """Change the number of bytes, or of tensors, that follow the declarations."""
    contents = message.raw_input_contents
    choice = int(rng.integers(5))
    if choice == 0 or not contents:
        contents.append(rng.bytes(int(rng.integers(100))))
        return
    at = int(rng.integers(len(contents)))
    if choice == 1:
        del contents[at]
    elif choice == 2:
        contents[at] = contents[at][: int(rng.integers(len(contents[at]) + 1))]
    elif choice == 3:
        contents[at] += rng.bytes(int(rng.integers(1, 2000)))
    else:
        contents[at] = b""


def _mutate_values(message: Any, rng: np.random.Generator) -> None:
    contents = message.raw_input_contents
    if contents:
        at = int(rng.integers(len(contents)))
        special = (np.nan, np.inf, -np.inf, 3e38, -1, 0, 1e-40, 47, 49, 1e9)
        numbers = np.float32(rng.choice(special, len(contents[at]) // 4 + 1))
        contents[at] = _pick(
            rng, (numbers.tobytes()[: len(contents[at])], rng.bytes(len(contents[at])))
        )


def _mutate_typed_contents(message: Any, rng: np.random.Generator) -> None:
    """Send values in the typed fields instead of, or besides, the raw ones."""
    if not message.inputs:
        return
    contents = _pick(rng, message.inputs).contents
    count = int(rng.integers(1, 3000))
    choice = int(rng.integers(5))
    if choice == 0:
        contents.uint_contents.extend([1 << 31] * count)
    elif choice == 1:
        contents.fp32_contents.extend([float("nan")] * count)
    elif choice == 2:
        contents.bytes_contents.extend([rng.bytes(9)] * count)
    elif choice == 3:
        contents.bool_contents.extend([True] * count)
    else:
        contents.int64_contents.extend([-1] * count)
    if rng.random() < 0.6:
        del message.raw_input_contents[:]


def _mutate_names(message: Any, rng: np.random.Generator) -> None:
    if message.inputs:
        _pick(rng, message.inputs).name = _pick(rng, NAMES)


def _mutate_identity(message: Any, rng: np.random.Generator) -> None:
    choice = int(rng.integers(3))
    if choice == 0:
        message.id = _pick(rng, NAMES)
    elif choice == 1:
        message.model_name = _pick(rng, NAMES)
    else:
        message.model_version = _pick(rng, ("1", "2", "-1", "x", "9" * 40, "1.0"))


def _mutate_tensors(message: Any, rng: np.random.Generator) -> None:
    """Repeat or remove an input."""
    if not message.inputs or rng.random() < 0.3:
        del message.inputs[:]
        return
    for _ in range(_pick(rng, (1, 2, 300))):
        message.inputs.add().CopyFrom(message.inputs[0])
    if rng.random() < 0.5:
        del message.inputs[0]


def _mutate_outputs(message: Any, rng: np.random.Generator) -> None:
    for _ in range(_pick(rng, (1, 2, 100))):
        output = message.outputs.add(name=_pick(rng, NAMES))
        if rng.random() < 0.5:
            output.parameters["classification"].int64_param = _pick(rng, NUMBERS)


def _mutate_parameters(message: Any, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        value = message.parameters[_pick(rng, (*SETTINGS, *NAMES))]
        choice = int(rng.integers(4))
        if choice == 0:
            value.int64_param = _pick(rng, NUMBERS)
        elif choice == 1:
            value.string_param = _pick(rng, NAMES)
        elif choice == 2:
            value.bool_param = True
        else:
            value.uint64_param = abs(_pick(rng, NUMBERS)) % (1 << 63)


def _mutate_shared_memory(message: Any, rng: np.random.Generator) -> None:
    """Refer to a region of shared memory, for an input or an output."""
    tensors = [*message.inputs] or [message.outputs.add(name="embedding")]
    if rng.random() < 0.3:
        tensors = [message.outputs.add(name=_pick(rng, NAMES))]
    parameters = _pick(rng, tensors).parameters
    parameters["shared_memory_region"].string_param = _pick(rng, REGIONS)
    parameters["shared_memory_byte_size"].int64_param = _pick(rng, NUMBERS)
    parameters["shared_memory_offset"].int64_param = _pick(rng, NUMBERS)
    if rng.random() < 0.5:
        del message.raw_input_contents[:]


MUTATIONS: Sequence[Callable[[Any, np.random.Generator], None]] = (
    _mutate_shape,
    _mutate_shape,
    _mutate_signs,
    _mutate_type,
    _mutate_length,
    _mutate_values,
    _mutate_typed_contents,
    _mutate_names,
    _mutate_identity,
    _mutate_tensors,
    _mutate_outputs,
    _mutate_parameters,
    _mutate_shared_memory,
)
"""Mutations of a ModelInferRequest."""
