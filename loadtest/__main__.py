"""`python -m loadtest`: load tests and measurements of a running server."""

from __future__ import annotations

import sys

from rich.console import Console

with Console(stderr=True).status("loading ..."):  # on a terminal; takes about a second
    from loadtest import (
        bulk,
        compare,
        locust_command,
        overhead,
        overload,
        perf,
        soak,
        tracks,
        transfer,
        tune,
    )
    from loadtest.app import app
    from loadtest.errors import LoadTestError
    from personserve import PersonServeError

__all__ = [
    "bulk",
    "compare",
    "locust_command",
    "overhead",
    "overload",
    "perf",
    "run",
    "soak",
    "tracks",
    "transfer",
    "tune",
]


def run() -> None:
    """Run a command; an expected error is one line and exit code 1."""
    try:
        app()
    except (LoadTestError, PersonServeError, OSError) as exc:
        console = Console(stderr=True)
        console.print("[red]error:[/red] ", end="")
        console.print(str(exc), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    run()
