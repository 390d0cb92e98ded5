"""Conversion of TensorFlow's variable names and axes, as tensorpack writes them.

    conv0/W  (7, 7, 3, 64) HWIO      conv0.weight  (64, 3, 7, 7) OIHW
    conv0/bn/gamma                   conv0.bn.weight
    conv0/bn/mean/EMA                conv0.bn.running_mean
    linear/W (2048, 1000) IO         linear.weight (1000, 2048)
    linear/b                         linear.bias

`.wts` files have `_` instead of `/`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

PARTS = {
    "running_mean": "mean/EMA",
    "running_var": "variance/EMA",
    "weight": "W",
    "bias": "b",
}
NORM_PARTS = PARTS | {"weight": "gamma", "bias": "beta"}


def tensorflow_name(key: str, norms: Iterable[str]) -> str:
    """Return the name of the TensorFlow variable for a checkpoint key.

    Args:
        key: Key in the model's layout.
        norms: Names of the layout's batch norms.
    """
    layer, _, part = key.rpartition(".")
    parts = NORM_PARTS if layer in norms else PARTS
    return f"{layer.replace('.', '/')}/{parts.get(part, part)}"


def keys_by_tensorflow_name(keys: Iterable[str]) -> dict[str, str]:
    """Return checkpoint keys by TensorFlow name, with `/` and with `_`.

    Args:
        keys: All keys of the model's layout.
    """
    keys = list(keys)
    norms = {k.rpartition(".")[0] for k in keys if k.endswith(".running_var")}
    by_name: dict[str, str] = {}
    for key in keys:
        name = tensorflow_name(key, norms)
        by_name[name] = by_name[name.replace("/", "_")] = key
    return by_name


def array_from_tensorflow(array: Array, shape: tuple[int, ...]) -> Array:
    """Transpose HWIO to OIHW and IO to OI; arrays of other ranks stay unchanged.

    Args:
        array: The array, with TensorFlow's axes or flat.
        shape: Its shape in PyTorch, which a flat array is interpreted by.
    """
    rank = len(shape)
    if rank not in {2, 4}:
        return array
    if array.ndim == 1 and array.size == np.prod(shape):
        order = (2, 3, 1, 0) if rank == 4 else (1, 0)
        array = array.reshape([shape[axis] for axis in order])
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return array.transpose(axes) if axes else array
