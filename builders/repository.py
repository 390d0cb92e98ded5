"""The model repository on disk: where things lie, and writing them whole or not at all.

    model_repository/<model>/config.pbtxt         rendered, committed
                             configs/<target>.pbtxt
                             weights.json         committed; absent for stand-ins
                             verified.json        what passed, where; committed
                             1/...                built, ignored by git

Every built file has a record beside it (`<file>.json`) that says what it was made
from; that is how `build` knows what is up to date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builders.weights import Checkpoint, Origin, StandIn, file_sha256
from personserve._files import write_text

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"
VERSION = "1"


class Repository:
    """A model repository at `root`."""

    def __init__(self, root: Path = REPOSITORY) -> None:
        self.root = root

    def folder(self, model: str) -> Path:
        """<root>/<model>."""
        return self.root / model

    def built(self, model: str, file: str) -> Path:
        """Where `file` of `model` is built."""
        return self.folder(model) / VERSION / file

    def origin(self, model: str) -> Origin:
        """Which weights `model` is declared to serve: those of weights.json, or
        stand-ins. Raises ValueError for a weights.json that cannot be read.
        """
        path = self.folder(model) / "weights.json"
        if not path.exists():
            return StandIn()
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return Checkpoint(str(record["file"]), str(record["sha256"]))
        except (ValueError, KeyError, TypeError) as exc:
            raise ValueError(
                f"{path}: expected {{file, sha256}}, got something else ({exc!r}); "
                "build with --weights FILE or --stand-in to write it again"
            ) from exc

    def set_origin(self, model: str, origin: Origin) -> None:
        """Record which weights `model` serves from now on."""
        path = self.folder(model) / "weights.json"
        if isinstance(origin, StandIn):
            path.unlink(missing_ok=True)
        else:
            record = {"file": origin.file, "sha256": origin.sha256}
            write_text(path, json.dumps(record, indent=2) + "\n")

    def verifications(self, model: str) -> dict[str, Any]:
        """What `verify` has passed of `model`, by target and precision; committed."""
        path = self.folder(model) / "verified.json"
        if not path.exists():
            return {}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def add_verification(self, model: str, what: str, facts: Mapping[str, Any]) -> None:
        """Note that `what` (target and precision) of `model` passed."""
        every = dict(sorted({**self.verifications(model), what: dict(facts)}.items()))
        text = json.dumps(every, indent=2) + "\n"
        write_text(self.folder(model) / "verified.json", text)

    def record(self, artefact: Path) -> dict[str, Any] | None:
        """The record of a built file, or None where there is none or where it is not
        this file's (a build was cut short between the two, or the file was replaced).
        """
        try:
            record = json.loads(_record_path(artefact).read_text(encoding="utf-8"))
            fits = record["sha256"] == file_sha256(artefact)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if fits else None

    def write_record(self, artefact: Path, facts: Mapping[str, Any]) -> None:
        """Write what `artefact` was made from, beside it."""
        record = {**facts, "sha256": file_sha256(artefact)}
        write_text(_record_path(artefact), json.dumps(record, indent=2) + "\n")


def _record_path(artefact: Path) -> Path:
    return artefact.with_name(f"{artefact.name}.json")
