"""What is declared: a model is found by its file being there, no list to edit.

Looks through `builders/models/` and `ensembles/`. The latter is found by name rather
than imported above, because ensembles are built on builders and not the reverse.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib import import_module

from builders.spec import (
    Declaration,
    Model,
    Network,
    SpecError,
)

PACKAGES = ("builders.models", "ensembles")


@cache
def catalogue() -> dict[str, Declaration]:
    """Every declaration by name, in order of name.

    Raises SpecError where a file declares no MODEL, or one of another name.
    """
    found: dict[str, Declaration] = {}
    for package in PACKAGES:
        for info in pkgutil.iter_modules(import_module(package).__path__):
            declaration = getattr(
                import_module(f"{package}.{info.name}"), "MODEL", None
            )
            where = f"{package.replace('.', '/')}/{info.name}"
            if not isinstance(declaration, Declaration):
                raise SpecError(
                    f"{where}: expected MODEL = Model(...), OnnxModel(...), "
                    "PythonModel(...) or Ensemble(...), got "
                    f"{type(declaration).__name__}"
                )
            if declaration.name != info.name:
                raise SpecError(
                    f"{where}: declares the name {declaration.name!r}; a model is "
                    "named like its file, so rename one of them"
                )
            found[declaration.name] = declaration
    return dict(sorted(found.items()))


def networks(names: Iterable[str] = ()) -> list[Network]:
    """The declared networks called `names`, or all but those on request.

    Raises KeyError with the choice.
    """
    known = {n: d for n, d in catalogue().items() if isinstance(d, Network)}
    wanted = list(names) or [n for n, d in known.items() if not d.on_request]
    for name in wanted:
        if name not in known:
            raise KeyError(f"no model {name!r}; there are: {', '.join(known)}")
    return [known[name] for name in wanted]


def models(names: Iterable[str] = ()) -> list[Model]:
    """Those of `networks(names)` that are wired here."""
    return [model for model in networks(names) if isinstance(model, Model)]
