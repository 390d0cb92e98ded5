"""The command line's way to a new ensemble: write its file in ensembles/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from builders.repository.frame_ensembles import crops_ensemble, frame_ensemble
from builders.repository.layout import ROOT
from builders.spec.catalogue import catalogue, networks
from builders.spec.ensemble import Ensemble
from builders.tensors import SpecError, require_name
from personserve.internal.files import write_text

ENSEMBLES = ROOT / "ensembles"

TEMPLATE = '''"""{title}"""

from builders.models import (
{imports}
)
from builders.repository.frame_ensembles import {function}

MODEL = {function}(
    "{name}",
    (
{networks}
    ),{roles}
)
'''


def compose_ensemble(
    name: str,
    models: Sequence[str],
    *,
    roles: Mapping[str, str] | None = None,
    of_crops: bool = False,
    force: bool = False,
    folder: Path = ENSEMBLES,
) -> tuple[Ensemble, Path]:
    """Write the file of an ensemble over some networks.

    Args:
        name: Name of the ensemble.
        models: Names of its networks.
        roles: See frame_ensemble.
        of_crops: Whether the ensemble takes crops, not a frame.
        force: Whether an ensemble's file of this name is replaced.
        folder: Folder of the ensembles.

    Returns:
        The ensemble, and its file.

    Raises:
        SpecError: A name is not allowed or taken, or the networks do not fit.
        UnknownModelError: A network is not declared.
    """
    require_name(name, "ensemble")
    for role in (roles or {}).values():
        require_name(role, "role")  # it is written into Python text
    path = folder / f"{name}.py"
    _check_free(name, path, force=force)
    declare = crops_ensemble if of_crops else frame_ensemble
    chosen = networks(models) if models else []
    ensemble = declare(name, chosen, roles=roles)
    source = "crops" if of_crops else "one frame and N boxes"
    lines = [f'        "{key}": "{role}",' for key, role in (roles or {}).items()]
    text = TEMPLATE.format(
        title=f"Ensemble: {source} to {', '.join(ensemble.outputs)}."[:84],
        imports="\n".join(f"    {model}," for model in sorted(models)),
        function=declare.__name__,
        name=name,
        networks="\n".join(f"        {model}.MODEL," for model in models),
        roles="\n".join(["", "    roles={", *lines, "    },"]) if lines else "",
    )
    write_text(path, text)
    catalogue.cache_clear()
    return ensemble, path


def _check_free(name: str, path: Path, *, force: bool) -> None:
    if path.exists():
        if not force:
            raise SpecError(f"{path.name} is there already; --force replaces it")
        return
    if name in catalogue() or find_spec(f"ensembles.{name}") is not None:
        raise SpecError(
            f"a model {name!r} is there already; choose another name for the ensemble"
        )
