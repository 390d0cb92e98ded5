"""The `overload` command: several times the load that a server sustains.

The rate that the server sustains is measured first, by callers in a closed loop. Then
frames are sent at a multiple of it, at fixed times and whatever the server does. A
bounded server answers as many as before, within a bounded time, refuses the others at
once, and needs no more memory the longer it lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from loadtest.app import app
from loadtest.facts import describe_session
from loadtest.frames import make_jpeg_frame, place_boxes
from loadtest.machine import find_listening_process, memory_mib, process_tree
from loadtest.options import (
    DEFAULT_FRAME_MODEL,
    GRPC_ADDRESS,
    GrpcAddress,
    ReportFolder,
)
from personserve import AsyncClient, Client, OverloadedError, PersonServeError, Retry
from personserve.internal.closed_loop import run_closed_loop
from personserve.internal.report import Report, page_link
from personserve.internal.sections import Table

CALLERS = 4
SAMPLE_INTERVAL_S = 1.0
TIMEOUT_S = 60.0
"""Deadline of each call: longer than any wait that passes, so that no call is counted
as refused because its own caller has given up."""

MAX_REFUSAL_S = 1.0
"""Longest time to a refusal (99th percentile) that counts as at once: the frame must
arrive, on cores that the networks keep busy."""

MIN_THROUGHPUT = 0.8
MAX_GROWTH = 0.05
"""Growth of memory from the second to the last third of the load."""


@dataclass
class Outcome:
    """Results of the frames that a server was sent.

    Attributes:
        answered_s: Seconds from the planned start to the answer of each answered frame.
        refused_s: Seconds to the refusal of each refused frame.
        errors: Number of other errors, by class.
        memory_mib: Memory of the server's processes over time, in MiB.
        seconds: Time from the first frame to the last answer.
        offered: Number of frames sent.
    """

    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    memory_mib: list[float] = field(default_factory=list)
    seconds: float = 0.0
    offered: int = 0

    @property
    def growth(self) -> float:
        """Relative growth of memory from the second to the last third of the load."""
        third = max(1, len(self.memory_mib) // 3)
        middle, last = self.memory_mib[third : 2 * third], self.memory_mib[-third:]
        if not middle or not last:
            return 0.0
        return float(np.median(last) / np.median(middle) - 1)


@app.command()
def overload(
    grpc: GrpcAddress = GRPC_ADDRESS,
    factor: Annotated[
        float, typer.Option(min=1, help="Offered load over the sustained load.")
    ] = 4.0,
    people: Annotated[int, typer.Option(min=1, help="People per frame.")] = 4,
    model: Annotated[
        str, typer.Option(help="Model that takes the frames.")
    ] = DEFAULT_FRAME_MODEL,
    probe_s: Annotated[
        float, typer.Option(min=1, help="Seconds to measure the sustained load.")
    ] = 15.0,
    seconds: Annotated[
        float, typer.Option(min=1, help="Seconds of the offered load.")
    ] = 60.0,
    queue_limit_s: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="The server's limit to the wait in a queue, in seconds; answers may "
            "take twice as long.",
        ),
    ] = 15.0,
    output: ReportFolder = Path("reports/overload"),
) -> None:
    """Check that a server under too much load answers in time and refuses the rest.

    Exit code 1 if it does not: see the report's table for the limits.
    """
    console = Console()
    frame, boxes = make_jpeg_frame(), place_boxes(people)
    with Client(grpc, timeout_s=TIMEOUT_S) as client:
        times_s, elapsed_s = run_closed_loop(
            lambda: client.attributes(frame, boxes, model=model, crop_on="server"),
            *(CALLERS, probe_s),
        )
    sustained = len(times_s) / elapsed_s
    console.print(f"sustained: {sustained:.1f} frames/s of {people} people")
    load = _Load(grpc, frame, boxes, factor * sustained, seconds, model)
    outcome = asyncio.run(load.run())
    table, passes = tabulate(outcome, sustained, queue_limit_s)
    table.print_to(console)
    facts = describe_session() | {
        "server": grpc,
        "load": f"{factor:g} times {sustained:.1f} frames/s of {people} people "
        f"for {seconds:g} s",
    }
    values = vars(outcome) | {"errors": dict(outcome.errors)}
    record = {"facts": facts, "outcome": values}
    page = Report("Overload", facts, record, [table]).write(output)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)
    raise typer.Exit(int(not passes))


class _Load:
    """Sends frames at fixed times, in one event loop."""

    def __init__(
        self,
        address: str,
        frame: bytes,
        boxes: npt.NDArray[np.float32],
        frames_per_s: float,
        seconds: float,
        model: str,
    ) -> None:
        self._address = address
        self._model = model
        self._frame, self._boxes = frame, boxes
        self._interval_s = 1 / frames_per_s
        self._seconds = seconds
        self._outcome = Outcome()

    async def run(self) -> Outcome:
        server = find_listening_process(self._address.removeprefix("grpc://"))
        async with AsyncClient(
            self._address, timeout_s=TIMEOUT_S, retry=Retry(attempts=1)
        ) as client:
            began = due = sampled = time.monotonic()
            calls = []
            while due < began + self._seconds:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                calls.append(asyncio.ensure_future(self._send(client, due)))
                due += self._interval_s
                if time.monotonic() - sampled > SAMPLE_INTERVAL_S:
                    sampled = time.monotonic()
                    memory = memory_mib(process_tree(server))
                    self._outcome.memory_mib.append(memory)
            self._outcome.offered = len(calls)
            await asyncio.gather(*calls)
            self._outcome.seconds = time.monotonic() - began
        return self._outcome

    async def _send(self, client: AsyncClient, due: float) -> None:
        try:
            await client.attributes(
                self._frame, self._boxes, model=self._model, crop_on="server"
            )
        except OverloadedError:
            self._outcome.refused_s.append(time.monotonic() - due)
        except PersonServeError as exc:
            self._outcome.errors[type(exc).__name__] += 1
        else:
            self._outcome.answered_s.append(time.monotonic() - due)


def tabulate(
    outcome: Outcome, sustained: float, queue_limit_s: float
) -> tuple[Table, bool]:
    """Return the measured values with their limits, and whether all are met.

    Args:
        outcome: What the server did.
        sustained: Frames/s that it answers in a closed loop.
        queue_limit_s: Its limit to the wait in a queue.
    """
    throughput = len(outcome.answered_s) / outcome.seconds
    least = MIN_THROUGHPUT * sustained
    answer_s, refusal_s = _p99(outcome.answered_s), _p99(outcome.refused_s)
    errors = sum(outcome.errors.values())
    checks = [
        ("answers, frames/s", f"{throughput:.2f}", f">= {least:.2f}",
         throughput >= least),
        ("answers, p99 in s", f"{answer_s:.2f}", f"< {2 * queue_limit_s:g}",
         answer_s < 2 * queue_limit_s),
        ("refusals, p99 in s", f"{refusal_s:.2f}", f"< {MAX_REFUSAL_S:g}",
         refusal_s < MAX_REFUSAL_S),
        ("other errors", f"{errors} {dict(outcome.errors) or ''}".strip(), "0",
         errors == 0),
        ("growth of memory", f"{outcome.growth:+.1%}", f"< {MAX_GROWTH:.0%}",
         outcome.growth < MAX_GROWTH),
    ]  # fmt: skip
    rows: list[Sequence[str]] = [
        ["offered frames", str(outcome.offered), "", ""],
        ["answered", str(len(outcome.answered_s)), "", ""],
        ["refused", str(len(outcome.refused_s)), "", ""],
        *([name, value, limit, "yes" if met else "NO"]
          for name, value, limit, met in checks),
        ["memory in MiB, maximum", f"{max(outcome.memory_mib, default=0):.0f}", "", ""],
    ]  # fmt: skip
    table = Table("Overload", ["value", "measured", "limit", "met"], rows)
    return table, all(met for *_, met in checks)


def _p99(times_s: Sequence[float]) -> float:
    return float(np.percentile(times_s, 99)) if times_s else 0.0
