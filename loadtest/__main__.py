"""`python -m loadtest`: all load tests but Locust's, which has a command of its own."""

from __future__ import annotations

import typer

from loadtest import beside, overhead, perf_analyzer, soak, transfer, tune

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Load on a running server (python -m builders serve), and what it does. "
    "Users and cameras: locust -f loadtest/locustfile.py --help.",
)
app.command("perf")(perf_analyzer.main)
app.command("transfer")(transfer.main)
app.command("overhead")(overhead.main)
app.command("beside")(beside.main)
app.command("soak")(soak.main)
app.command("tune")(tune.main)

if __name__ == "__main__":
    app()
