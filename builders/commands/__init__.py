"""Commands of `python -m builders`, in modules by the panels of its help.

A command checks its options, shows progress and prints; the steps of the line do the
work. Importing a module registers its commands, in the order of --help.
"""

from builders.commands import (  # isort: skip - in the order of --help
    models,
    imports,
    ensembles,
    fetch,
    checks,
    training,
    evaluation,
    quantisation,
    precision,
    serving,
    versions,
    weights,
)

__all__ = [
    "checks",
    "ensembles",
    "evaluation",
    "fetch",
    "imports",
    "models",
    "precision",
    "quantisation",
    "serving",
    "training",
    "versions",
    "weights",
]
