"""Tables from TensorRT calibration caches."""

from __future__ import annotations

import re
import struct
from datetime import datetime, timezone
from pathlib import Path

from builders.ops.placement import placement_from_model
from builders.quantisation.table import Int8Table, QuantisationError
from builders.spec.model import Model

CACHE_LINE = re.compile(r"(.+): ([0-9a-fA-F]{8})\s*")


def table_from_cache(model: Model, weights: str, path: Path) -> Int8Table:
    """Make a table from a calibration cache that uses this project's tensor names.

    Args:
        model: The declaration.
        weights: Origin of the weights that the cache belongs to, as text.
        path: The cache file.

    Returns:
        The table.

    Raises:
        QuantisationError: If the file is not a calibration cache, or has no scale for a
            tensor of the model.
    """
    scales = read_tensorrt_cache(path)
    keys = placement_from_model(model).keys
    missing = [key for key in keys if key not in scales]
    if missing:
        raise QuantisationError(
            f"{path.name} has {len(scales)} tensors and none called "
            f"{', '.join(missing[:3])} ({len(missing)} missing). A cache has the names "
            "of the network it was made with: rename them to those of int8.json, or "
            "calibrate with --images"
        )
    return Int8Table(
        model=model.name,
        weights=weights,
        method=f"TensorRT cache {path.name}",
        images=0,
        images_sha256="",
        made_by=path.read_text(encoding="utf-8").splitlines()[0],
        date=datetime.now(timezone.utc).date().isoformat(),
        scales={key: scales[key] for key in keys},
    )


def read_tensorrt_cache(path: Path) -> dict[str, float]:
    """Read the scales of a TensorRT calibration cache.

    The format is a header line, then one line per tensor with its name and the
    big-endian FP32 bits of its scale in hexadecimal.

    Args:
        path: The cache file.

    Returns:
        Scale by tensor.

    Raises:
        QuantisationError: If a line has another form; the message gives its number.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or not lines[0].startswith("TRT-"):
        raise QuantisationError(
            f"{path.name} line 1: expected a header such as "
            "TRT-8501-EntropyCalibration2"
        )
    scales = {}
    for number, line in enumerate(lines[1:], start=2):
        match = CACHE_LINE.fullmatch(line)
        if match is None:
            raise QuantisationError(
                f"{path.name} line {number}: expected `tensor: 8 hex digits`, got "
                f"{line[:60]!r}"
            )
        (scales[match[1]],) = struct.unpack(">f", bytes.fromhex(match[2]))
    return scales
