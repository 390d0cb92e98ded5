"""The model repository on disk: paths, records, versions, and atomic writes.

    model_repository/<model>/config.pbtxt             rendered, committed
                             configs/<target>.pbtxt   rendered, committed
                             configs/<target>-<cores>.pbtxt   rendered, local
                             weights.json             committed: file, SHA-256 and
                                                      variant; absent for stand-ins
                             1/*.py                   rendered, committed
                             1/model.onnx, 1/model.plan      built, ignored by git
                             2/, 3/                   later versions, ignored by git
                             withdrawn-4/             not served any more, ignored
                             pending-5/               not judged yet, ignored

Every built file has a record, `<file>.json`, that says what it was made from; `build`
reads it to decide whether a file is up to date. A valid built file is never replaced:
a server may have it open, and a rollout may have to go back to it. `build` adds a
version instead, which has the other files of the version before. Python models and
ensembles have version 1 only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from builders.errors import BuildersError
from builders.repository.versions import (
    add_version,
    latest_version,
    list_versions,
    prune_versions,
)
from builders.spec.catalogue import catalogue, with_python_models
from builders.spec.ensemble import Declaration, Ensemble, PythonModel
from builders.spec.model import Model, Network
from builders.spec.variants import DEFAULT_VARIANT, VariantError
from builders.weights import (
    Checkpoint,
    Origin,
    StandIn,
    file_sha256,
    origin_from_text,
    read_training_record,
)
from personserve.internal.files import atomic_write, write_text

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ROOT / "model_repository"
ONNX_FILE = "model.onnx"
PLAN_FILE = "model.plan"

ARTEFACTS: Mapping[str, str] = {
    "cpu": ONNX_FILE,
    "openvino": ONNX_FILE,
    "onnxruntime": ONNX_FILE,
    "tensorrt": PLAN_FILE,
    "rtx": PLAN_FILE,
}
"""The built file that a network needs, by target."""


class RepositoryError(BuildersError, ValueError):
    """A file of the repository is damaged; the message says how to write it again."""


class Repository:
    """A model repository in the folder `root`."""

    def __init__(self, root: Path = REPOSITORY) -> None:
        self.root = root

    def folder(self, model: str) -> Path:
        """Return the folder of a model.

        Args:
            model: Name of the model.
        """
        return self.root / model

    def version(self, model: str) -> int:
        """Return the version of a model that a server loads.

        Args:
            model: Name of the model.
        """
        return latest_version(self.folder(model))

    def artefact_path(self, model: str, file: str, version: int | None = None) -> Path:
        """Return the path of a file in a version folder of a model.

        Args:
            model: Name of the model.
            file: File name, for example "model.onnx".
            version: Number of the version; None for the one that a server loads.
        """
        return self.folder(model) / str(version or self.version(model)) / file

    def previous_version(self, model: str, file: str, before: int) -> int | None:
        """Return the highest version below a number that has a valid built file.

        Args:
            model: Name of the model.
            file: File name, for example "model.onnx".
            before: Number above the wanted version.

        Returns:
            Its number, or None if there is none to go back to.
        """
        for version in reversed(list_versions(self.folder(model))):
            path = self.artefact_path(model, file, version)
            if version < before and self.record(path) is not None:
                return version
        return None

    def origin(self, model: str) -> Origin:
        """Return the weights that a model serves: those of weights.json, or stand-ins.

        Args:
            model: Name of the model.

        Raises:
            RepositoryError: weights.json cannot be read.
        """
        path = self._weights_path(model)
        if not path.exists():
            return StandIn()
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            variant = str(record.get("variant", DEFAULT_VARIANT))
            if "file" not in record and "variant" in record:
                return StandIn(variant=variant)
            file, sha256 = str(record["file"]), str(record["sha256"])
        except (AttributeError, ValueError, KeyError, TypeError) as exc:
            raise RepositoryError(
                f"{path}: expected {{file, sha256}}, got something else ({exc!r}); "
                "build with --weights FILE or --stand-in to write it again"
            ) from exc
        return Checkpoint(self._find_checkpoint(model, file, sha256), sha256, variant)

    def served_declaration(self, declaration: Declaration) -> Declaration:
        """Return a declaration in the variants of models that this repository serves.

        Args:
            declaration: A network, Python model or ensemble, in any variant.

        Raises:
            RepositoryError: A weights.json cannot be read, or names an unknown variant.
        """
        if isinstance(declaration, Network):
            return self.served_network(declaration)
        if isinstance(declaration, Ensemble):
            return declaration.with_models(self._in_served_variant)
        return declaration

    def served_network(self, network: Network) -> Network:
        """Return a network in the variant that this repository serves.

        Args:
            network: A model in any variant, or an imported ONNX file.

        Raises:
            RepositoryError: weights.json cannot be read, or names an unknown variant.
        """
        if isinstance(network, Model):
            return self._in_served_variant(network)
        return network

    def declarations(self) -> dict[str, Declaration]:
        """Return all declarations by name, in the variants that are served here."""
        known = catalogue()
        # the crops that a shared Python model cuts follow the variants of the networks
        steps = {name for each in known.values() for name in _python_steps(each)}
        served = [
            self.served_declaration(each) for n, each in known.items() if n not in steps
        ]
        return with_python_models(served)

    def _in_served_variant(self, model: Model) -> Model:
        variant = self.origin(model.name).variant
        try:
            return model.in_variant(variant)
        except VariantError as exc:
            raise RepositoryError(
                f"{self._weights_path(model.name)}: {exc}; build with --variant to "
                "write it again"
            ) from exc

    def _find_checkpoint(self, model: str, file: str, sha256: str) -> str:
        """Return where a checkpoint is on this machine, or its recorded name."""
        places = [self.root.parent / file]  # an absolute path stays as it is
        for artefact in dict.fromkeys(ARTEFACTS.values()):
            with suppress(OSError, ValueError, KeyError, TypeError):
                record = _read_record(self.artefact_path(model, artefact))
                if sha256 in record["inputs"]["weights"]:
                    places.insert(0, Path(record["weights_file"]))
        return next((str(path) for path in places if path.is_file()), file)

    def set_origin(self, model: str, origin: Origin) -> None:
        """Record the weights that a model serves from now on.

        A checkpoint in the folder of this repository is recorded by its path from
        there, any other by its name: weights.json is committed, and the paths of one
        machine are of no use on another. Its place on this machine is in the record of
        the built file.

        Args:
            model: Name of the model.
            origin: Its checkpoint, or stand-ins.
        """
        path = self._weights_path(model)
        record = {}
        if isinstance(origin, Checkpoint):
            record = {
                "file": self._portable_name(origin),
                "sha256": origin.sha256,
                **read_training_record(Path(origin.file), origin.sha256),
            }
        if origin.variant != DEFAULT_VARIANT:
            record["variant"] = origin.variant
        if not record:
            path.unlink(missing_ok=True)
            return
        text = json.dumps(record, indent=2) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    def _portable_name(self, origin: Checkpoint) -> str:
        file, folder = Path(origin.file).resolve(), self.root.resolve().parent
        is_inside = file.is_relative_to(folder)
        return (file.relative_to(folder) if is_inside else Path(file.name)).as_posix()

    def _weights_path(self, model: str) -> Path:
        return self.folder(model) / "weights.json"

    def store(
        self, model: str, file: str, data: bytes, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a built file and its record, and return the record.

        The file goes into the latest version if that has no valid file of this name.
        Otherwise it goes into a new version, which appears complete or not at all, and
        old versions are removed.

        Args:
            model: Name of the model.
            file: File name, for example "model.onnx".
            data: Content of the file.
            facts: What the file was made from; JSON values.
        """
        path = self.artefact_path(model, file)
        if self.record(path) is None:
            return self._write_artefact(path, data, facts)
        with add_version(self.folder(model)) as folder:
            record = self._write_artefact(folder / file, data, facts)
        prune_versions(self.folder(model))
        return record

    def _write_artefact(
        self, path: Path, data: bytes, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        with atomic_write(path) as partial:
            partial.write_bytes(data)
        return self.write_record(path, facts)

    def record(self, artefact: Path) -> dict[str, Any] | None:
        """Return the record of a built file.

        Args:
            artefact: Path of the built file.

        Returns:
            The record, or None where there is none or where it belongs to another
            file: a build was cut short between the two, or the file was replaced.
        """
        try:
            record = _read_record(artefact)
            is_current = record["sha256"] == file_sha256(artefact)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if is_current else None

    def write_record(self, artefact: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record of a built file, and return it.

        Args:
            artefact: Path of the built file.
            facts: What the file was made from; JSON values.
        """
        record = {**facts, "sha256": file_sha256(artefact)}
        write_text(_record_path(artefact), json.dumps(record, indent=2) + "\n")
        return record

    def is_built(self, declaration: Declaration, target: str) -> bool:
        """Return whether the server could load a declaration for a target.

        A built file counts only with its record: without one, or with the record of
        another file, its weights and precision are unknown.

        Args:
            declaration: A network, Python model or ensemble.
            target: Name of the target, for example "cpu".
        """
        if isinstance(declaration, Ensemble):
            return all(self.is_built(s.model, target) for s in declaration.steps)
        if isinstance(declaration, Network):
            path = self.artefact_path(declaration.name, ARTEFACTS[target])
            return self.record(path) is not None
        return self.artefact_path(declaration.name, "model.py").is_file()

    def find_unrecorded(self, declaration: Declaration, target: str) -> list[Path]:
        """Return the built files of a declaration that have no record of their own.

        Args:
            declaration: A network, Python model or ensemble.
            target: Name of the target, for example "cpu".
        """
        if isinstance(declaration, Ensemble):
            steps = {s.model.name: s.model for s in declaration.steps}
            return [p for m in steps.values() for p in self.find_unrecorded(m, target)]
        if not isinstance(declaration, Network):
            return []
        path = self.artefact_path(declaration.name, ARTEFACTS[target])
        return [path] if path.is_file() and self.record(path) is None else []

    def is_deployed(self, declaration: Declaration) -> bool:
        """Return whether a declaration belongs to this repository.

        Models on request do once one of their files is built, ensembles on request once
        they are rendered, and a Python model with one of its ensembles; all others
        always do. A config without a built file would keep a stock tritonserver from
        starting.

        Args:
            declaration: A network, Python model or ensemble.
        """
        if isinstance(declaration, Ensemble):
            return all(map(self.is_deployed, declaration.models)) and (
                not declaration.on_request or self._has_config(declaration.name)
            )
        if isinstance(declaration, PythonModel):
            ensembles = self.find_ensembles(declaration.name)
            return not ensembles or any(map(self.is_deployed, ensembles))
        if not declaration.on_request:
            return True
        files = set(ARTEFACTS.values())
        return any(self.artefact_path(declaration.name, f).is_file() for f in files)

    def find_ensembles(self, model: str) -> list[Ensemble]:
        """Return the ensembles that have a model as a step, deployed or not.

        Args:
            model: Name of a network or Python model.
        """
        return [
            declaration
            for declaration in self.declarations().values()
            if isinstance(declaration, Ensemble)
            and any(step.model.name == model for step in declaration.steps)
        ]

    def _has_config(self, model: str) -> bool:
        return (self.folder(model) / "config.pbtxt").is_file()


def _python_steps(declaration: Declaration) -> set[str]:
    if not isinstance(declaration, Ensemble):
        return set()
    return {model.name for model in declaration.python_models}


def origin_from_record(record: Mapping[str, Any]) -> Origin:
    """Return the weights that a built file was made from.

    Args:
        record: Record of the file.
    """
    return origin_from_text(record["inputs"]["weights"], record.get("weights_file"))


def _record_path(artefact: Path) -> Path:
    return artefact.with_name(f"{artefact.name}.json")


def _read_record(artefact: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_record_path(artefact).read_text("utf-8"))
    return record
