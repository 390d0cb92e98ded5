"""The folder of a run: its state, its tables, and the best weights so far.

recipe.toml        the recipe, as it was read
run.json           data, versions, machine and arguments
steps.tsv          loss and learning rate of every logged step
validation.tsv     scores after every epoch
last.pt            state of the last saved step, for resuming
best.safetensors   weights with the smallest validation loss, for `build`
best.safetensors.json   how they were trained
crops/             decoded images
report.html        the page of the run
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from builders.training.recipes import TrainingError
from builders.weights import file_sha256, write_checkpoint
from personserve.internal.files import atomic_write, write_text

STATE_FILE = "last.pt"
BEST_FILE = "best.safetensors"
FORMAT = 1


class RunFolder:
    """A folder of one run; every file appears complete or not at all.

    Args:
        path: The folder; created if absent.
        digest: Digest of recipe, model, data and first weights. A run is only resumed
            if it is the same.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self.digest = path, digest
        path.mkdir(parents=True, exist_ok=True)
        self._tables: dict[str, list[str]] = {}

    @property
    def best_path(self) -> Path:
        """Path of the best weights."""
        return self.path / BEST_FILE

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write the state that a run is resumed from, and the tables.

        Args:
            state: Tensors, numbers and texts, nested.
        """
        for name, lines in self._tables.items():
            write_text(self.path / name, "\n".join(lines) + "\n")
        content = {
            "format": FORMAT,
            "digest": self.digest,
            "tables": self._tables,
            "state": dict(state),
        }
        with atomic_write(self.path / STATE_FILE) as partial:
            torch.save(content, partial)

    def load_state(self, *, resume: bool) -> dict[str, Any] | None:
        """Return the saved state, or None.

        Args:
            resume: Whether a saved state is wanted.

        Raises:
            TrainingError: There is a state that is not wanted, or of another run.
        """
        path = self.path / STATE_FILE
        if not path.is_file():
            return None
        if not resume:
            raise TrainingError(
                f"{self.path} has a run; continue it with --resume, or choose another "
                "--output"
            )
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as exc:
            # a damaged file can fail in any way
            raise TrainingError(f"{path}: cannot be read ({exc})") from exc
        if content.get("format") != FORMAT or content["digest"] != self.digest:
            raise TrainingError(
                f"{path} is of another run: recipe, model, data set, first weights or "
                "the number of devices differ; choose another --output"
            )
        self._tables = content["tables"]
        return dict(content["state"])

    def add_row(self, table: str, values: Mapping[str, float | int | str]) -> None:
        """Add a row to a table, which is written with the next state.

        Args:
            table: Name of the file.
            values: Values by column; the same columns in every row.
        """
        lines = self._tables.setdefault(table, ["\t".join(values)])
        lines.append(
            "\t".join(
                f"{v:.6g}" if isinstance(v, float) else str(v) for v in values.values()
            )
        )

    def read_table(self, table: str) -> list[dict[str, str]]:
        """Return the rows of a table, by column.

        Args:
            table: Name of the file.
        """
        head, *rows = self._tables.get(table, [""])
        columns = head.split("\t")
        return [dict(zip(columns, row.split("\t"), strict=True)) for row in rows]

    def save_best(
        self, arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, Any]
    ) -> None:
        """Write the best weights, and how they were trained.

        Args:
            arrays: Weights by checkpoint name.
            facts: The record, JSON values.

        Raises:
            CheckpointError: A value is NaN or infinite.
        """
        with atomic_write(self.best_path) as partial:
            write_checkpoint(partial, self.best_path.suffix, arrays)
        record = {**facts, "sha256": file_sha256(self.best_path)}
        path = self.best_path.with_name(f"{BEST_FILE}.json")
        write_text(path, json.dumps(record, indent=2) + "\n")
