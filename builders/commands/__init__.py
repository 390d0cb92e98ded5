"""The commands of `python -m builders`, a module for each kind. They are thin: they
ask, show progress, and leave the work to the modules above them.
"""

from builders.commands import (  # isort: skip - in the order of --help
    models,
    checks,
    evaluation,
    quantisation,
    serving,
    weights,
)
from builders.commands.app import app, run

__all__ = [
    "app",
    "checks",
    "evaluation",
    "models",
    "quantisation",
    "run",
    "serving",
    "weights",
]
