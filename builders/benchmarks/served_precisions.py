"""Throughput and accuracy of the CPU's precisions and runtimes, served.

    python -m builders.benchmarks.served_precisions IMAGES

The gender and the R18 ReID network run in every precision by every runtime (INT8
calibrated on IMAGES), each on a tritonserver of its own with the cpu target. The
servers are measured in turns within one run, by two callers with eight crops per
request.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from builders.build.build import build
from builders.build.cpu import CPU_RUNTIMES
from builders.build.source import BuildOptions, load_arrays
from builders.quantisation.calibration import calibrate, compute_held_out_reference
from builders.quantisation.images import find_calibration_images
from builders.quantisation.table import HELD_OUT_FILE
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.tensorrt.library import Precision
from builders.verify.comparison import compare_outputs
from builders.verify.reference import ReferenceAnswers
from builders.weights import StandIn
from personserve import Client
from personserve.internal import markdown
from personserve.internal.closed_loop import run_closed_loop
from personserve.internal.machine import cpu_has, describe_machine

Variant = tuple[Precision, str]
"""A precision and the runtime that runs it."""

NAMES = ("person_gender", "person_reid_kd_r18")
VARIANTS: tuple[Variant, ...] = tuple(
    (precision, runtime)
    for precision, runtimes in CPU_RUNTIMES.items()
    for runtime in runtimes
)
BASELINE = VARIANTS[0]
"""FP32 by ONNX Runtime."""

CALLERS, CROPS = 2, 8
ROUNDS, ROUND_S = 3, 6.0
TIMEOUT_S = 60.0
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "amx_bf16")


app = typer.Typer(add_completion=False)


@app.command()
def main(
    images: Annotated[
        Path, typer.Argument(help="Folder of crops to calibrate INT8 on.")
    ],
) -> None:
    """Print a table of the CPU's precisions and runtimes, served.

    One row per model, precision and runtime: people per second (the median of three
    rounds), the ratio to FP32 by ONNX Runtime, and the distance from torch on the
    images that calibration held out. Then the machine and its relevant instructions.
    """
    console = Console()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models(NAMES):
            console.print(f"calibrating and building {model.name}")
            reference = _build_variants(model, images, Path(folder))
            rows += _measure_variants(model, reference, Path(folder))
    head = ["model", "precision", "by", "people/s", "ratio", "against torch FP32"]
    console.print(markdown.format_table(head, rows), soft_wrap=True)
    instructions = ", ".join(i for i in INSTRUCTIONS if cpu_has(i)) or "none"
    console.print({**describe_machine(), "instructions": instructions}, soft_wrap=True)


def _build_variants(model: Model, images: Path, folder: Path) -> ReferenceAnswers:
    """Build one repository per variant; return the answers for held-out images."""
    calibration_images = find_calibration_images(images)
    arrays = load_arrays(model, StandIn())
    table = calibrate(model, arrays, str(StandIn()), calibration_images, "max")
    reference = compute_held_out_reference(model, arrays, StandIn(), calibration_images)
    for precision, runtime in VARIANTS:
        repository = Repository(folder / f"{precision}-{runtime}")
        render_repository(repository)
        table.save(repository)
        reference.save(repository.artefact_path(model.name, HELD_OUT_FILE))
        options = BuildOptions(precision, runtime=runtime)
        build("cpu", model, StandIn(), repository, options)
    return reference


def _measure_variants(
    model: Model, reference: ReferenceAnswers, folder: Path
) -> list[list[str]]:
    """Serve all variants at once and measure them in turns; return table rows."""
    with ExitStack() as stack:
        clients: dict[Variant, Client] = {}
        for precision, runtime in VARIANTS:
            repository = Repository(folder / f"{precision}-{runtime}")
            server = TritonServer(repository, models=[model.name], ports=Ports.free())
            address = stack.enter_context(server).grpc_address
            client = stack.enter_context(Client(address, timeout_s=TIMEOUT_S))
            clients[precision, runtime] = client
        rates: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(ROUNDS):
            for variant, client in clients.items():
                rates[variant].append(_people_per_s(client, model, reference))
        medians = {
            variant: float(np.median(values)) for variant, values in rates.items()
        }
        return [
            _format_row(model, reference, variant, client, medians)
            for variant, client in clients.items()
        ]


def _format_row(
    model: Model,
    reference: ReferenceAnswers,
    variant: Variant,
    client: Client,
    medians: Mapping[Variant, float],
) -> list[str]:
    precision, runtime = variant

    def run(**inputs: Any) -> Mapping[str, Any]:
        return client.infer(model.name, inputs, timeout_s=TIMEOUT_S)

    (comparison,) = compare_outputs(model, reference, run, "cpu", precision)
    rate = medians[variant]
    ratio = rate / medians[BASELINE]
    return [
        model.name,
        precision,
        runtime,
        f"{rate:.0f}",
        f"{ratio:.2f}",
        str(comparison),
    ]


def _people_per_s(client: Client, model: Model, reference: ReferenceAnswers) -> float:
    inputs = {name: array[:CROPS] for name, array in reference.inputs.items()}
    send = partial(client.infer, model.name, inputs, timeout_s=TIMEOUT_S)
    times, elapsed_s = run_closed_loop(send, CALLERS, ROUND_S)
    return len(times) * CROPS / elapsed_s


if __name__ == "__main__":
    app()
