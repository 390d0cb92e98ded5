"""Rendering: every text file of the repository, written from the declarations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from builders.repository.config import render_configs
from builders.repository.layout import Repository
from builders.repository.python_models import render_python_files
from builders.repository.versions import FIRST_VERSION, list_versions
from builders.spec.ensemble import Declaration, Ensemble
from builders.spec.model import Network
from personserve.internal.files import write_text


def render_repository(repository: Repository, *, check: bool = False) -> list[Path]:
    """Write every rendered file that differs from the one on disk.

    Local configurations (`<target>-<cores>`) that exist are kept up to date.

    Args:
        repository: The repository to write.
        check: Write nothing and look only at committed files.

    Returns:
        The files that were written, or with `check` those that are stale.
    """
    changed = []
    for declaration in repository.declarations().values():
        if repository.is_deployed(declaration):
            for path, text in _render_files(declaration, repository):
                changed += _write_changed(path, text, check=check)
    if not check:
        for cores in _rendered_cores(repository):
            changed += render_for_cores(repository, cores)
    return changed


def render_on_request(repository: Repository, names: Iterable[str]) -> list[Path]:
    """Render the named ensembles that are not rendered by default.

    The configs of their networks change with them, because a step of an ensemble has
    no queue policy and answers NaN in place of an error. An ensemble without built
    networks is left out.

    Args:
        repository: The repository to write.
        names: Names of ensembles; those of other declarations are ignored.

    Returns:
        The files that were written.
    """
    known = repository.declarations()
    ensembles = [
        declaration
        for declaration in (known.get(name) for name in names)
        if isinstance(declaration, Ensemble)
        and not repository.is_deployed(declaration)
        and all(map(repository.is_deployed, declaration.models))
    ]
    changed = []
    for ensemble in ensembles:
        for path, text in _render_files(ensemble, repository):
            changed += _write_changed(path, text, check=False)
    return changed + render_repository(repository) if changed else []


def render_for_cores(repository: Repository, cores: int) -> list[Path]:
    """Write the configurations `<target>-<cores>` for a machine of another size.

    Args:
        repository: The repository to write.
        cores: CPU cores of the machine.

    Returns:
        The files that were written.
    """
    changed = []
    for declaration in repository.declarations().values():
        if repository.is_deployed(declaration):
            for path, text in render_configs(declaration, repository, cores=cores):
                changed += _write_changed(path, text, check=False)
    return changed


def _render_files(
    declaration: Declaration, repository: Repository
) -> Iterator[tuple[Path, str]]:
    yield from render_configs(declaration, repository)
    folder = repository.folder(declaration.name)
    versions = {FIRST_VERSION}
    if isinstance(declaration, Network):
        versions |= set(list_versions(folder))
    for name, text in render_python_files(declaration):
        for version in sorted(versions):
            yield folder / str(version) / name, text
    if isinstance(declaration, Ensemble):
        # Triton wants a version folder, and git keeps no empty ones
        yield folder / str(FIRST_VERSION) / ".gitkeep", ""


def _rendered_cores(repository: Repository) -> list[int]:
    """Numbers of cores that local configurations are rendered for."""
    paths = repository.root.glob("*/configs/*-*.pbtxt")
    names = {path.stem.rpartition("-")[2] for path in paths}
    return sorted(int(name) for name in names if name.isdecimal())


def _write_changed(path: Path, text: str, *, check: bool) -> list[Path]:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return []
    if not check:
        write_text(path, text)
    return [path]
