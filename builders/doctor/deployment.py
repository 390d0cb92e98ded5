"""Deployment: the declarations that the doctor judges.

A model that is not built is no fault: a repository holds the configs of all declared
models, and a server loads those that are built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builders.repository.layout import ARTEFACTS, Repository
from builders.spec.catalogue import UnknownModelError, catalogue
from builders.spec.ensemble import Declaration, Ensemble, PythonModel
from builders.spec.model import Network


@dataclass(frozen=True)
class Deployment:
    """Declarations of a repository, divided into deployed and not deployed ones.

    Attributes:
        repository: The repository.
        deployed: Models that are judged, in the variants that are served: those that
            are built, or those that were named, with the steps of ensembles.
        not_built: Networks with a config and without any built file.
        is_named: Whether the deployed models were named.
    """

    repository: Repository
    deployed: tuple[Declaration, ...]
    not_built: tuple[Network, ...]
    is_named: bool

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks among the deployed models."""
        return tuple(d for d in self.deployed if isinstance(d, Network))

    @property
    def names(self) -> frozenset[str]:
        """Names of the deployed models."""
        return frozenset(declaration.name for declaration in self.deployed)


def find_deployment(repository: Repository, names: Sequence[str] = ()) -> Deployment:
    """Find the deployed declarations of a repository.

    Args:
        repository: The repository.
        names: Models that are deployed; none means everything that is built.

    Raises:
        UnknownModelError: A name is not declared.
    """
    if names:
        named = tuple(map(repository.served_declaration, _with_steps(names)))
        return Deployment(repository, named, (), is_named=True)
    every = repository.declarations().values()
    declarations = [d for d in every if _has_config(d, repository)]
    not_built = tuple(
        d
        for d in declarations
        if isinstance(d, Network) and not _is_complete(d, repository)
    )
    deployed = tuple(d for d in declarations if _is_complete(d, repository))
    return Deployment(repository, deployed, not_built, is_named=False)


def _with_steps(names: Sequence[str]) -> Iterator[Declaration]:
    """Yield the named models, and the steps of ensembles, each once."""
    unknown = [name for name in names if name not in catalogue()]
    if unknown:
        raise UnknownModelError(
            f"unknown model {unknown[0]!r}; expected one of: {', '.join(catalogue())}"
        )
    wanted = [catalogue()[name] for name in names]
    ensembles = [d for d in wanted if isinstance(d, Ensemble)]
    wanted += [step.model for ensemble in ensembles for step in ensemble.steps]
    yield from {declaration.name: declaration for declaration in wanted}.values()


def _has_config(declaration: Declaration, repository: Repository) -> bool:
    config = repository.folder(declaration.name) / "config.pbtxt"
    return config.is_file() or (
        isinstance(declaration, Network) and _is_complete(declaration, repository)
    )


def _is_complete(declaration: Declaration, repository: Repository) -> bool:
    """Return whether every network of a declaration has a built file."""
    if isinstance(declaration, Ensemble):
        return all(_is_complete(step.model, repository) for step in declaration.steps)
    if isinstance(declaration, PythonModel):
        return True
    files = set(ARTEFACTS.values())
    return any(repository.artefact_path(declaration.name, f).is_file() for f in files)
