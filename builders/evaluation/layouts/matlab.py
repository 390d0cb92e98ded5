"""MATLAB annotation files (.mat), read without trusting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.evaluation.datasets import EvaluationError

MAX_ANNOTATION_BYTES = 1 << 30


def load_annotation(path: Path) -> dict[str, Any]:
    """Load a MATLAB file, up to version 7.

    Args:
        path: The .mat file, at most MAX_ANNOTATION_BYTES long.

    Returns:
        Arrays by variable name, as scipy.io.loadmat gives them.

    Raises:
        EvaluationError: If the file is missing, too large, damaged, or of MATLAB 7.3.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    if path.stat().st_size > MAX_ANNOTATION_BYTES:
        raise EvaluationError(
            f"{path.name}: {path.stat().st_size:,} bytes, over the limit of "
            f"{MAX_ANNOTATION_BYTES:,}"
        )
    try:
        return dict(loadmat(path))
    except NotImplementedError as exc:
        raise EvaluationError(
            f"{path.name}: written for MATLAB 7.3 (HDF5); save it with -v7"
        ) from exc
    except Exception as exc:
        # a damaged file can fail in any way
        raise EvaluationError(f"{path.name}: not a MATLAB file ({exc})") from exc


def require_record(content: dict[str, Any], name: str, path: Path) -> Any:
    """Return the one record of a struct variable.

    Args:
        content: Result of `load_annotation`.
        name: The variable.
        path: The file, for the error message.

    Returns:
        The record, a NumPy structured scalar.

    Raises:
        EvaluationError: If the variable is missing or is not a struct.
    """
    try:
        return content[name][0, 0]
    except (KeyError, IndexError) as exc:
        raise structure_error(path, exc) from exc


def strings_from_cells(cells: npt.NDArray[Any]) -> list[str]:
    """Convert a cell array of strings.

    Args:
        cells: Object array of any shape; each cell holds one string in an array.
    """
    return [str(np.ravel(cell)[0]) for cell in np.ravel(cells)]


def structure_error(path: Path, exc: Exception) -> EvaluationError:
    """Return the error for a file with another structure than the published one.

    Args:
        path: The file.
        exc: The error that reading it raised.
    """
    return EvaluationError(f"{path.name} is not built as the published file: {exc}")
