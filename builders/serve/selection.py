"""Choice of the models that a server loads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from builders.repository.config import TARGETS
from builders.repository.layout import ARTEFACTS, ONNX_FILE, Repository
from builders.repository.render import render_on_request
from builders.serve.errors import ServeError
from builders.spec.catalogue import catalogue
from builders.spec.ensemble import Declaration, Ensemble
from builders.spec.model import Network
from builders.weights import StandIn
from builders.weights.published import fetch_command

MAIN_MODELS = ("person_attributes", "person_attributes_crops")
"""Ensembles of the main job: gender and ReID of the people in a frame."""


def choose_models(
    repository: Repository, target: str, names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Choose what to load: models and ensembles whose files are built.

    Named ensembles on request are rendered first, if their networks are built.

    Args:
        repository: The model repository.
        target: Name of the target, for example "cpu".
        names: Models to load; empty for all that are built.

    Returns:
        The names to load, and the names that are not built for the target.

    Raises:
        ServeError: The target or a name is unknown, a name is not built, no network is
            built, or a built file is not the one that its record describes.
    """
    _check_known("target", [target], TARGETS)
    known = repository.declarations()
    _check_known("model", names, known)
    render_on_request(repository, names)
    deployed = [n for n, d in known.items() if repository.is_deployed(d)]
    wanted = list(names) or deployed
    # each file is hashed once, however many ensembles have its model as a step
    parts = {n: with_steps([n], known)[1:] or [n] for n in wanted}
    present = {
        part
        for part in {part for each in parts.values() for part in each}
        if repository.is_built(known[part], target)
    }
    built = [n for n in wanted if present.issuperset(parts[n])]
    missing = [name for name in wanted if name not in built]
    _require_records(repository, [known[name] for name in missing], target)
    has_network = any(isinstance(known[name], Network) for name in present)
    # preprocessing alone, which needs no build, is not what a user wants to serve
    if (names and missing) or not (names or has_network):
        raise ServeError(
            f"not built for target {target}: {', '.join(missing)}; run "
            f"{build_command(target, missing)}"
        )
    return built, missing


def build_command(target: str, names: Sequence[str]) -> str:
    """Return the commands that build what some models and ensembles lack.

    Args:
        target: Name of the target.
        names: Names of models and ensembles.
    """
    known = catalogue()
    commands = []
    names_to_build = []
    for name in with_steps(names):
        network = known[name]
        if not isinstance(network, Network):
            continue
        if network.source.weights is not None:
            commands.append(fetch_command(network))
        if network.source.weights is None or ARTEFACTS[target] != ONNX_FILE:
            names_to_build.append(name)
    if names_to_build:
        build = ["python -m builders build --target", target, *names_to_build]
        commands.append(" ".join(build))
    return " && ".join(commands)


def list_stand_ins(repository: Repository, names: Sequence[str]) -> list[str]:
    """Return the networks that serve stand-in weights.

    Args:
        repository: The model repository.
        names: Names of models and ensembles; an ensemble includes its steps.
    """
    known = catalogue()
    return [
        name
        for name in with_steps(names)
        if isinstance(known[name], Network)
        and isinstance(repository.origin(name), StandIn)
    ]


def with_steps(
    names: Sequence[str], known: Mapping[str, Declaration] | None = None
) -> list[str]:
    """Return names of models, followed by those of their ensembles' steps.

    Args:
        names: Names of models and ensembles.
        known: Declarations by name; None for the declared variants.
    """
    known = catalogue() if known is None else known
    every = dict.fromkeys(names)
    for name in names:
        declaration = known[name]
        if isinstance(declaration, Ensemble):
            every |= dict.fromkeys(step.model.name for step in declaration.steps)
    return list(every)


def _check_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    choice = list(known)
    for name in names:
        if name not in choice:
            similar = difflib.get_close_matches(name, choice, n=1)
            suggestion = f" (did you mean {similar[0]!r}?)" if similar else ""
            raise ServeError(
                f"no {what} {name!r}{suggestion}; there are: {', '.join(choice)}"
            )


def _require_records(
    repository: Repository, declarations: Sequence[Declaration], target: str
) -> None:
    """Raise ServeError if a built file has no record, or that of another file."""
    paths = dict.fromkeys(
        path
        for declaration in declarations
        for path in repository.find_unrecorded(declaration, target)
    )
    if paths:
        names = [path.parent.parent.name for path in paths]
        raise ServeError(
            f"{', '.join(map(str, paths))}: has no record, or is not the file that its "
            "record describes (changed, damaged, or a build was cut short); run "
            f"{build_command(target, names)}, or name other models to serve"
        )
