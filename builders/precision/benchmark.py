"""What precisions and runtimes of the CPU give, served: `python -m
builders.precision.benchmark IMAGES`.

The gender and the R18 ReID network in every precision by every runtime (INT8 calibrated
on IMAGES), each on a real tritonserver with the cpu target, in turns within one run; as
many callers as instances, eight crops a request. Prints people/s, the ratio to FP32 by
ONNX Runtime, and how far answers are from torch's on the images that calibration held
out.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from builders import markdown
from builders.build import CPU_RUNTIMES, BuildOptions, build, load, render
from builders.catalogue import models
from builders.check import Check, measures
from builders.evaluation.report import machine
from builders.quantisation.calibration import calibrate, held_out_check, images_in
from builders.quantisation.table import CHECK_FILE
from builders.repository import Repository
from builders.server import Ports, TritonServer
from builders.spec import Model
from builders.weights import StandIn
from personserve import Client
from personserve._closed_loop import closed_loop

NAMES = ("person_gender", "person_reid_kd_r18")
WAYS = tuple(
    (precision, runtime)
    for precision, runtimes in CPU_RUNTIMES.items()
    for runtime in runtimes
)
CALLERS, CROPS = 2, 8
ROUNDS, ROUND_S = 3, 6.0
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "amx_bf16")


def main(images: Annotated[Path, typer.Argument(help="Folder of crops.")]) -> None:
    """Print one table."""
    console = Console()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models(NAMES):
            console.print(f"calibrating and building {model.name}")
            check = _build(model, images, Path(folder))
            rows += _measured(model, check, Path(folder))
    head = ["model", "precision", "by", "people/s", "ratio", "against torch FP32"]
    console.print(markdown.table(head, rows), soft_wrap=True)
    console.print({**machine(), "instructions": _instructions()}, soft_wrap=True)


def _build(model: Model, images: Path, folder: Path) -> Check:
    chosen = images_in(images)
    arrays = load(model, StandIn()).arrays
    table = calibrate(model, arrays, str(StandIn()), chosen, "max", lambda *_: None)
    check = held_out_check(model, arrays, StandIn(), chosen)
    for precision, runtime in WAYS:
        repository = Repository(folder / f"{precision}-{runtime}")
        render(repository)
        table.save(repository)
        check.save(repository.built(model.name, CHECK_FILE))
        options = BuildOptions(precision, runtime=runtime)
        build("cpu", model, StandIn(), repository, options, lambda _: None)
    return check


def _measured(model: Model, check: Check, folder: Path) -> list[list[str]]:
    rates: dict[tuple[str, str], list[float]] = {way: [] for way in WAYS}
    rows = []
    with ExitStack() as stack:
        clients = {}
        for precision, runtime in WAYS:
            repository = Repository(folder / f"{precision}-{runtime}")
            server = TritonServer(repository, models=[model.name], ports=Ports.free())
            address = stack.enter_context(server).grpc_address
            client = stack.enter_context(Client(address, timeout_s=60))
            clients[precision, runtime] = client
        for _ in range(ROUNDS):
            for way, client in clients.items():
                rates[way].append(_people_per_s(client, model, check))
        base = float(np.median(rates[WAYS[0]]))
        for way, client in clients.items():
            precision, runtime = way
            served = partial(client.infer, model.name, timeout_s=60)
            (found,) = measures(model, check, served, "cpu", precision)
            rate = float(np.median(rates[way]))
            figures = f"{rate:.0f}", f"{rate / base:.2f}", str(found)
            rows.append([model.name, precision, runtime, *figures])
    return rows


def _people_per_s(client: Client, model: Model, check: Check) -> float:
    inputs = {name: array[:CROPS] for name, array in check.inputs.items()}
    ask = partial(client.infer, model.name, timeout_s=60, **inputs)
    times, taken_s = closed_loop(ask, CALLERS, ROUND_S)
    return len(times) * CROPS / taken_s


def _instructions() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return ", ".join(name for name in INSTRUCTIONS if name in text) or "none"


if __name__ == "__main__":
    typer.run(main)
