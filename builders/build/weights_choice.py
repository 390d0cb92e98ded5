"""The choice of the weights that a model is built from, and of their variant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builders.build.onnx_import import require_imported_file
from builders.repository.layout import Repository
from builders.spec.model import Model, Network
from builders.spec.variants import DEFAULT_VARIANT, VariantError, require_chosen
from builders.weights import (
    Checkpoint,
    CheckpointError,
    Origin,
    StandIn,
    file_sha256,
    read_checkpoint,
    require_file,
)
from builders.weights.published import fetch_command, is_fetched, published_path


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
