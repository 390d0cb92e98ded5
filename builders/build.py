"""Building for a target: from weights to files in the repository.

A file lands only after it was checked, and lands whole, with a record of what it was
made from beside it (for a plan, that record is its passport). What its inputs have not
changed is not built again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from builders import config
from builders.catalogue import catalogue
from builders.check import Check, measures, reference_check
from builders.onnx_file import checked_onnx_file
from builders.parity import ParityError, onnx_runner, parity_inputs, require_parity
from builders.quantisation.table import (
    CHECK_FILE,
    Int8Table,
    QuantisationError,
    finetuned_arrays,
    int8_of,
    load_table,
)
from builders.repository import ROOT, Repository
from builders.runtimes.cpu_session import ONNX_RUNTIME, OPENVINO, has_bf16
from builders.spec import Declaration, Ensemble, Model, Network, PythonModel
from builders.tensorrt.engine import current_gpu
from builders.tensorrt.library import (
    Library,
    PlanError,
    Precision,
    Target,
    load_library,
)
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
from personserve._files import atomic_write, write_text

RUNTIMES = Path(__file__).with_name("runtimes")
ENGINE_MODULE = Path(__file__).with_name("tensorrt") / "engine.py"
ONNX_FILE = "model.onnx"
PLAN_FILE = "model.plan"
GRAPH_SOURCES = ("ops", "networks", "models", "tensorrt", "weights/standin.py")
"""Parts of builders/ that decide what is in a built file."""

CPU_RUNTIMES: Mapping[Precision, tuple[str, ...]] = {
    "fp32": (ONNX_RUNTIME, OPENVINO),
    "bf16": (OPENVINO,),
    "int8": (ONNX_RUNTIME, OPENVINO),
}
"""What runs model.onnx, by precision; the first if none is asked for."""

BUILD_TARGETS = ("cpu", "tensorrt", "rtx")

NEEDS: dict[str, tuple[str, ...]] = {
    "cpu": (ONNX_FILE, "cpu_model.py", "cpu_session.py"),
    "openvino": (ONNX_FILE,),
    "onnxruntime": (ONNX_FILE,),
    "tensorrt": (PLAN_FILE,),
    "rtx": (PLAN_FILE, "plan_model.py", ENGINE_MODULE.name),
}
"""Files of a network that the server loads, by target."""

Report = Callable[[str], None]
"""Told what a build is doing, in a few words, as it goes."""


@dataclass(frozen=True)
class BuildOptions:
    """How to build. `runtime` is what runs the cpu target; `gpus` names GPU types for
    TensorRT-RTX; `from_onnx` goes through NVIDIA's parser instead of our ops.
    """

    precision: Precision = "fp32"
    gpus: tuple[str, ...] = ()
    from_onnx: bool = False
    runtime: str | None = None


@dataclass(frozen=True)
class Built:
    """What became of one model's build; `summary` is for people."""

    path: Path
    origin: Origin
    fresh: bool
    summary: str


def choose_weights(
    model: Network, repository: Repository, path: Path | None, *, stand_in: bool
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


def build(
    target: str,
    model: Network,
    origin: Origin,
    repository: Repository,
    options: BuildOptions,
    report: Report,
) -> Built:
    """Build `model` for `target`: its file, record, and what runs it on the server.

    Raises CheckpointError, ParityError, PlanError, QuantisationError, OnnxFileError or
    onnx.checker.ValidationError; then nothing in the repository has changed.
    """
    library = load_library(_plan_target(target)) if target != "cpu" else None
    runtime = _cpu_runtime(options) if library is None else ""
    table = _table(model, origin, repository, options)
    artefact = repository.built(model.name, PLAN_FILE if library else ONNX_FILE)
    inputs = {"weights": str(origin), "graph": graph_digest()}
    if library is not None:
        inputs |= _plan_inputs(library, options)
    elif (runtime, options.precision) != (ONNX_RUNTIME, "fp32"):
        inputs |= {"runtime": runtime, "precision": options.precision}
    if table is not None:
        inputs |= {"int8": table.summary["steps_sha256"]}
    record = repository.record(artefact)
    fresh = record is None or record["inputs"] != inputs
    if fresh:
        source = _Source(model, origin, repository, table)
        if library is None:
            data, facts = _cpu_file(source, runtime, options.precision, report)
        else:
            data, facts = _plan_file(library, source, options, report)
        report("writing")
        with atomic_write(artefact) as partial:
            partial.write_bytes(data)
        record = {**facts, "inputs": inputs, "built": _now()}
        repository.write_record(artefact, record)
    # a plan can be served by either of the targets that load plans
    for file in NEEDS["cpu" if library is None else "rtx"]:
        module = ENGINE_MODULE if file == ENGINE_MODULE.name else RUNTIMES / file
        if module.suffix == ".py":
            _copy(module, repository.built(model.name, file))
    if repository.origin(model.name) != origin:
        repository.set_origin(model.name, origin)
        render(repository)
    return Built(artefact, origin, fresh, str((record or {}).get("summary", "")))


def build_joints(repository: Repository) -> None:
    """Everything that has no weights: Python models, and ensembles' version folders
    (an ensemble's is empty, and git keeps no empty folders).
    """
    for declaration in catalogue().values():
        if isinstance(declaration, PythonModel):
            _build_python(declaration, repository)
        elif isinstance(declaration, Ensemble):
            repository.built(declaration.name, "").mkdir(parents=True, exist_ok=True)


def int8_check(
    model: Model, origin: Origin, repository: Repository, report: Report
) -> Check:
    """What INT8 is judged by: the crops that calibration held out, where they are here,
    because ranges of people's crops need not hold for noise; else the usual ones.
    """
    path = repository.built(model.name, CHECK_FILE)
    if path.is_file():
        check = Check.load(path)
        if check.origin == str(origin):
            return check
    return reference_check(model, load(model, origin, report).arrays, origin)


def is_built(declaration: Declaration, repository: Repository, target: str) -> bool:
    """Whether all files are there that `target` needs to load `declaration`."""
    if isinstance(declaration, Ensemble):
        return all(is_built(s.model, repository, target) for s in declaration.steps)
    needs = NEEDS[target] if isinstance(declaration, Network) else ("model.py",)
    return all(repository.built(declaration.name, file).is_file() for file in needs)


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
    digest = hashlib.sha256()
    for part in GRAPH_SOURCES:
        path = ROOT / "builders" / part
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def load(model: Model, origin: Origin, report: Report = lambda _doing: None) -> Weights:
    """The weights that `origin` stands for. Raises CheckpointError."""
    if isinstance(origin, StandIn):
        report("making stand-in weights")
        return stand_in_weights(model, origin.seed)
    report(f"reading {Path(origin.file).name}")
    return load_weights(model, Path(origin.file))


def _table(
    model: Network, origin: Origin, repository: Repository, options: BuildOptions
) -> Int8Table | None:
    if options.precision != "int8":
        return None
    if not isinstance(model, Model):
        raise QuantisationError(
            f"{model.name} is an imported ONNX file; quantise the file and import that"
        )
    return load_table(repository, model, str(origin))


@dataclass(frozen=True)
class _Source:
    """What a file is made from."""

    model: Network
    origin: Origin
    repository: Repository
    table: Int8Table | None

    def arrays(self, model: Model, report: Report) -> Mapping[str, Any]:
        """The weights; in INT8 those that were fine-tuned for it, if any were."""
        if self.table is not None and self.table.finetuned_sha256 is not None:
            report("reading fine-tuned weights")
            return finetuned_arrays(self.repository, model, self.table)
        return load(model, self.origin, report).arrays


def _cpu_runtime(options: BuildOptions) -> str:
    """What will run the file. Raises PlanError where that cannot be."""
    runtimes = CPU_RUNTIMES.get(options.precision)
    if runtimes is None:
        raise PlanError(
            f"the cpu target builds {', '.join(CPU_RUNTIMES)}, not {options.precision}"
        )
    runtime = options.runtime or runtimes[0]
    if runtime not in runtimes:
        raise PlanError(f"{runtime} does not run {options.precision} on the CPU")
    if options.precision == "bf16" and not has_bf16():
        raise PlanError("this CPU does not compute in BF16 (AVX512-BF16 or AMX)")
    return runtime


def _cpu_file(
    source: _Source, runtime: str, precision: Precision, report: Report
) -> tuple[bytes, dict[str, Any]]:
    """model.onnx, and how it is to be run."""
    model = source.model
    how = {"runtime": runtime, "precision": precision}
    if not isinstance(model, Model):
        data = checked_onnx_file(model, source.origin)
        return data, how | {"summary": "as imported"}
    if source.table is not None:
        data, facts = _int8_onnx(model, source, source.table, how, report)
        return data, how | facts
    weights = load(model, source.origin, report)
    data, parity = _checked_onnx(model, weights, report)
    if runtime == ONNX_RUNTIME:
        return data, how | {"summary": f"differs from torch by {parity}"}
    report(f"comparing {runtime} with torch")
    check = reference_check(model, weights.arrays, source.origin)
    found = measures(model, check, onnx_runner(data, how), "cpu", precision)
    parity = "; ".join(str(measure) for measure in found)
    if not all(measure.passed for measure in found):
        raise ParityError(
            f"{model.name} in {precision} by {runtime} is outside its tolerance: "
            f"{parity}"
        )
    return data, how | {"summary": f"{precision} by {runtime}; {parity}"}


def _int8_onnx(
    model: Model,
    source: _Source,
    table: Int8Table,
    how: Mapping[str, str],
    report: Report,
) -> tuple[bytes, dict[str, Any]]:
    from builders.ops.onnx import onnx_from_model

    int8 = int8_of(model, table)
    arrays = source.arrays(model, report)
    report("wiring the INT8 graph")
    data = onnx_from_model(model, arrays, int8).SerializeToString()
    report("comparing with torch in FP32")
    check = int8_check(model, source.origin, source.repository, report)
    found = measures(model, check, onnx_runner(data, how), "cpu", "int8")
    parity = "; ".join(str(measure) for measure in found)
    if not all(measure.passed for measure in found):
        raise ParityError(
            f"{model.name} in INT8 is outside its tolerance (probabilities within "
            f"{model.tolerance.int8_abs:g}, cosine {model.tolerance.int8_cosine:g}): "
            f"{parity}. Calibrate with more or other images or another --method; see "
            f"which layers cost most (python -m builders sensitivity {model.name}) and "
            "keep them float with int8_exclude; or fine-tune (finetune-int8)"
        )
    layers = len(int8.placement.layers)
    return data, {
        "calibration": table.summary,
        "summary": f"int8, {layers} convolutions; against FP32: {parity}",
    }


def _checked_onnx(model: Model, weights: Weights, report: Report) -> tuple[bytes, str]:
    from builders.ops.onnx import onnx_from_model
    from builders.ops.torch import Reference

    report("wiring the ONNX graph")
    data = onnx_from_model(model, weights.arrays).SerializeToString()
    report("comparing ONNX Runtime with torch")
    inputs = parity_inputs(model)
    # the reference copies the weights, and is gone before ONNX Runtime does
    reference = Reference(model, weights.arrays)(**inputs)
    got = onnx_runner(data)(**inputs)
    found = require_parity(got, reference, model.tolerance, f"{model.name} in ONNX")
    return data, ", ".join(f"{d.output} {d.max_abs:.1e}" for d in found)


def _plan_target(target: str) -> Target:
    return "rtx" if target == "rtx" else "tensorrt"


def _plan_inputs(library: Library, options: BuildOptions) -> dict[str, Any]:
    """What a plan depends on besides weights and code."""
    gpu = current_gpu()
    here = [gpu.capability] if gpu and not library.chooses_gpu else []
    return {
        "library": str(library),
        "precision": options.precision,
        "gpus": list(options.gpus) or here,
        "from_onnx": options.from_onnx,
    }


def _plan_file(
    library: Library, source: _Source, options: BuildOptions, report: Report
) -> tuple[bytes, dict[str, Any]]:
    """A plan and its passport."""
    model, origin = source.model, source.origin
    from builders.tensorrt.plan import PlanOptions, plan_from_model, plan_from_onnx

    gpu = current_gpu()
    cache = f"{library.target}-{library.version}-{gpu.capability if gpu else 'none'}"
    how = PlanOptions(
        options.precision, options.gpus, timing_cache=ROOT / ".timing" / cache
    )
    if isinstance(model, Model) and not options.from_onnx:
        arrays = source.arrays(model, report)
        int8 = int8_of(model, source.table) if source.table else None
        plan = plan_from_model(library, model, arrays, how, report, int8)
    else:
        data, _ = _cpu_file(source, ONNX_RUNTIME, "fp32", report)
        plan = plan_from_onnx(library, data, model.inputs, model.batching, how, report)
    tensors = {t.name: t for t in (*model.inputs, *model.output_tensors)}
    counted = ", ".join(f"{n} {kind}" for kind, n in plan.types.items())
    return plan.data, {
        "library": library.name,
        "version": library.version,
        "gpus": list(options.gpus) or ([gpu.capability] if gpu else []),
        "gpu_name": gpu.name if gpu else None,
        "precision": options.precision,
        "profile": [1, model.batching.usual, model.batching.maximum],
        "tensors": {n: [t.data_type, *t.shape] for n, t in tensors.items()},
        "weights": str(origin),
        "stand_in": isinstance(origin, StandIn),
        "calibration": source.table.summary if source.table else None,
        "convolutions": plan.types,
        "convolutions_from": plan.types_from,
        "parity": None,
        "summary": f"{library}, {options.precision}, convolutions: {counted} "
        f"({plan.types_from})",
    }


def _build_python(model: PythonModel, repository: Repository) -> None:
    """A Python model's files, laid beside each other as the server imports them."""
    _copy(model.source, repository.built(model.name, "model.py"))
    for module in model.modules:
        package = repository.built(model.name, module.parent.name)
        _copy(module, package / module.name)
        # a package of its own, so that it wins over an installed one of another age
        write_text(package / "__init__.py", "")


def _copy(source: Path, path: Path) -> None:
    if path.is_file() and path.read_bytes() == source.read_bytes():
        return
    with atomic_write(path) as partial:
        shutil.copyfile(source, partial)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
