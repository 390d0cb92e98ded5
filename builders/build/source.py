"""BuildSource of a build: options, the choice of weights, and loading them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from builders.build.onnx_import import read_imported_file, require_imported_file
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
from builders.spec.variants import DEFAULT_VARIANT, VariantError, require_chosen
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
    file_sha256,
    load_weights,
    read_checkpoint,
    require_file,
    stand_in_weights,
)
from builders.weights.published import fetch_command, is_fetched, published_path

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


def choose_weights(
    model: Network,
    repository: Repository,
    path: Path | None,
    *,
    stand_in: bool,
    variant: str = "",
) -> Origin:
    """Choose the weights to build a model from, and the variant that they are used in.

    Args:
        model: Model to build, in any variant.
        repository: Repository whose weights.json is the default.
        path: Checkpoint to use instead.
        stand_in: Use untrained stand-in weights instead.
        variant: Names of options. If empty, the variant is the recorded one for the
            recorded weights, and the declared one for others.

    Raises:
        CheckpointError: The checkpoint does not exist, or is not the one that
            weights.json names.
        OnnxImportError: An imported ONNX file has no stand-in.
        VariantError: The model has no such variant, or the checkpoint's names suggest
            a variant that is not the declared one, and none was chosen.
    """
    if stand_in:
        require_imported_file(model, StandIn())
        return StandIn(variant=_variant_name(model, variant))
    if path is not None:
        if not path.exists():
            raise CheckpointError(f"--weights {path}: no such file")
        require_file(path)
        return _choose_variant(model, repository, path, variant)
    origin = _choose_recorded(model, repository)
    if variant:
        return replace(origin, variant=_variant_name(model, variant))
    return origin


def model_for(model: Network, origin: Origin) -> Network:
    """Return a network in the variant that weights are used in.

    Args:
        model: The network, in any variant.
        origin: Where its weights come from.
    """
    return model.in_variant(origin.variant) if isinstance(model, Model) else model


def _variant_name(model: Network, variant: str) -> str:
    """Return the name of a variant, without declared options."""
    if isinstance(model, Model):
        return model.in_variant(variant).variant
    if variant:
        raise VariantError(f"{model.name} is an imported ONNX file and has no variants")
    return DEFAULT_VARIANT


def _choose_variant(
    model: Network, repository: Repository, path: Path, variant: str
) -> Checkpoint:
    """Return the origin of a checkpoint's weights, once the variant is certain."""
    origin = Checkpoint(str(path.absolute()), file_sha256(path))
    recorded = repository.origin(model.name)
    is_recorded = isinstance(recorded, Checkpoint) and recorded.sha256 == origin.sha256
    if not variant and is_recorded:
        return replace(origin, variant=recorded.variant)
    if isinstance(model, Model) and model.signs:
        require_chosen(model, variant, read_checkpoint(path).arrays, str(path))
    return replace(origin, variant=_variant_name(model, variant))


def _choose_recorded(model: Network, repository: Repository) -> Origin:
    """Return the weights that weights.json names, or stand-ins."""
    origin = repository.origin(model.name)
    if isinstance(origin, StandIn) and not repository.is_deployed(model):
        origin = _choose_published(model) or origin
    require_imported_file(model, origin)
    if isinstance(origin, Checkpoint):
        recorded = Path(origin.file)
        if not recorded.is_file():
            published = model.source.weights
            if published is not None and origin.sha256 == published.sha256:
                return _choose_published(model) or origin
            raise CheckpointError(
                f"{model.name} serves {origin}, and {recorded} is not here; pass "
                "--weights FILE, or --stand-in for untrained weights"
            )
        require_file(recorded)
        if file_sha256(recorded) != origin.sha256:
            raise CheckpointError(
                f"{recorded} is not the file that weights.json names ({origin}); pass "
                "--weights FILE to serve the file that is there now"
            )
    return origin


def _choose_published(model: Network) -> Checkpoint | None:
    """Return the weights that `fetch` has got; None if the model has none to get."""
    published = model.source.weights
    if published is None:
        return None
    if not is_fetched(published):
        raise CheckpointError(
            f"{model.name} has published weights, which are not on this machine yet; "
            f"run {fetch_command(model)}, or pass --stand-in for untrained weights"
        )
    return Checkpoint(str(published_path(published)), published.sha256)


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
