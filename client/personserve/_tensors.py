"""Arrays as the bytes that both protocols carry, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from personserve._errors import InvalidInputError, ServerError
from personserve._requests import Array, DeviceArray


def data_type_of(name: str, data_type: np.dtype[np.generic]) -> str:
    """Triton's name of a NumPy type. Raises InvalidInputError."""
    known = np_to_triton_dtype(data_type.type)
    if known is None:
        raise InvalidInputError(f"{name}: Triton has no type for {data_type} arrays")
    return str(known)


def data_of(array: Array | DeviceArray) -> memoryview | bytes:
    """The values of `array`, without a copy where they lie in one piece. Raises
    InvalidInputError where they are on a GPU.
    """
    if isinstance(array, DeviceArray):
        raise InvalidInputError(array.needs_cuda())
    if array.dtype.kind in "OSU":
        packed = serialize_byte_tensor(array)
        return bytes(packed.item()) if packed.size else b""
    values: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(values)


def array_of(
    name: str, data_type: str, shape: Sequence[int], data: bytes | memoryview
) -> Array:
    """A read-only array over `data`. Raises ServerError for a type that NumPy lacks,
    or the wrong number of bytes.
    """
    if data_type == "BYTES":
        return np.asarray(deserialize_bytes_tensor(bytes(data))).reshape(shape)
    kind = triton_to_np_dtype(data_type)
    if kind is None:
        raise ServerError(f"{name}: NumPy has no type for the server's {data_type}")
    expected = int(np.prod(shape)) * np.dtype(kind).itemsize
    if len(data) != expected:
        raise ServerError(f"{name}: {len(data)} bytes, expected {expected}")
    return np.frombuffer(data, kind).reshape(shape)
