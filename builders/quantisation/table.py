"""INT8 table of a model: the scale of every quantised tensor, and their origin.

A table is kept in model_repository/<model>/int8.json, readable and committed. It
belongs to the weights that it was calibrated with: with others its scales would clip
values or waste range, so a build refuses them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from builders.errors import BuildersError
from builders.ops.placement import Int8, missing_scales, placement_from_model
from builders.repository.layout import Repository
from builders.spec.model import Model
from builders.weights import file_sha256, load_weights
from personserve.internal.files import write_text

Method = Literal["entropy", "percentile", "max"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Calibration methods. `max` is the default: on crops of people, with stand-in weights,
it came nearest to FP32 for both the gender and the ReID network, and entropy clipped
far too much.
"""

TABLE_FILE = "int8.json"
FINETUNED_FILE = "int8.safetensors"
HELD_OUT_FILE = "int8_check.npz"
"""Reference answers for the crops that calibration held out."""


class QuantisationError(BuildersError, ValueError):
    """A table cannot be made, read or used; the message gives the reason and a fix."""


@dataclass(frozen=True)
class Int8Table:
    """Scales of a model's tensors, and their origin.

    Attributes:
        model: Name of the model.
        weights: Origin of the weights that the scales were calibrated with, as text.
        method: Calibration method.
        images: Number of calibration images.
        images_sha256: Hash of their names and sizes.
        made_by: Name and version of the calibrating library.
        date: Date of the calibration (ISO 8601).
        scales: Scale by tensor: its largest magnitude / 127.
        finetuned_sha256: Hash of FINETUNED_FILE, if INT8 has weights of its own.
    """

    model: str
    weights: str
    method: str
    images: int
    images_sha256: str
    made_by: str
    date: str
    scales: Mapping[str, float]
    finetuned_sha256: str | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """All facts for a record: a hash takes the place of the scales."""
        facts = asdict(self)
        scales = json.dumps(facts.pop("scales"), sort_keys=True)
        return facts | {"scales_sha256": hashlib.sha256(scales.encode()).hexdigest()}

    def save(self, repository: Repository) -> Path:
        """Write the table into the model's folder.

        Args:
            repository: The repository that has the model.

        Returns:
            The path of the file.
        """
        path = repository.folder(self.model) / TABLE_FILE
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")
        return path


def load_table(repository: Repository, model: Model, weights: str) -> Int8Table:
    """Read the table of a model.

    Args:
        repository: The repository that has the model.
        model: The declaration.
        weights: Origin of the weights to be quantised, as text.

    Returns:
        The table.

    Raises:
        QuantisationError: If the model has no convolution for INT8, there is no table,
            it cannot be read, or it was calibrated with other weights.
    """
    path = repository.folder(model.name) / TABLE_FILE
    command = f"python -m builders calibrate {model.name} --images FOLDER"
    if not path.is_file():
        require_int8_layers(model)
        raise QuantisationError(
            f"{model.name} has no INT8 table yet; calibrate it: {command}"
        )
    try:
        table = Int8Table(**json.loads(path.read_text(encoding="utf-8")))
        bad = [k for k, v in table.scales.items() if not 0 < float(v) < float("inf")]
    except (ValueError, TypeError, AttributeError) as exc:
        raise QuantisationError(
            f"{path}: not an INT8 table ({exc}); {command}"
        ) from exc
    if bad:
        raise QuantisationError(f"{path}: the scale of {bad[0]} is not positive")
    if table.weights != weights:
        raise QuantisationError(
            f"{path} was calibrated with {table.weights}, and {model.name} serves "
            f"{weights}; calibrate again: {command}"
        )
    return table


def require_int8_layers(model: Model) -> None:
    """Check that INT8 has a use for a model.

    Args:
        model: The declaration.

    Raises:
        QuantisationError: If none of its layers can run in INT8.
    """
    if not placement_from_model(model).layers:
        raise QuantisationError(
            f"{model.name} has no convolution that could run in INT8; build it in "
            "another precision"
        )


def int8_from_table(model: Model, table: Int8Table) -> Int8:
    """Combine the model's own placement with the scales of a table.

    Args:
        model: The declaration.
        table: The model's table.

    Returns:
        Placement and scales, as the backends take them.

    Raises:
        QuantisationError: If scales are missing because the wiring has changed.
    """
    placement = placement_from_model(model, model.int8_exclude)
    missing = missing_scales(placement, table.scales)
    if missing:
        raise QuantisationError(
            f"the INT8 table of {model.name} has no scale for {', '.join(missing[:3])}"
            f" ({len(missing)} in all); python -m builders calibrate {model.name}"
        )
    return Int8(placement, table.scales)


def load_finetuned_arrays(
    repository: Repository, model: Model, table: Int8Table
) -> Mapping[str, Any]:
    """Read the weights that were fine-tuned for a table.

    Args:
        repository: The repository that has the model.
        model: The declaration.
        table: The model's table, with `finetuned_sha256`.

    Returns:
        Arrays by checkpoint name.

    Raises:
        QuantisationError: If the file is missing or is not the one that the table
            names.
    """
    path = repository.folder(model.name) / FINETUNED_FILE
    if not path.is_file() or file_sha256(path) != table.finetuned_sha256:
        raise QuantisationError(
            f"{path} is missing, or is not the file that {TABLE_FILE} names; fine-tune "
            f"again: python -m builders finetune-int8 {model.name} --images FOLDER"
        )
    return load_weights(model, path).arrays
