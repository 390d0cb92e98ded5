"""Published verification results: one committed JSON file per model.

builders/verify/verified/<model>.json     {"cpu fp32": {by, gpu, weights, ...}, ...}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builders.repository.layout import ROOT
from personserve.internal.files import write_text

VERIFIED = ROOT / "builders" / "verify" / "verified"
"""Folder of the committed results."""


def read_verified(model: str, folder: Path = VERIFIED) -> dict[str, Any]:
    """Return the published results of a model, by target and precision.

    Args:
        model: Name of the model.
        folder: Folder of published results.
    """
    path = folder / f"{model}.json"
    if not path.exists():
        return {}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def write_verified(
    model: str, key: str, facts: Mapping[str, Any], folder: Path = VERIFIED
) -> Path:
    """Add one result to a model's file, and return the file.

    Args:
        model: Name of the model.
        key: Target and precision, for example "cpu fp32".
        facts: Runtime, GPU, weights, date and comparisons; JSON values.
        folder: Folder of published results.
    """
    results = dict(sorted({**read_verified(model, folder), key: dict(facts)}.items()))
    path = folder / f"{model}.json"
    write_text(path, json.dumps(results, indent=2) + "\n")
    return path
