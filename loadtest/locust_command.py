"""The `locust` command: users and cameras, with Locust."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

import typer

from loadtest.app import app

LOCUSTFILE = Path(__file__).with_name("locustfile.py")

USAGE = """python -m loadtest locust [OPTION]... [USER CLASS]...

The same as locust -f loadtest/locustfile.py. Without --headless, Locust serves a live
page at http://localhost:8089. User classes: GenderCrops, ReidCrops, FrameEnsemble,
Camera; all of them by default.

The options of Locust that matter most (locust --help lists all): -H ADDRESS (for
example grpc://127.0.0.1:8001), -u USERS, -t SECONDS, --headless."""


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def locust(context: typer.Context) -> None:
    """Simulate users and cameras with Locust, with load shapes and thresholds."""
    if {"-h", "--help"} & set(context.args):
        # Locust prints its help before it reads the locustfile, so without our options
        from loadtest.locust_options import add_options

        parser = ArgumentParser(usage=USAGE, add_help=False)
        add_options(parser)
        parser.print_help()
        return
    # `locust` puts the current folder on the path; this works from any other as well
    root = str(LOCUSTFILE.parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *context.args]
    environment = {**os.environ, "PYTHONPATH": path}
    os.execve(sys.executable, command, environment)  # noqa: S606 - Locust replaces us
