"""NVIDIA's perf_analyzer over ways, people and concurrencies, beside a running server:
`python -m loadtest perf person_gender --people 1,8 --concurrency 1,4`.

The binary is the one on PATH, or that of the wheel tritonclient 2.51.0 (PyPI's own
perf-analyzer is empty), kept in the user's cache. Inputs are what the server's models
want: random crops, or a real JPEG with so many boxes. All loads take turns, --rounds
times, so that the report knows how much they vary.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from loadtest.perf_input import write_input
from loadtest.report import Point, Run, changes, merged, write_report
from loadtest.server import facts, used
from personserve import Client, ModelDescription

WHEEL = "tritonclient==2.51.0"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""What the binary needs, and what nvidia-pytriton has under other names."""

STABLE_PERCENT = 999
"""How much its three windows may differ. Our rounds tell how much a load varies, and a
busy machine is no reason to lose a report.
"""

TOO_SHORT = "Please use a larger time window"
LONGEST_WINDOW_S = 60.0

console = Console()


class PerfAnalyzerError(RuntimeError):
    """It is not there, or it failed; says what to do."""


@dataclass(frozen=True)
class Tool:
    """The binary and the environment that it needs."""

    path: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Load:
    """What is measured; `way` is the protocol and how tensors go."""

    model: ModelDescription
    protocol: str
    memory: str
    people: int
    concurrency: int

    @property
    def way(self) -> str:
        return f"{self.protocol}, {'wire' if self.memory == 'none' else self.memory}"


Numbers = Annotated[str, typer.Option(help="Several divided by commas.")]


def main(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...")],
    grpc: Annotated[str, typer.Option(help="gRPC address.")] = "127.0.0.1:8001",
    http: Annotated[str, typer.Option(help="HTTP address.")] = "127.0.0.1:8000",
    metrics: Annotated[str, typer.Option(help="Metrics.")] = "127.0.0.1:8002",
    people: Numbers = "1,8",
    concurrency: Numbers = "1,4",
    protocols: Numbers = "grpc",
    memories: Annotated[str, typer.Option(help="none, system, cuda.")] = "none",
    seconds: Annotated[float, typer.Option(min=0.2, help="Of one window.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    label: Annotated[
        str, typer.Option(help="What else is to be known, as the precision.")
    ] = "",
    against: Annotated[
        Path | None, typer.Option(help="An earlier report.json to compare with.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path(
        "reports/load"
    ),
) -> None:
    """NVIDIA's perf_analyzer over ways, people and concurrencies; with a report."""
    try:
        _run(
            models,
            {"grpc": grpc, "http": http, "metrics": metrics},
            product(
                protocols.split(","),
                memories.split(","),
                [int(n) for n in people.split(",")],
                [int(n) for n in concurrency.split(",")],
            ),
            seconds,
            rounds,
            label,
            against,
            output,
        )
    except (PerfAnalyzerError, ValueError, OSError) as exc:
        console.print(f"[red]error:[/red] {exc}", soft_wrap=True)
        raise typer.Exit(1) from exc


def _run(
    names: Sequence[str],
    addresses: Mapping[str, str],
    grid: Iterator[tuple[str, str, int, int]],
    seconds: float,
    rounds: int,
    label: str,
    against: Path | None,
    output: Path,
) -> None:
    earlier = None if against is None else Run.load(against)
    with Client(addresses["grpc"]) as client:
        described = [client.describe(name) for name in names]
    loads = [Load(model, *how) for how in grid for model in described]
    taken: dict[int, list[Point]] = {index: [] for index in range(len(loads))}
    with perf_analyzer() as tool:
        turns = [index for _ in range(rounds) for index in taken]
        for index in track(turns, "measuring", console=console, transient=True):
            taken[index].append(measured(tool, loads[index], addresses, seconds))
    run = Run(
        facts(addresses["grpc"], addresses["http"], names, label),
        [merged(p) for p in taken.values()],
    )
    page = write_report(output, run, earlier)
    for point in run.points:
        console.print(
            f"{point.key}: {point.rate:.1f} people/s, p50 {point.p50_ms:.1f} ms, "
            f"p99 {point.p99_ms:.1f} ms",
            soft_wrap=True,
        )
    for change in changes(run, earlier) if earlier else []:
        if change.exceeds:
            console.print(f"{change.key}: {change.ratio:.2f} of before", style="bold")
    console.print(f"wrote {page}")


@contextmanager
def perf_analyzer() -> Iterator[Tool]:
    """The tool, ready to run. Raises PerfAnalyzerError."""
    there = shutil.which("perf_analyzer")
    if there is not None:
        yield Tool(Path(there), os.environ)
        return
    with tempfile.TemporaryDirectory() as folder:
        libraries = _libraries(Path(folder))
        known = os.environ.get("LD_LIBRARY_PATH", "")
        path = ":".join([*map(str, libraries), *filter(None, [known])])
        yield Tool(_from_wheel(), {**os.environ, "LD_LIBRARY_PATH": path})


def _from_wheel() -> Path:
    """The wheel's binary, fetched once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    path = cache / "personserve" / WHEEL.replace("==", "-") / "perf_analyzer"
    if path.is_file():
        return path
    console.print(f"fetching perf_analyzer from the wheel {WHEEL}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise PerfAnalyzerError(
                f"perf_analyzer is not on PATH, and {WHEEL} cannot be fetched: "
                f"{done.stderr.strip()[-300:]}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            (name,) = (n for n in wheel.namelist() if n.endswith("bin/perf_analyzer"))
            partial = path.with_suffix(".partial")
            partial.write_bytes(wheel.read(name))
        partial.chmod(0o755)
        partial.replace(path)
    return path


def _libraries(folder: Path) -> list[Path]:
    """Folders with what the binary needs, out of nvidia-pytriton where it is."""
    try:
        root = Path(str(distribution("nvidia-pytriton").locate_file("")))
    except PackageNotFoundError:
        return []
    theirs = root / "nvidia_pytriton.libs"
    for name, pattern in LIBRARIES.items():
        for library in theirs.glob(pattern):
            (folder / name).symlink_to(library)
            break
    return [folder, theirs]


def measured(
    tool: Tool, load: Load, addresses: Mapping[str, str], seconds: float
) -> Point:
    """One run of perf_analyzer, with longer windows where nothing was answered within
    one. Raises PerfAnalyzerError.
    """
    batched = load.model.max_batch_size > 0
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [
            *(str(tool.path), "-m", load.model.name, "-i", load.protocol),
            *("-u", addresses[load.protocol], "-f", str(report)),
            *("--shared-memory", load.memory, "-s", str(STABLE_PERCENT), "-r", "3"),
            *("-p", str(round(seconds * 1e3))),
            *("--concurrency-range", f"{load.concurrency}:{load.concurrency}"),
        ]
        if batched:
            command += ["-b", str(load.people), *_shapes(load.model)]
        else:
            data = Path(folder) / "input.json"
            write_input(data, load.people)
            command += ["--input-data", str(data)]
        with used(addresses["metrics"]) as use:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=tool.environment,
            )
        if done.returncode or not report.is_file():
            words = (done.stdout + done.stderr).strip()[-600:]
            if TOO_SHORT in words and seconds < LONGEST_WINDOW_S:
                return measured(tool, load, addresses, 4 * seconds)
            raise PerfAnalyzerError(f"perf_analyzer failed at {load.way}: {words}")
        (row,) = csv.DictReader(report.read_text(encoding="utf-8").splitlines())
    return _point(load, row, use, 1 if batched else load.people)


def _shapes(model: ModelDescription) -> Iterator[str]:
    for tensor in model.inputs:
        sizes = ",".join(str(size) for size in tensor.shape)
        yield from ("--shape", f"{tensor.name}:{sizes}")


def _point(
    load: Load, row: Mapping[str, str], use: Mapping[str, list[float]], people: int
) -> Point:
    def ms(*names: str) -> float:
        return sum(float(row[name]) for name in names) / 1e3

    mean = {name: float(np.mean(values)) for name, values in use.items()}
    return Point(
        load.model.name,
        load.way,
        load.people,
        load.concurrency,
        [float(row["Inferences/Second"]) * people],
        ms("p50 latency"),
        ms("p99 latency"),
        ms("Server Queue"),
        ms("Server Compute Input", "Server Compute Infer", "Server Compute Output"),
        ms("Client Send", "Network+Server Send/Recv", "Client Recv"),
        mean.get("nv_cpu_utilization"),
        mean.get("nv_gpu_utilization"),
    )
