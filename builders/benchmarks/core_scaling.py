"""People per second of the frame ensemble by CPU cores, beside linear scaling.

    python -m builders.benchmarks.core_scaling --cores 1,2,4,8,16

Starts the server once per number of cores: pinned to that many cores, with the
instance counts that `serve` renders for them (one process per model and core). The
load is closed-loop: two callers per core send the same encoded frame again and again.
The callers run on the same machine and are not pinned, so with all cores in use they
compete with the server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from builders.repository.layout import Repository
from builders.serve.resources import usable_cores
from builders.serve.tritonserver import Ports, TritonServer
from personserve import Client
from personserve.internal import markdown
from personserve.internal.closed_loop import run_closed_loop
from personserve.internal.files import write_text
from personserve.internal.machine import describe_machine

ENSEMBLE = "person_attributes"
FRAME_HW = (1080, 1920)
PEOPLE = 10
CALLERS_PER_CORE = 2
REQUEST_TIMEOUT_S = 120.0

console = Console()
app = typer.Typer(add_completion=False)


@app.command()
def main(
    cores: Annotated[
        str, typer.Option(help="Numbers of cores to measure, separated by commas.")
    ] = "1,2",
    frame: Annotated[
        Path | None,
        typer.Option(
            help="Encoded 1080p frame. Default: a photograph of scikit-image, enlarged."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of a round.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 3,
    output: Annotated[
        Path | None, typer.Option(help="Markdown file for the table.")
    ] = None,
) -> None:
    """Measure people per second of person_attributes by CPU cores."""
    counts = [int(count) for count in cores.split(",")]
    data = _photograph_frame() if frame is None else frame.read_bytes()
    rates = {
        count: _measure_rates(count, data, seconds, rounds)
        for count in counts
        if count <= usable_cores()
    }
    text = f"{describe_machine()}\n\n{_format_table(rates)}\n"
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    if output is not None:
        write_text(output, text)


def _measure_rates(
    cores: int, frame: bytes, seconds: float, rounds: int
) -> list[float]:
    """People per second of each round."""
    boxes = _spread_boxes()
    with (
        _pinned_to(cores),
        TritonServer(
            Repository(), models=[ENSEMBLE], ports=Ports.free(), cores=cores
        ) as server,
    ):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        with Client(server.grpc_address, timeout_s=REQUEST_TIMEOUT_S) as client:

            def send() -> None:
                client.attributes(frame, boxes)

            callers = CALLERS_PER_CORE * cores
            run_closed_loop(send, callers, seconds=1.0)
            rates = []
            for number in range(rounds):
                times, elapsed_s = run_closed_loop(send, callers, seconds)
                rates.append(len(times) * PEOPLE / elapsed_s)
                console.print(f"{cores} cores, round {number + 1}: {rates[-1]:.1f}")
    return rates


@contextmanager
def _pinned_to(cores: int) -> Iterator[None]:
    """Pin this process and its children to the first cores that it may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _spread_boxes() -> npt.NDArray[np.float32]:
    """PEOPLE boxes of a typical size, side by side, FP32 [N, 4]."""
    left = np.linspace(40, FRAME_HW[1] - 200, PEOPLE)
    box = [left, np.full(PEOPLE, 300), left + 150, np.full(PEOPLE, 750)]
    return np.array(box, np.float32).T


def _photograph_frame() -> bytes:
    import skimage.data

    image = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
    frame = cv2.resize(image, FRAME_HW[::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", frame)[1].tobytes()


def _format_table(rates: Mapping[int, Sequence[float]]) -> str:
    base_cores = min(rates)
    per_core = median(rates[base_cores]) / base_cores
    rows = []
    for cores, values in rates.items():
        rate = median(values)
        rows.append(
            [
                str(cores),
                f"{rate:.1f}",
                f"{min(values):.1f} to {max(values):.1f}",
                f"{rate / per_core:.2f}",
                f"{rate / per_core / cores:.2f}",
            ]
        )
    return markdown.format_table(
        ["cores", "people/s", "rounds", "times one core", "of linear"], rows
    )


if __name__ == "__main__":
    app()
