"""The base of all errors that a user of builders can cause."""

from __future__ import annotations


class BuildersError(Exception):
    """A user's mistake or a limit of the machine.

    The message says what was expected, what came and what to do. The commands print
    it and exit with code 1; any other exception is a bug and shows its traceback.
    """
