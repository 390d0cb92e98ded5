"""GPU figures: plans beside PyTorch on the same machine in the same run.

`python -m builders.benchmark torch FILE` and `... plan FILE` add rows to FILE (JSON),
by the Python that has the one or the other; `... table FILE` prints Markdown.
`builders/benchmark.sh` runs everything that BENCHMARKS.md publishes.

A time is the median of one batch on the GPU by CUDA events, without copies. PyTorch
runs eagerly in FP32 (TF32 off), and in FP16 with channels-last under a CUDA graph.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from builders.build import PLAN_FILE, load
from builders.catalogue import models
from builders.parity import parity_inputs
from builders.repository import Repository, write_text
from builders.tensorrt.engine import Engine, current_gpu
from builders.tensorrt.library import library_called, load_library

if TYPE_CHECKING:
    from builders.spec import Image, Model

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

EAGER = "PyTorch FP32 eager"
GRAPH = "PyTorch FP16 graph"
REPEATS = 200
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SERVED = (
    ("person_gender", 1, "crops:224,224,3"),
    ("person_gender", 8, "crops:224,224,3"),
    ("person_gender", 64, "crops:224,224,3"),
    ("person_reid_kd_r18", 8, "crops:384,128,3"),
    ("person_reid_kd_r18", 64, "crops:384,128,3"),
    ("person_attributes", 10, None),
)
"""(model, people in a request, perf_analyzer's shape) that are measured served."""

Results = Annotated[Path, typer.Argument(help="Figures, added to what is there.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...")]


@dataclass(frozen=True)
class Figure:
    """One median; `runner` names what ran, with its version in `version`."""

    model: str
    runner: str
    version: str
    batch: int
    median_ms: float
    gpu: str
    driver: str
    date: str


@app.command()
def plan(results: Results, names: Names = None) -> None:
    """Time the plans that are built."""
    repository = Repository()
    for model in models(names or ()):
        path = repository.built(model.name, PLAN_FILE)
        passport = repository.record(path)
        if passport is None:
            raise typer.BadParameter(f"{path} is not built")
        library = library_called(passport["library"])
        engine = Engine(library.trt, path.read_bytes())
        crops = np.random.default_rng(0).integers(
            0, 256, (engine.max_batch, *model.inputs[0].shape), dtype=np.uint8
        )
        for name in engine.inputs:
            engine.put(name, crops)
        times = {n: engine.median_ms(n, REPEATS) for n in _batches(model)}
        runner = f"{passport['library']} {passport['precision']}"
        _add(results, model, runner, library.version, times)
        engine.close()


@app.command("torch")
def torch_(results: Results, names: Names = None) -> None:
    """Time PyTorch, both ways."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    repository = Repository()
    for model in models(names or ()):
        arrays = load(model, repository.origin(model.name)).arrays
        for runner, prepare in ((EAGER, _eager), (GRAPH, _graph)):
            times = {n: _timed(prepare(model, arrays, n)) for n in _batches(model)}
            _add(results, model, runner, torch.__version__, times)


@app.command()
def table(results: Results) -> None:
    """Print the figures as Markdown, with ratios to both ways of PyTorch."""
    figures = [Figure(**row) for row in json.loads(results.read_text())]
    by = {(f.model, f.runner, f.batch): f.median_ms for f in figures}
    runners = {f.runner: f.version for f in figures}
    first = figures[0]
    versions = ", ".join(sorted({f"{r.split()[0]} {v}" for r, v in runners.items()}))
    lines = [f"{first.gpu}, driver {first.driver}, {versions}, {first.date}.", ""]
    for model in dict.fromkeys(f.model for f in figures):
        batches = sorted({f.batch for f in figures if f.model == model})
        lines += [
            f"### {model}",
            "",
            "| runner | batch | median ms | people/s | to eager FP32 | to FP16 graph |",
            "|---|---|---|---|---|---|",
        ]
        for runner in runners:
            for batch in batches:
                ms = by.get((model, runner, batch))
                if ms is None:
                    continue
                ratios = " | ".join(
                    f"{by[model, other, batch] / ms:.2f}"
                    if (model, other, batch) in by
                    else "-"
                    for other in (EAGER, GRAPH)
                )
                lines.append(
                    f"| {runner} | {batch} | {ms:.3f} | {batch / ms * 1e3:,.0f} "
                    f"| {ratios} |"
                )
        lines.append("")
    typer.echo("\n".join(lines))


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


def _batches(model: Model) -> tuple[int, ...]:
    maximum = model.batching.maximum
    return tuple(sorted({n for n in BATCHES if n < maximum} | {maximum}))


def _add(
    path: Path, model: Model, runner: str, version: str, times: Mapping[int, float]
) -> None:
    gpu = current_gpu()
    name, driver = (gpu.name, gpu.driver) if gpu else ("no GPU", "none")
    rows = json.loads(path.read_text()) if path.exists() else []
    for batch, median_ms in times.items():
        figure = Figure(
            model.name,
            runner,
            version,
            batch,
            median_ms,
            name,
            driver,
            date.today().isoformat(),  # noqa: DTZ011 - the reader's own day
        )
        rows = [
            row
            for row in rows
            if (row["model"], row["runner"], row["batch"])
            != (model.name, runner, batch)
        ]
        rows.append(asdict(figure))
        typer.echo(f"{model.name} {runner} batch {batch}: {median_ms:.3f} ms")
    write_text(path, json.dumps(rows, indent=1) + "\n")


def _eager(model: Model, arrays: Mapping[str, Any], batch: int) -> Callable[[], Any]:
    from builders.ops.torch import TorchOps

    return _network(TorchOps, model, arrays, batch, half=False)


def _graph(model: Model, arrays: Mapping[str, Any], batch: int) -> Callable[[], Any]:
    import torch

    from builders.ops.torch import TorchOps

    class HalfOps(TorchOps):
        """Convolutions in FP16 channels-last; GeM and everything after in FP32."""

        def image(self, image: Image) -> torch.Tensor:
            x = super().image(image).half()
            return x.contiguous(memory_format=torch.channels_last)

        def gem_pool(self, x: torch.Tensor, name: str) -> torch.Tensor:
            return super().gem_pool(x.float(), name)

        def batch_norm(self, x: torch.Tensor, norm: Any) -> torch.Tensor:
            half = x.dtype == torch.half
            return super().batch_norm(x, norm) if half else self._float_norm(x, norm)

        def _float_norm(self, x: torch.Tensor, norm: Any) -> torch.Tensor:
            return super().batch_norm(x.half(), norm).float()

    run = _network(HalfOps, model, arrays, batch, half=True)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(5):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _network(
    kind: Any, model: Model, arrays: Mapping[str, Any], batch: int, *, half: bool
) -> Callable[[], Any]:
    import torch

    def weight(key: str, array: Any) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array)).cuda()
        if half and not key.endswith(".p"):
            tensor = tensor.half()
        if half and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    weights = {key: weight(key, array) for key, array in arrays.items()}
    inputs = {
        name: torch.from_numpy(array[:1]).cuda().expand(batch, *array.shape[1:])
        for name, array in parity_inputs(model).items()
    }
    ops = kind(weights, {name: x.contiguous() for name, x in inputs.items()})

    def run() -> Any:
        with torch.inference_mode():
            return model.wire(ops)

    return run


def _timed(run: Callable[[], Any]) -> float:
    import torch

    for _ in range(10):
        run()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(REPEATS + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in pairwise(events)]
    return float(np.median(times))


if __name__ == "__main__":
    app()
