"""Building for a target: from weights to files in the repository.

A file lands only after it was checked against the torch reference, and lands whole.
What its inputs have not changed is not built again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from builders import config
from builders.catalogue import catalogue
from builders.parity import parity_crops, require_parity
from builders.repository import ROOT, Repository, atomic_write, write_text
from builders.spec import Declaration, Ensemble, Model, PythonModel
from builders.weights import (
    Checkpoint,
    CheckpointError,
    Origin,
    StandIn,
    Weights,
    file_sha256,
    load_weights,
    stand_in_weights,
)

RUNTIME = Path(__file__).with_name("runtimes") / "cpu_model.py"
ONNX_FILE = "model.onnx"
GRAPH_SOURCES = ("ops", "networks", "models", "weights/standin.py")
"""Parts of builders/ that decide what is in a built file."""

Report = Callable[[str], None]
"""Told what a build is doing, in a few words, as it goes."""


@dataclass(frozen=True)
class Built:
    """What became of one model's build."""

    path: Path
    origin: Origin
    fresh: bool
    parity: str


def choose_weights(
    model: Model, repository: Repository, path: Path | None, *, stand_in: bool
) -> Origin:
    """Which weights to build `model` from: the file at `path`, stand-ins if asked,
    else what weights.json says. Raises CheckpointError where that file is not there
    or is another one.
    """
    if stand_in:
        return StandIn()
    if path is not None:
        if not path.is_file():
            raise CheckpointError(f"--weights {path}: no such file")
        return Checkpoint(str(path), file_sha256(path))
    origin = repository.origin(model.name)
    if isinstance(origin, Checkpoint):
        recorded = Path(origin.file)
        if not recorded.is_file():
            raise CheckpointError(
                f"{model.name} serves {origin}, and {recorded} is not here; pass "
                "--weights FILE, or --stand-in for untrained weights"
            )
        if file_sha256(recorded) != origin.sha256:
            raise CheckpointError(
                f"{recorded} is not the file that weights.json names ({origin}); pass "
                "--weights FILE to serve what is there now"
            )
    return origin


def build_cpu(
    model: Model, origin: Origin, repository: Repository, report: Report
) -> Built:
    """model.onnx and the ONNX Runtime TritonPythonModel of `model`.

    Raises CheckpointError, ParityError or onnx.checker.ValidationError; then nothing
    in the repository has changed.
    """
    artefact = repository.built(model.name, ONNX_FILE)
    inputs = {"weights": str(origin), "graph": graph_digest()}
    record = repository.record(artefact)
    unchanged = record is not None and record["inputs"] == inputs
    if record is None or not unchanged:
        weights = _weights(model, origin, report)
        data, parity = _checked_onnx(model, weights, report)
        report("writing")
        with atomic_write(artefact) as partial:
            partial.write_bytes(data)
        record = {"inputs": inputs, "parity": parity, "built": _now()}
        repository.write_record(artefact, record)
    _copy(RUNTIME, repository.built(model.name, RUNTIME.name))
    if repository.origin(model.name) != origin:
        repository.set_origin(model.name, origin)
        render(repository)
    return Built(artefact, origin, not unchanged, record["parity"])


def build_python(model: PythonModel, repository: Repository) -> None:
    """A Python model's files, laid beside each other as the server imports them."""
    _copy(model.source, repository.built(model.name, "model.py"))
    for module in model.modules:
        package = repository.built(model.name, module.parent.name)
        _copy(module, package / module.name)
        # a package of its own, so that it wins over an installed one of another age
        write_text(package / "__init__.py", "")


def build_joints(repository: Repository) -> None:
    """Everything that has no weights: Python models, and ensembles' version folders
    (an ensemble's is empty, and git keeps no empty folders).
    """
    for declaration in catalogue().values():
        if isinstance(declaration, PythonModel):
            build_python(declaration, repository)
        elif isinstance(declaration, Ensemble):
            repository.built(declaration.name, "").mkdir(parents=True, exist_ok=True)


def is_built(declaration: Declaration, repository: Repository, target: str) -> bool:
    """Whether all files are there that `target` needs to load `declaration`."""
    if isinstance(declaration, PythonModel):
        return repository.built(declaration.name, "model.py").is_file()
    if isinstance(declaration, Model):
        needs = {
            "cpu": (ONNX_FILE, RUNTIME.name),
            "onnxruntime": (ONNX_FILE,),
            "tensorrt": ("model.plan",),
        }[target]
        return all(repository.built(declaration.name, file).is_file() for file in needs)
    return all(is_built(s.model, repository, target) for s in declaration.steps)


def render(repository: Repository, *, check: bool = False) -> list[Path]:
    """Write every config that differs from what is on disk, or with `check` only say
    which do. Returns their paths.
    """
    changed = []
    for declaration in catalogue().values():
        for path, text in config.configs(declaration, repository):
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                changed.append(path)
                if not check:
                    write_text(path, text)
    return changed


def graph_digest() -> str:
    """A hash of the code that decides what is built."""
    digest = hashlib.sha256(version("onnx").encode())
    for part in GRAPH_SOURCES:
        path = ROOT / "builders" / part
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _weights(model: Model, origin: Origin, report: Report) -> Weights:
    if isinstance(origin, StandIn):
        report("making stand-in weights")
        return stand_in_weights(model, origin.seed)
    report(f"reading {Path(origin.file).name}")
    return load_weights(model, Path(origin.file))


def _checked_onnx(model: Model, weights: Weights, report: Report) -> tuple[bytes, str]:
    import onnxruntime

    from builders.ops.onnx import onnx_from_model
    from builders.ops.torch import Reference

    report("wiring the ONNX graph")
    data = onnx_from_model(model, weights.arrays).SerializeToString()
    report("comparing ONNX Runtime with torch")
    crops = parity_crops(model)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    got = dict(zip(names, session.run(names, crops), strict=True))
    reference = Reference(model, weights.arrays)(**crops)
    found = require_parity(got, reference, model.tolerance, f"{model.name} in ONNX")
    return data, ", ".join(f"{d.output} {d.max_abs:.1e}" for d in found)


def _copy(source: Path, path: Path) -> None:
    if path.is_file() and path.read_bytes() == source.read_bytes():
        return
    with atomic_write(path) as partial:
        shutil.copyfile(source, partial)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


BUILDERS: dict[str, Callable[[Model, Origin, Repository, Report], Built]] = {
    "cpu": build_cpu,
}
"""How a model is built, by target."""
