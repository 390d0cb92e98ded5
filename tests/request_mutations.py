"""Mutations of a ModelInferRequest of Triton's gRPC protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """Return one of some options."""
    return options[int(rng.integers(len(options)))]


def put_image(message: Any, data: bytes) -> None:
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
    shape = list(pick(rng, message.inputs).shape)
    tensor = pick(rng, message.inputs)
    at = int(rng.integers(len(shape))) if shape else 0
    number = pick(rng, NUMBERS)
    tensor.shape[:] = pick(
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
        tensor = pick(rng, message.inputs)
        least = 1 - (1 << 63)  # one more has no positive counterpart of 64 bits
        tensor.shape[:] = [
            -max(d, least) if rng.random() < 0.7 else d for d in tensor.shape
        ]


def mutate_frame(message: Any, rng: np.random.Generator) -> None:
    """Send a frame in both forms, in none, or with a size that does not fit it."""
    names = [tensor.name for tensor in message.inputs]
    if "raw_frame" not in names or len(names) != len(message.raw_input_contents):
        return
    raw, choice = names.index("raw_frame"), int(rng.integers(6))
    if choice == 0:
        data = message.raw_input_contents[raw]
        message.inputs.add(name="encoded_frame", datatype="UINT8", shape=[len(data)])
        message.raw_input_contents.append(data)
    elif choice == 1:
        del message.inputs[raw], message.raw_input_contents[raw]
    elif "frame_size" in names:
        size = names.index("frame_size")
        if choice == 2:
            del message.inputs[size], message.raw_input_contents[size]
        elif choice == 3:
            message.inputs[raw].name, message.inputs[size].name = (
                *("frame_size", "raw_frame"),
            )
        else:
            numbers = [pick(rng, NUMBERS) for _ in range(int(rng.integers(1, 4)))]
            message.inputs[size].shape[:] = [len(numbers)]
            # as the low half of each number
            message.raw_input_contents[size] = (
                np.array(numbers, np.int64).astype(np.int32).tobytes()
            )


def _mutate_type(message: Any, rng: np.random.Generator) -> None:
    if message.inputs:
        pick(rng, message.inputs).datatype = pick(rng, TYPES)


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
        contents[at] = pick(
            rng, (numbers.tobytes()[: len(contents[at])], rng.bytes(len(contents[at])))
        )


def _mutate_typed_contents(message: Any, rng: np.random.Generator) -> None:
    """Send values in the typed fields instead of, or besides, the raw ones."""
    if not message.inputs:
        return
    contents = pick(rng, message.inputs).contents
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
        pick(rng, message.inputs).name = pick(rng, NAMES)


def _mutate_identity(message: Any, rng: np.random.Generator) -> None:
    choice = int(rng.integers(3))
    if choice == 0:
        message.id = pick(rng, NAMES)
    elif choice == 1:
        message.model_name = pick(rng, NAMES)
    else:
        message.model_version = pick(rng, ("1", "2", "-1", "x", "9" * 40, "1.0"))


def _mutate_tensors(message: Any, rng: np.random.Generator) -> None:
    """Repeat or remove an input."""
    if not message.inputs or rng.random() < 0.3:
        del message.inputs[:]
        return
    for _ in range(pick(rng, (1, 2, 300))):
        message.inputs.add().CopyFrom(message.inputs[0])
    if rng.random() < 0.5:
        del message.inputs[0]


def _mutate_outputs(message: Any, rng: np.random.Generator) -> None:
    for _ in range(pick(rng, (1, 2, 100))):
        output = message.outputs.add(name=pick(rng, NAMES))
        if rng.random() < 0.5:
            output.parameters["classification"].int64_param = pick(rng, NUMBERS)


def _mutate_parameters(message: Any, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        value = message.parameters[pick(rng, (*SETTINGS, *NAMES))]
        choice = int(rng.integers(4))
        if choice == 0:
            value.int64_param = pick(rng, NUMBERS)
        elif choice == 1:
            value.string_param = pick(rng, NAMES)
        elif choice == 2:
            value.bool_param = True
        else:
            value.uint64_param = abs(pick(rng, NUMBERS)) % (1 << 63)


def _mutate_shared_memory(message: Any, rng: np.random.Generator) -> None:
    """Refer to a region of shared memory, for an input or an output."""
    tensors = [*message.inputs] or [message.outputs.add(name="embedding")]
    if rng.random() < 0.3:
        tensors = [message.outputs.add(name=pick(rng, NAMES))]
    parameters = pick(rng, tensors).parameters
    parameters["shared_memory_region"].string_param = pick(rng, REGIONS)
    parameters["shared_memory_byte_size"].int64_param = pick(rng, NUMBERS)
    parameters["shared_memory_offset"].int64_param = pick(rng, NUMBERS)
    if rng.random() < 0.5:
        del message.raw_input_contents[:]


MUTATIONS: Sequence[Callable[[Any, np.random.Generator], None]] = (
    _mutate_shape,
    _mutate_shape,
    _mutate_signs,
    mutate_frame,
    mutate_frame,
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
