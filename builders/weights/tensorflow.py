"""TensorFlow's names and layouts, as tensorpack writes them, in the layout's terms.

    conv0/W  (7, 7, 3, 64) HWIO      conv0.weight  (64, 3, 7, 7) OIHW
    conv0/bn/gamma                   conv0.bn.weight
    conv0/bn/mean/EMA                conv0.bn.running_mean
    linear/W (2048, 1000) IO         linear.weight (1000, 2048)
    linear/b                         linear.bias

A trailing `:0` is stripped. `.wts` files write `_` for `/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def from_tensorflow(
    arrays: Mapping[str, Array], keys: Iterable[str]
) -> dict[str, Array]:
    """`arrays` under those of the names `keys` whose TensorFlow name they have, in
    PyTorch's layout; others as they are.
    """
    keys = list(keys)
    norms = {k.rpartition(".")[0] for k in keys if k.endswith(".running_var")}
    known: dict[str, str] = {}
    for key in keys:
        name = tensorflow_name(key, norms)
        known[name] = known[name.replace("/", "_")] = key
    result: dict[str, Array] = {}
    for name, array in arrays.items():
        plain = name.removesuffix(":0")
        if plain not in known:
            result[name] = array
            continue
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
        result[known[plain]] = array.transpose(axes) if axes else array
    return result
