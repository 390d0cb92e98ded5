"""GPU figures: a table of precision reports, and served answers against plans.

builders/benchmarks/gpu.sh runs both and everything that they need.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from builders.precision.report import summarise_reports
from builders.precision.timing import random_inputs
from builders.repository.layout import PLAN_FILE, Repository
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.tensorrt.engine import Engine
from builders.tensorrt.library import load_library
from personserve import Client

TIMEOUT_S = 60.0

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command("table")
def print_table(
    reports: Annotated[
        Path,
        typer.Argument(help="Folder that `python -m builders report` wrote to."),
    ],
) -> None:
    """Print all precision reports as one table.

    Columns are milliseconds per batch by runner and precision; below them are the size,
    memory, layer types and distance from FP32 of each plan.
    """
    typer.echo(summarise_reports(reports))


@app.command("answers")
def compare_answers(
    server: Annotated[str, typer.Argument(help="gRPC address, host:port.")],
    names: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Models that the server has as plans."),
    ],
) -> None:
    """Print the largest difference between a server's answers and the plan's own.

    One line per model and transport: without shared memory, in system shared memory and
    in CUDA shared memory.
    """
    repository = Repository()
    for model in models(names):
        path = repository.artefact_path(model.name, PLAN_FILE)
        engine = load_library("tensorrt").load_engine(path.read_bytes())
        for memory in (None, "system", "cuda"):
            with Client(server, timeout_s=TIMEOUT_S, shared_memory=memory) as client:
                difference = _largest_difference(model, engine, client)
            typer.echo(f"{model.name}, {memory or 'wire'}: differs by {difference:.1e}")
        engine.close()


def _largest_difference(model: Model, engine: Engine, client: Client) -> float:
    largest = 0.0
    for count in (1, 3, 8, model.batching.max_batch_size):
        inputs = random_inputs(model, count)
        own = engine(**inputs)
        served = client.infer(model.name, inputs, timeout_s=TIMEOUT_S)
        largest = max(largest, *(float(np.abs(own[k] - served[k]).max()) for k in own))
    return largest


if __name__ == "__main__":
    app()
