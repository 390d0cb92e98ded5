"""The error of everything that starts a server."""

from __future__ import annotations

from builders.errors import BuildersError


class ServeError(BuildersError, RuntimeError):
    """The server cannot be started, or has ended; the message says what to do."""
