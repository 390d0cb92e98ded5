"""The weights that training starts from: random, a checkpoint, or a published trunk."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from builders.ops.shape import LayoutEntry
from builders.spec.model import Model
from builders.training.recipes import TrainingError
from builders.weights import fit_checkpoint, read_checkpoint
from builders.weights.files import CheckpointContents

Arrays = dict[str, npt.NDArray[Any]]

TRUNK = "backbone."
"""Prefix that this project's and FastReID's names have, and ImageNet's files lack."""

TRUNK_LEFTOVERS = ("fc.*", "layer4.*", "*.num_batches_tracked")
"""Keys of an ImageNet or IBN-Net file that a trunk may leave unused."""

GEM_POWER = 3.0
"""First power of generalised-mean pooling in FastReID."""


def random_weights(model: Model, seed: int) -> Arrays:
    """Return first weights that nothing was measured on.

    Kernels by He et al. (arXiv:1502.01852) with the fan out, as torchvision's ResNet;
    linear layers with the fan in; norms as the identity, but zero at the end of
    FastReID's non-local blocks.

    Args:
        model: The model.
        seed: Seed of the random values.

    Returns:
        FP32 arrays by checkpoint name, without counters.
    """
    return {
        key: _draw(key, entry, np.random.default_rng([seed, crc32(key.encode())]))
        for key, entry in model.summary.layout.items()
        if entry.kind != "counter"
    }


def _draw(
    key: str, entry: LayoutEntry, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    shape, part = entry.shape, key.rpartition(".")[2]
    if len(shape) > 1:
        is_kernel = len(shape) > 2
        fan = shape[0] * int(np.prod(shape[2:])) if is_kernel else shape[1]
        gain = 2.0 if is_kernel else 1.0
        values = rng.standard_normal(shape, np.float32)
        return np.asarray(values * np.sqrt(gain / fan), np.float32)
    if part == "p":
        return np.full(shape, GEM_POWER, np.float32)
    is_one = part in {"weight", "running_var"} and not key.endswith(".W.1.weight")
    return np.full(shape, float(is_one), np.float32)


def load_first_weights(
    model: Model, path: Path | None, seed: int
) -> tuple[Arrays, dict[str, str]]:
    """Return first weights from a file, or random ones, and where each part is from.

    Args:
        model: The model.
        path: A checkpoint of the model; a checkpoint of another model that shares its
            trunk; an ImageNet or IBN-Net file, whose names lack "backbone."; or None.
        seed: Seed of what the file does not have.

    Returns:
        FP32 arrays by checkpoint name, and for the report: "file" or "random" by the
        first two parts of the keys' names.

    Raises:
        TrainingError: The file has a key that neither the model has nor a trunk may
            leave unused, or no trunk.
        CheckpointError: The file cannot be read.
    """
    arrays = random_weights(model, seed)
    loaded: dict[str, npt.NDArray[Any]] = {}
    if path is not None:
        contents = read_checkpoint(path)
        fit = fit_checkpoint(model, contents)
        loaded = dict(fit.arrays)
        if fit.problems:
            loaded = _match_trunk(model, contents, path)
    sources: dict[str, str] = {}
    for key in arrays:
        part = ".".join(key.split(".")[:2])
        source = "file" if key in loaded else "random"
        both = {sources.get(part, source), source}
        sources[part] = source if len(both) == 1 else "file and random"
    return arrays | loaded, sources


def _match_trunk(
    model: Model, contents: CheckpointContents, path: Path
) -> dict[str, npt.NDArray[Any]]:
    """Return the trunk's arrays: all of them, each of the right shape."""
    layout = {
        key: entry
        for key, entry in model.summary.layout.items()
        if key.startswith(TRUNK) and entry.kind != "counter"
    }
    has_prefix = any(name.startswith(TRUNK) for name in contents.arrays)
    names = {
        (name if has_prefix else f"{TRUNK}{name}"): name for name in contents.arrays
    }
    missing = [key for key in layout if key not in names]
    wrong = [
        key
        for key in layout
        if key in names and contents.arrays[names[key]].shape != layout[key].shape
    ]
    unused = [
        name
        for key, name in names.items()
        if key not in layout
        and not has_prefix
        and not any(fnmatchcase(name, p) for p in TRUNK_LEFTOVERS)
    ]
    if not layout or missing or wrong or unused:
        raise TrainingError(
            f"{path.name} is neither a checkpoint of {model.name} nor of its trunk: "
            f"expected all {len(layout)} arrays of {TRUNK}*; missing "
            f"{missing[:3]} ({len(missing)}), of another shape {wrong[:3]} "
            f"({len(wrong)}), unknown {unused[:3]} ({len(unused)})"
        )
    return {key: contents.arrays[names[key]].astype(np.float32) for key in layout}
