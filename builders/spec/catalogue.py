"""Model discovery: each file in builders/models and ensembles declares one MODEL.

A new file is enough; there is no list to edit. The ensembles package is imported by
name, because ensembles depend on builders and not the reverse.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib import import_module

from builders.errors import BuildersError
from builders.spec.ensemble import Declaration, Ensemble
from builders.spec.model import Model, Network
from builders.tensors import SpecError

PACKAGES = ("builders.models", "ensembles")


class UnknownModelError(BuildersError, LookupError):
    """A model name that no file declares."""


class UnsuitableModelError(BuildersError, ValueError):
    """A step needs a model of another kind."""


@cache
def catalogue() -> dict[str, Declaration]:
    """Return all declarations by name, in alphabetical order.

    Raises:
        SpecError: If a file declares no MODEL, or a MODEL of another name.
    """
    declarations: dict[str, Declaration] = {}
    for package in PACKAGES:
        for info in pkgutil.iter_modules(import_module(package).__path__):
            module = import_module(f"{package}.{info.name}")
            declaration = getattr(module, "MODEL", None)
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
            declarations[declaration.name] = declaration
    return with_python_models(declarations.values())


def with_python_models(declarations: Iterable[Declaration]) -> dict[str, Declaration]:
    """Return declarations by name, with the Python models of their ensembles.

    Args:
        declarations: Declarations with different names.

    Returns:
        All by name, in alphabetical order. Ensembles that cut the same crops share a
        Python model, which has no file of its own in ensembles/.

    Raises:
        SpecError: Two different Python models have one name.
    """
    known = {declaration.name: declaration for declaration in declarations}
    for ensemble in list(known.values()):
        if not isinstance(ensemble, Ensemble):
            continue
        for model in ensemble.python_models:
            if known.setdefault(model.name, model) != model:
                raise SpecError(
                    f"ensemble {ensemble.name}: its step {model.name} differs from the "
                    "model of this name; give one of them another name"
                )
    return dict(sorted(known.items()))


def networks(names: Iterable[str] = ()) -> list[Network]:
    """Return the declared networks.

    Args:
        names: Names of models; none means all except those that are on request.

    Raises:
        UnknownModelError: If a name is not declared, or is not a network's.
    """
    known = {n: d for n, d in catalogue().items() if isinstance(d, Network)}
    wanted = list(names) or [n for n, d in known.items() if not d.on_request]
    for name in wanted:
        if name not in known:
            raise UnknownModelError(_explain_unknown(name, known))
    return [known[name] for name in wanted]


def models(names: Iterable[str] = ()) -> list[Model]:
    """Return the declared networks that are wired here, without imported ONNX files.

    Args:
        names: Names of models; none means all except those that are on request.

    Raises:
        UnknownModelError: If a name is not declared, or is not a network's.
    """
    return [model for model in networks(names) if isinstance(model, Model)]


def require_operations(model: Network, reason: str) -> Model:
    """Return a model that is declared with its operations.

    Args:
        model: A network.
        reason: Why the caller needs operations, and what to do without them.

    Raises:
        UnsuitableModelError: The model is an imported ONNX file.
    """
    if not isinstance(model, Model):
        raise UnsuitableModelError(
            f"{model.name} is an imported ONNX file, not declared with its operations "
            f"in builders/models/; {reason}"
        )
    return model


def _explain_unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    choice = f"expected one of: {', '.join(names)}"
    declaration = catalogue().get(name)
    if isinstance(declaration, Ensemble):
        return f"{name} is an ensemble of models, not a network; {choice}"
    if declaration is not None:
        return f"{name} is a Python model, not a network; {choice}"
    similar = difflib.get_close_matches(name, names, n=1)
    suggestion = f" (did you mean {similar[0]!r}?)" if similar else ""
    return f"unknown model {name!r}{suggestion}; {choice}"
