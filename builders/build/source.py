"""BuildSource of a build: options, weights, and the answers to compare with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from builders.build.onnx_import import read_imported_file
from builders.build.weights_choice import model_for
from builders.progress import Progress, no_progress
from builders.quantisation.table import (
    HELD_OUT_FILE,
    Int8Table,
    QuantisationError,
    load_finetuned_arrays,
    load_table,
)
from builders.repository.layout import ONNX_FILE, Repository
from builders.spec.model import Model, Network, OnnxModel
from builders.tensorrt.library import Precision
from builders.verify.reference import (
    ReferenceAnswers,
    compute_onnx_reference,
    compute_reference,
)
from builders.weights import (
    Checkpoint,
    CheckpointError,
    Origin,
    StandIn,
    load_weights,
    stand_in_weights,
)

Arrays = Mapping[str, Any]
"""Weights by checkpoint name."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        precision: Precision of the convolutions.
        gpus: GPU types that a TensorRT-RTX plan is for, for example "sm_86".
        from_onnx: Build a plan through NVIDIA's ONNX parser, not from the operations.
        runtime: Runtime of the cpu target; the first that has the precision if None.
    """

    precision: Precision = "fp32"
    gpus: tuple[str, ...] = ()
    from_onnx: bool = False
    runtime: str | None = None


@dataclass(frozen=True)
class BuildSource:
    """A model and the weights that its file is built from.

    Attributes:
        model: Model to build.
        origin: Where its weights come from.
        repository: Repository that holds its INT8 table and fine-tuned weights.
        table: INT8 table, for INT8 builds only.
    """

    model: Network
    origin: Origin
    repository: Repository
    table: Int8Table | None = None

    def load_arrays(self, model: Model, progress: Progress = no_progress) -> Arrays:
        """Return the weights; for INT8 the fine-tuned ones if the table names them.

        Args:
            model: The source's model, which has operations.
            progress: Callback for the current work.

        Raises:
            CheckpointError: The checkpoint cannot be read or does not fit.
            QuantisationError: The fine-tuned weights are not those of the table.
        """
        if self.table is not None and self.table.finetuned_sha256 is not None:
            progress("reading fine-tuned weights")
            return load_finetuned_arrays(self.repository, model, self.table)
        return load_arrays(model, self.origin, progress)


@dataclass(frozen=True)
class Artefact:
    """A built file, not yet written.

    Attributes:
        data: Content of the file.
        facts: What its record says beyond the inputs; JSON values. "summary" is one
            line for people.
    """

    data: bytes
    facts: Mapping[str, Any]


class Exporter(Protocol):
    """Computes the built file of one target with given options."""

    def inputs(self, source: BuildSource) -> dict[str, Any]:
        """Return everything that the file depends on, except the weights, as JSON."""
        ...

    def compute(self, source: BuildSource, progress: Progress) -> Artefact:
        """Return the file; nothing is written. Raises BuildersError."""
        ...


def choose_source(
    model: Network, origin: Origin, repository: Repository, precision: Precision
) -> BuildSource:
    """Return the source of a build, with the INT8 table where one is needed.

    Args:
        model: Model to build.
        origin: Where its weights come from.
        repository: Repository that holds the model's INT8 table.
        precision: Precision to build.

    Raises:
        QuantisationError: INT8 is wanted, and the model has no table for its weights.
    """
    if precision != "int8":
        return BuildSource(model, origin, repository)
    if not isinstance(model, Model):
        raise QuantisationError(
            f"{model.name} is an imported ONNX file; quantise the file and import that"
        )
    table = load_table(repository, model, str(origin))
    return BuildSource(model, origin, repository, table)


def load_arrays(
    model: Model, origin: Origin, progress: Progress = no_progress
) -> Arrays:
    """Load the weights that `origin` describes.

    Args:
        model: Model that the weights are for.
        origin: A checkpoint, or stand-ins.
        progress: Callback for the current work.

    Returns:
        FP32 arrays by checkpoint name.

    Raises:
        CheckpointError: The checkpoint cannot be read, does not fit the model, or is
            not the file that `origin` describes.
    """
    model = model.in_variant(origin.variant)
    if isinstance(origin, StandIn):
        progress("making stand-in weights")
        return stand_in_weights(model, origin.seed).arrays
    progress(f"reading {Path(origin.file).name}")
    weights = load_weights(model, Path(origin.file))
    if str(weights.origin) != str(origin):
        raise CheckpointError(
            f"{origin.file} was changed since it was chosen ({origin}); build again"
        )
    return weights.arrays


def compute_answers(
    model: Network,
    origin: Origin,
    repository: Repository,
    progress: Progress = no_progress,
) -> ReferenceAnswers:
    """Return the answers that built files of a model are compared with.

    They are those of the torch reference or, for an imported ONNX file, of ONNX
    Runtime without graph optimisations.

    Args:
        model: The model.
        origin: Where its weights come from.
        repository: Repository of the model, which has a copy of an imported file.
        progress: Callback for the current work.

    Raises:
        CheckpointError: The checkpoint cannot be read or does not fit the model.
        OnnxImportError: The imported file is not here, or was changed.
    """
    model = model_for(model, origin)
    if isinstance(model, Model):
        progress(f"{model.name}: running the torch reference")
        return compute_reference(model, load_arrays(model, origin, progress), origin)
    progress(f"{model.name}: running the imported file")
    data = _read_imported_file(model, origin, repository)
    return compute_onnx_reference(model, data, origin)


def _read_imported_file(
    model: OnnxModel, origin: Origin, repository: Repository
) -> bytes:
    """Read the file, from the cpu target if it is there: it was tried in its build.

    A file that is served behind a normalisation is there in another form.
    """
    path = repository.artefact_path(model.name, ONNX_FILE)
    if isinstance(origin, Checkpoint) and path.is_file():
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == origin.sha256:
            return data
    return read_imported_file(model, origin)


def int8_reference(
    model: Model,
    origin: Origin,
    repository: Repository,
    progress: Progress = no_progress,
) -> ReferenceAnswers:
    """Return the reference answers that INT8 is compared with.

    These are the crops that calibration held out, if the repository has them for
    these weights, because ranges of people's crops need not hold for noise. Otherwise
    they are the usual inputs.

    Args:
        model: Model that is built in INT8.
        origin: Where its weights come from.
        repository: Repository that calibration wrote to.
        progress: Callback for the current work.

    Raises:
        CheckpointError: The checkpoint cannot be read or does not fit the model.
        VerificationError: The held-out crops cannot be read.
    """
    path = repository.artefact_path(model.name, HELD_OUT_FILE)
    if path.is_file():
        reference = ReferenceAnswers.load(path)
        if reference.origin == str(origin):
            return reference
    model = model.in_variant(origin.variant)
    return compute_reference(model, load_arrays(model, origin, progress), origin)
