"""All precision reports in one table, and whether served plans answer as they do alone.

`builders/benchmark.sh` runs everything that BENCHMARKS.md publishes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from builders.build import PLAN_FILE
from builders.catalogue import models
from builders.precision.report import summary
from builders.repository import Repository
from builders.spec import Model
from builders.tensorrt.engine import Engine
from builders.tensorrt.library import load_library
from personserve import Client

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def table(
    reports: Annotated[Path, typer.Argument(help="Where `report` wrote them.")],
) -> None:
    """Print the precision reports as one table."""
    typer.echo(summary(reports))


@app.command()
def answers(
    server: Annotated[str, typer.Argument(help="gRPC address, host:port.")],
    names: Annotated[list[str], typer.Argument(metavar="MODEL...")],
) -> None:
    """Compare what a server answers with the plan's own answers, over the wire and in
    each kind of shared memory.
    """
    repository = Repository()
    for model in models(names):
        path = repository.built(model.name, PLAN_FILE)
        engine = Engine(load_library("tensorrt").trt, path.read_bytes())
        for memory in (None, "system", "cuda"):
            with Client(server, timeout_s=60, shared_memory=memory) as client:
                worst = _worst(model, engine, client)
            typer.echo(f"{model.name}, {memory or 'wire'}: differs by {worst:.1e}")
        engine.close()


def _worst(model: Model, engine: Engine, client: Client) -> float:
    """The largest difference, N 1 to maximum."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for count in (1, 3, 8, model.batching.maximum):
        crops = rng.integers(0, 256, (count, *model.inputs[0].shape), dtype=np.uint8)
        inputs = {model.inputs[0].name: crops}
        own, got = engine(**inputs), client.infer(model.name, timeout_s=60, **inputs)
        worst = max(worst, *(float(np.abs(own[k] - got[k]).max()) for k in own))
    return worst


if __name__ == "__main__":
    app()
