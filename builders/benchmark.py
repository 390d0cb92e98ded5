"""What plans give when they are served, and all precision reports in one table.

`builders/benchmark.sh` runs everything that BENCHMARKS.md publishes.
"""

from __future__ import annotations

import csv
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from builders.build import PLAN_FILE
from builders.catalogue import models
from builders.precision.report import summary
from builders.repository import Repository
from builders.tensorrt.engine import Engine
from builders.tensorrt.library import load_library
from personserve._files import write_text

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

SERVED = (
    ("person_gender", 1, "crops:224,224,3"),
    ("person_gender", 8, "crops:224,224,3"),
    ("person_gender", 64, "crops:224,224,3"),
    ("person_reid_kd_r18", 8, "crops:384,128,3"),
    ("person_reid_kd_r18", 64, "crops:384,128,3"),
    ("person_attributes", 10, None),
)
"""(model, people in a request, perf_analyzer's shape) that are measured served."""


@app.command()
def table(
    reports: Annotated[Path, typer.Argument(help="Where `report` wrote them.")],
) -> None:
    """Print the precision reports as one table."""
    typer.echo(summary(reports))


@app.command()
def served(
    perf_analyzer: Annotated[Path, typer.Argument(help="NVIDIA's perf_analyzer.")],
    frame_input: Annotated[Path, typer.Argument(help="From loadtest.perf_input.")],
    output: Annotated[Path, typer.Argument(help="Where the report goes (Markdown).")],
) -> None:
    """Serve the plans with the rtx target: answers against the plan's own, and load."""
    from builders.server import Ports, TritonServer
    from personserve import Client

    repository = Repository()
    log = output.with_suffix(".log")
    names = ["person_gender", "person_reid_kd_r18", "person_attributes"]
    server = TritonServer(repository, "rtx", models=names, ports=Ports.free(), log=log)
    lines = [
        "| model | batch | concurrency | people/s | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    with server, Client(server.grpc_address, timeout_s=60) as client:
        typer.echo(_same_answers(client, repository))
        for name, batch, shape in SERVED:
            how = (
                ["-b", str(batch), "--shape", shape]
                if shape
                else ["--input-data", str(frame_input)]
            )
            for concurrency in (1, 4, 16):
                row = _perf(perf_analyzer, server.grpc_address, name, how, concurrency)
                per_s = row["Inferences/Second"] * (1 if shape else batch)
                p50, p99 = row["p50 latency"] / 1e3, row["p99 latency"] / 1e3
                lines.append(
                    f"| {name} | {batch} | {concurrency} | {per_s:,.0f} "
                    f"| {p50:.2f} | {p99:.2f} |"
                )
                typer.echo(lines[-1])
                write_text(output, "\n".join(lines) + "\n")


def _same_answers(client: Any, repository: Repository) -> str:
    """The largest difference between served answers and the plan's, N 1 to maximum."""
    rng = np.random.default_rng(0)
    said = []
    for model in models(["person_gender", "person_reid_kd_r18"]):
        path = repository.built(model.name, PLAN_FILE)
        engine = Engine(load_library("tensorrt").trt, path.read_bytes())
        worst = 0.0
        for count in (1, 3, 8, model.batching.maximum):
            shape = (count, *model.inputs[0].shape)
            crops = rng.integers(0, 256, shape, dtype=np.uint8)
            own, got = engine(crops=crops), client.infer(model.name, crops=crops)
            worst = max(worst, *(float(np.abs(own[k] - got[k]).max()) for k in own))
        said.append(f"{model.name}: served differs from the plan by {worst:.1e}")
        engine.close()
    return "\n".join(said)


def _perf(
    perf_analyzer: Path, address: str, name: str, how: list[str], concurrency: int
) -> dict[str, float]:
    """One row of perf_analyzer's CSV report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [
            *(str(perf_analyzer), "-m", name, "-i", "grpc", "-u", address, *how),
            *("--concurrency-range", str(concurrency), "-p", "2000", "-a"),
            *("-r", "4", "-s", "30", "-f", str(report)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.is_file():
            raise typer.BadParameter(done.stdout[-2000:] + done.stderr[-2000:])
        rows = list(csv.DictReader(report.read_text().splitlines()))
    return {key: float(value) for key, value in rows[0].items() if value}


if __name__ == "__main__":
    app()
