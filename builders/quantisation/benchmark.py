"""What INT8 gains, served: `python -m builders.quantisation.benchmark IMAGES`.

The gender and the R18 ReID network, in FP32 and in INT8 (calibrated on IMAGES), each on
a real tritonserver with the cpu target, in turns within one run; as many callers as
instances, eight crops a request. Prints people/s, the ratio, and how far INT8's answers
are from FP32's on the images that calibration held out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from builders import markdown
from builders.build import BuildOptions, build, load, render
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

NAMES = ("person_gender", "person_reid_kd_r18")
PRECISIONS = ("fp32", "int8")
CALLERS, CROPS = 2, 8
ROUNDS, ROUND_S = 3, 6.0
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")


def main(images: Annotated[Path, typer.Argument(help="Folder of crops.")]) -> None:
    """Print one table."""
    console = Console()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models(NAMES):
            console.print(f"calibrating and building {model.name}")
            check = _build(model, images, Path(folder))
            rows += _measured(model, check, Path(folder))
    head = ["model", "fp32 people/s", "int8 people/s", "ratio", "int8 against fp32"]
    console.print(markdown.table(head, rows), soft_wrap=True)
    console.print({**machine(), "int8 instructions": _instructions()}, soft_wrap=True)


def _build(model: Model, images: Path, folder: Path) -> Check:
    chosen = images_in(images)
    arrays = load(model, StandIn()).arrays
    table = calibrate(model, arrays, str(StandIn()), chosen, "max", lambda *_: None)
    check = held_out_check(model, arrays, StandIn(), chosen)
    for precision in PRECISIONS:
        repository = Repository(folder / precision)
        render(repository)
        table.save(repository)
        check.save(repository.built(model.name, CHECK_FILE))
        options = BuildOptions("int8" if precision == "int8" else "fp32")
        build("cpu", model, StandIn(), repository, options, lambda _: None)
    return check


def _measured(model: Model, check: Check, folder: Path) -> list[list[str]]:
    rates: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with ExitStack() as stack:
        clients = {}
        for precision in PRECISIONS:
            repository = Repository(folder / precision)
            server = TritonServer(repository, models=[model.name], ports=Ports.free())
            address = stack.enter_context(server).grpc_address
            clients[precision] = stack.enter_context(Client(address, timeout_s=60))
        for _ in range(ROUNDS):
            for precision, client in clients.items():
                rates[precision].append(_people_per_s(client, model, check))

        def served(**inputs: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
            return clients["int8"].infer(model.name, timeout_s=60, **inputs)

        (found,) = measures(model, check, served, "cpu", "int8")
    fp32, int8 = (float(np.median(rates[precision])) for precision in PRECISIONS)
    return [
        [model.name, f"{fp32:.0f}", f"{int8:.0f}", f"{int8 / fp32:.2f}", str(found)]
    ]


def _people_per_s(client: Client, model: Model, check: Check) -> float:
    inputs = {name: array[:CROPS] for name, array in check.inputs.items()}
    began = time.perf_counter()

    def ask(_caller: int) -> int:
        calls = 0
        while time.perf_counter() - began < ROUND_S:
            client.infer(model.name, timeout_s=60, **inputs)
            calls += 1
        return calls

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = sum(pool.map(ask, range(CALLERS)))
    return calls * CROPS / (time.perf_counter() - began)


def _instructions() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return ", ".join(name for name in INSTRUCTIONS if name in text) or "none"


if __name__ == "__main__":
    typer.run(main)
