"""Published weights on this machine: where they are kept, and reading them.

The file is the published ONNX file, byte for byte, in the user's cache. Its SHA-256 is
part of the declaration and is compared before anything parses the file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from builders.spec.source import Arrays, PublishedWeights
from builders.weights.intake import CheckpointError, require_file
from personserve.internal.files import cache_folder

if TYPE_CHECKING:
    from builders.spec.model import Network


def published_path(weights: PublishedWeights) -> Path:
    """Return where `fetch` writes published weights.

    Args:
        weights: The weights; the first digits of their SHA-256 are part of the path, so
            that files of two projects or versions do not share it.
    """
    return cache_folder() / "weights" / weights.sha256[:16] / weights.file_name


def is_fetched(weights: PublishedWeights) -> bool:
    """Return whether the published file is on this machine, undamaged.

    Args:
        weights: The weights.
    """
    try:
        _read_bytes(weights, published_path(weights))
    except (CheckpointError, OSError):
        return False
    return True


def read_published(weights: PublishedWeights, path: Path) -> Arrays:
    """Return the arrays of a published ONNX file under the model's names.

    Args:
        weights: The weights.
        path: The ONNX file.

    Raises:
        CheckpointError: It is not the published file.
    """
    import onnx

    graph = onnx.load_model_from_string(_read_bytes(weights, path)).graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    converted = weights.convert(arrays)
    return {key: np.ascontiguousarray(array) for key, array in converted.items()}


def fetch_command(model: Network) -> str:
    """Return the command that gets the published weights of a model, and builds it.

    Args:
        model: A model with published weights.
    """
    return f"python -m builders fetch {model.name}"


def require_published(weights: PublishedWeights, data: bytes, where: str) -> bytes:
    """Return `data` if it is the published file.

    Args:
        weights: The weights.
        data: Content of a file.
        where: The file, for the message.

    Raises:
        CheckpointError: It is another file.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != weights.sha256:
        raise CheckpointError(
            f"{where}: expected {weights.file_name} of {weights.size_bytes:,} bytes "
            f"with SHA-256 {weights.sha256}, got {len(data):,} bytes with {digest}"
        )
    return data


def _read_bytes(weights: PublishedWeights, path: Path) -> bytes:
    require_file(path, weights.size_bytes)
    return require_published(weights, path.read_bytes(), str(path))
