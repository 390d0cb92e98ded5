"""Building for a target: choose weights, compute the file, store it with its record.

A file is written, atomically, only once it has been compared with the torch reference
(plans in INT8 on a machine with the GPU, all others later by `verify`). A file whose
inputs have not changed is not built again. A changed file becomes a new version of the
model, which the next start of a server or a rollout serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from builders.build.cpu import create_cpu_exporter
from builders.build.plan import PlanExporter
from builders.build.source import BuildOptions, BuildSource, Exporter, choose_source
from builders.build.weights_choice import choose_weights, model_for
from builders.progress import Progress, no_progress
from builders.repository.layout import ARTEFACTS, Repository
from builders.repository.render import render_repository
from builders.spec.model import Model, Network
from builders.tensorrt.library import load_library
from builders.weights import Checkpoint, Origin

BUILD_TARGETS = ("cpu", "tensorrt", "rtx")


@dataclass(frozen=True)
class BuildResult:
    """Result of one model's build.

    Attributes:
        model: Name of the model.
        path: The built file.
        origin: Where its weights come from.
        rebuilt: Whether the file was written; False if it was up to date.
        summary: One line for people: precision, runtime, and distance from torch.
    """

    model: str
    path: Path
    origin: Origin
    rebuilt: bool
    summary: str


def build(
    target: str,
    model: Network,
    origin: Origin,
    repository: Repository,
    options: BuildOptions | None = None,
    progress: Progress = no_progress,
) -> BuildResult:
    """Build a model's file for a target, unless it is up to date.

    Args:
        target: "cpu", "tensorrt" or "rtx".
        model: Model to build, in any variant.
        origin: Where its weights come from, and the variant to build.
        repository: Repository to write to. Its configs name the weights, so they are
            rendered again when the origin changes.
        options: Precision and how to reach it; the defaults if None.
        progress: Callback for the current work.

    Raises:
        BuildersError: The weights, the library, the precision or the result do not
            fit; nothing in the repository has changed.
    """
    options = options or BuildOptions()
    model = model_for(model, origin)
    exporter = _create_exporter(target, options)
    source = choose_source(model, origin, repository, options.precision)
    inputs = _collect_inputs(exporter, source)
    file = ARTEFACTS[target]
    path = repository.artefact_path(model.name, file)
    record = repository.record(path)
    rebuilt = record is None or record["inputs"] != inputs
    # a model on request belongs to the repository from its first build on
    was_deployed = repository.is_deployed(model)
    if record is None or rebuilt:
        artefact = exporter.compute(source, progress)
        progress("writing")
        built = datetime.now(timezone.utc).isoformat(timespec="seconds")
        facts = {
            **artefact.facts,
            **_describe_variant(model),
            "inputs": inputs,
            "built": built,
            **_cite_weights(model, origin),
            **_place(origin),
        }
        record = repository.store(model.name, file, artefact.data, facts)
    elif not record.items() >= _place(origin).items():
        record = repository.write_record(path, record | _place(origin))
    if repository.origin(model.name) != origin or not was_deployed:
        repository.set_origin(model.name, origin)
        render_repository(repository)
    path = repository.artefact_path(model.name, file)
    return BuildResult(model.name, path, origin, rebuilt, str(record["summary"]))


def build_all(
    repository: Repository,
    models: Sequence[Network],
    target: str,
    weights: Path | None = None,
    *,
    stand_in: bool = False,
    variant: str = "",
    options: BuildOptions | None = None,
    progress: Progress = no_progress,
) -> Iterator[BuildResult]:
    """Render the repository and build models, one after another.

    Args:
        repository: Repository to write to.
        models: Models to build.
        target: "cpu", "tensorrt" or "rtx".
        weights: Checkpoint of the one model; else the weights of weights.json.
        stand_in: Build from untrained stand-in weights instead.
        variant: Names of the options of the one model's variant; see `choose_weights`.
        options: Precision and how to reach it; the defaults if None.
        progress: Callback for the current work.

    Yields:
        The result of each model, as soon as it is built.

    Raises:
        BuildersError: A model cannot be built; those before it are.
    """
    render_repository(repository)
    for model in models:
        origin = choose_weights(
            model, repository, weights, stand_in=stand_in, variant=variant
        )
        model_progress = _with_prefix(progress, model.name)
        yield build(target, model, origin, repository, options, model_progress)


def _create_exporter(target: str, options: BuildOptions) -> Exporter:
    if target == "cpu":
        return create_cpu_exporter(options)
    return PlanExporter(load_library("rtx" if target == "rtx" else "tensorrt"), options)


def _collect_inputs(exporter: Exporter, source: BuildSource) -> dict[str, Any]:
    """Return everything that the file depends on; equal inputs need no new build."""
    inputs = {"weights": str(source.origin), **exporter.inputs(source)}
    if source.table is not None:
        inputs["int8"] = source.table.summary["scales_sha256"]
    return inputs


def _describe_variant(model: Network) -> dict[str, Any]:
    """Return name and options of the variant for the record, if there are choices."""
    if not isinstance(model, Model) or not model.choices:
        return {}
    return {"variant": model.variant, "variant_options": dict(model.options)}


def _place(origin: Origin) -> dict[str, str]:
    """Return the place of a checkpoint on this machine, for the record."""
    return {"weights_file": origin.file} if isinstance(origin, Checkpoint) else {}


def _cite_weights(model: Network, origin: Origin) -> dict[str, str]:
    """Return where published weights come from, with their licence, for the record."""
    published = model.source.weights
    if published is None or not isinstance(origin, Checkpoint):
        return {}
    if origin.sha256 != published.sha256:
        return {}
    return {"weights_source": str(published)}


def _with_prefix(progress: Progress, name: str) -> Progress:
    def report(what: str, done: int = 0, total: int = 0) -> None:
        progress(f"{name}: {what}", done, total)

    return report
