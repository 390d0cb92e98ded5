"""The INT8 table of a model: the step of every quantised tensor, and its origin.

It lies in model_repository/<model>/int8.json, readable and committed. A table belongs
to weights: built with others it would clip or waste range, so that is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from builders.ops.placement import Int8, missing, placement_of
from builders.repository import Repository
from builders.spec import Model
from builders.weights import file_sha256, load_weights
from personserve._files import write_text

Method = Literal["entropy", "percentile", "max"]
METHODS: tuple[Method, ...] = get_args(Method)
"""`max` is the default: on people's crops, with stand-in weights, it came nearest to
FP32 for both the gender and the ReID network, and entropy clipped far too much.
"""

FILE = "int8.json"
FINETUNED_FILE = "int8.safetensors"
CHECK_FILE = "int8_check.npz"

CACHE_LINE = re.compile(r"(.+): ([0-9a-fA-F]{8})\s*")


class QuantisationError(ValueError):
    """A table that cannot be made, read or used; says why and what to do."""


@dataclass(frozen=True)
class Int8Table:
    """`steps` is {tensor: largest magnitude / 127}. `weights` is the origin of the
    weights they were measured with; `finetuned_sha256` is set where INT8 has weights of
    its own (FINETUNED_FILE).
    """

    model: str
    weights: str
    method: str
    images: int
    images_sha256: str
    made_by: str
    date: str
    steps: Mapping[str, float]
    finetuned_sha256: str | None = None

    @property
    def summary(self) -> dict[str, Any]:
        """Everything but the steps, and their hash: for passports."""
        facts = asdict(self)
        steps = json.dumps(facts.pop("steps"), sort_keys=True)
        return facts | {"steps_sha256": hashlib.sha256(steps.encode()).hexdigest()}

    def save(self, repository: Repository) -> Path:
        """Write it; its path."""
        path = repository.folder(self.model) / FILE
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")
        return path


def load_table(repository: Repository, model: Model, weights: str) -> Int8Table:
    """The table of `model`, whose weights are `weights`. Raises QuantisationError."""
    path = repository.folder(model.name) / FILE
    command = f"python -m builders calibrate {model.name} --images FOLDER"
    if not path.is_file():
        raise QuantisationError(
            f"{model.name} has no INT8 table yet; measure one: {command}"
        )
    try:
        table = Int8Table(**json.loads(path.read_text(encoding="utf-8")))
        bad = [k for k, v in table.steps.items() if not 0 < float(v) < float("inf")]
    except (ValueError, TypeError, AttributeError) as exc:
        raise QuantisationError(
            f"{path}: not an INT8 table ({exc}); {command}"
        ) from exc
    if bad:
        raise QuantisationError(f"{path}: the step of {bad[0]} is not positive")
    if table.weights != weights:
        raise QuantisationError(
            f"{path} was measured with {table.weights}, and {model.name} serves "
            f"{weights}; measure again: {command}"
        )
    return table


def int8_of(model: Model, table: Int8Table) -> Int8:
    """What backends need: the model's own placement, with the table's steps.

    Raises QuantisationError where the table lacks some: the wiring has changed.
    """
    placement = placement_of(model, model.int8_exclude)
    lacking = missing(placement, table.steps)
    if lacking:
        raise QuantisationError(
            f"the INT8 table of {model.name} has no step for {', '.join(lacking[:3])}"
            f" ({len(lacking)} in all); python -m builders calibrate {model.name}"
        )
    return Int8(placement, table.steps)


def finetuned_arrays(
    repository: Repository, model: Model, table: Int8Table
) -> Mapping[str, Any]:
    """The weights that were fine-tuned for `table`. Raises QuantisationError."""
    path = repository.folder(model.name) / FINETUNED_FILE
    if not path.is_file() or file_sha256(path) != table.finetuned_sha256:
        raise QuantisationError(
            f"{path} is not there, or not the file that {FILE} names; fine-tune again: "
            f"python -m builders finetune-int8 {model.name} --images FOLDER"
        )
    return load_weights(model, path).arrays


def read_tensorrt_cache(path: Path) -> dict[str, float]:
    """{tensor: step} of a TensorRT calibration cache: a header line, then a name and
    the big-endian FP32 of the step a line. Raises QuantisationError with the line.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or not lines[0].startswith("TRT-"):
        raise QuantisationError(
            f"{path.name} line 1: expected a header as TRT-8501-EntropyCalibration2"
        )
    steps = {}
    for number, line in enumerate(lines[1:], start=2):
        found = CACHE_LINE.fullmatch(line)
        if found is None:
            raise QuantisationError(
                f"{path.name} line {number}: expected `tensor: 8 hex digits`, got "
                f"{line[:60]!r}"
            )
        (steps[found[1]],) = struct.unpack(">f", bytes.fromhex(found[2]))
    return steps
