"""The commands of `python -m builders`, a module for each kind. They are thin: they
ask, show progress, and leave the work to the modules above them.
"""

from builders.commands import models, checks, serving, weights  # isort: skip
from builders.commands.app import app, run

__all__ = ["app", "checks", "models", "run", "serving", "weights"]
