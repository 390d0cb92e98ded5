"""Conversion between NumPy arrays and the bytes of both protocols."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tritonclient.utils import (
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from personserve._errors import InvalidInputError, ServerError
from personserve._wire.requests import Array, DeviceArray

MAX_RANK = 32
"""Largest number of dimensions; NumPy 1 has no more."""


def triton_type_from_numpy(name: str, dtype: np.dtype[np.generic]) -> str:
    """Return Triton's name of a NumPy data type.

    Args:
        name: Name of the tensor, for the error message.
        dtype: NumPy data type.

    Returns:
        Triton's name, for example "FP32".

    Raises:
        InvalidInputError: If Triton has no such type.
    """
    triton_type = np_to_triton_dtype(dtype.type)
    if triton_type is None:
        raise InvalidInputError(f"{name}: Triton has no type for {dtype} arrays")
    return str(triton_type)


def bytes_from_array(array: Array | DeviceArray) -> memoryview | bytes:
    """Return the values of an array as bytes, without a copy if they are contiguous.

    Args:
        array: A NumPy array; strings and objects are packed as Triton's BYTES.

    Returns:
        The values in C order.

    Raises:
        InvalidInputError: If the array is on a GPU.
    """
    if isinstance(array, DeviceArray):
        raise InvalidInputError(array.refusal)
    if array.dtype.kind in "OSU":
        packed = serialize_byte_tensor(array)
        return bytes(packed.item()) if packed.size else b""
    values: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(values)


def array_from_bytes(
    name: str, triton_type: str, shape: Sequence[int], data: bytes | memoryview
) -> Array:
    """Return a read-only array over received bytes.

    Args:
        name: Name of the tensor, for the error message.
        triton_type: Triton's name of the data type, for example "FP32".
        shape: Dimensions.
        data: The values in C order.

    Returns:
        An array that references `data`.

    Raises:
        ServerError: If the shape is invalid, NumPy has no such type, or the number of
            bytes is wrong.
    """
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise ServerError(f"{name}: invalid shape {list(shape[:MAX_RANK])}")
    count = math.prod(shape)
    if triton_type == "BYTES":
        strings = _strings_from_bytes(name, data, count)
        values: Array = np.empty(count, object)
        values[:] = strings
        return _reshape(name, values, shape)
    dtype = triton_to_np_dtype(triton_type)
    if dtype is None:
        raise ServerError(f"{name}: NumPy has no type for the server's {triton_type}")
    expected = count * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise ServerError(f"{name}: {len(data)} bytes, expected {expected}")
    return _reshape(name, np.frombuffer(data, dtype), shape)


def _reshape(name: str, values: Array, shape: Sequence[int]) -> Array:
    try:
        return values.reshape(shape)
    except ValueError as exc:  # an empty tensor with other dimensions beyond the limit
        raise ServerError(f"{name}: invalid shape {list(shape)}") from exc


def _strings_from_bytes(name: str, data: bytes | memoryview, count: int) -> list[bytes]:
    """Split a BYTES tensor: each value is a 4-byte little-endian length and its bytes.

    tritonclient's deserialize_bytes_tensor returns shorter values if the data ends
    early.
    """
    values: list[bytes] = []
    start = 0
    while start < len(data):
        stop = start + 4 + int.from_bytes(data[start : start + 4], "little")
        if start + 4 > len(data) or stop > len(data) or len(values) == count:
            break
        values.append(bytes(data[start + 4 : stop]))
        start = stop
    if start != len(data) or len(values) != count:
        raise ServerError(
            f"{name}: the {len(data)} bytes are not {count} values of type BYTES"
        )
    return values
