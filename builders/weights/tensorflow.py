"""TensorFlow's names and layouts, as tensorpack writes them, in the layout's terms.

    conv0/W  (7, 7, 3, 64) HWIO      conv0.weight  (64, 3, 7, 7) OIHW
    conv0/bn/gamma                   conv0.bn.weight
    conv0/bn/mean/EMA                conv0.bn.running_mean
    linear/W (2048, 1000) IO         linear.weight (1000, 2048)
    linear/b                         linear.bias

A trailing `:0` is stripped. `.wts` files write `_` for `/`.
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
    """The variable that holds `key`; `norms` are the layout's batch norms."""
    layer, _, part = key.rpartition(".")
    parts = NORM_PARTS if layer in norms else PARTS
    return f"{layer.replace('.', '/')}/{parts.get(part, part)}"


def layout_names(keys: Iterable[str]) -> dict[str, str]:
    """{TensorFlow's name: key} of `keys`, with `/` and with `_`."""
    keys = list(keys)
    norms = {k.rpartition(".")[0] for k in keys if k.endswith(".running_var")}
    known: dict[str, str] = {}
    for key in keys:
        name = tensorflow_name(key, norms)
        known[name] = known[name.replace("/", "_")] = key
    return known


def pytorch_order(array: Array, shape: tuple[int, ...]) -> Array:
    """`array`, which is HWIO or IO, as OIHW or OI (other ranks as they are). A flat
    one is first given the form that `shape`, PyTorch's, has in TensorFlow.
    """
    rank = len(shape)
    if rank not in {2, 4}:
        return array
    if array.ndim == 1 and array.size == np.prod(shape):
        there = (2, 3, 1, 0) if rank == 4 else (1, 0)
        array = array.reshape([shape[axis] for axis in there])
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return array.transpose(axes) if axes else array
