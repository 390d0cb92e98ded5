"""The commands about a server: check, models, bench."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from personserve._defaults import FRAME_MODEL
from personserve._errors import PersonServeError
from personserve.cli.options import (
    DEFAULT_MODEL,
    OPTIONS,
    ModelName,
    command,
    console,
    exit_with_error,
)
from personserve.cli.output import print_json, print_plain, warn_of_stand_ins

if TYPE_CHECKING:
    from personserve._client import Client
    from personserve._wire.requests import ModelDescription, ModelState

CHECK_TIMEOUT_S = 5.0
"""`check` waits no longer than this, because it is used as a probe."""

BENCH_CROP_HW = (256, 128)
"""Height and width of the random crops that `bench` sends, in pixels."""


@command
def check(model: ModelName = DEFAULT_MODEL) -> None:
    """Check that the server runs and serves people. Exit code 1 if it does not."""
    from personserve._descriptions import CROPS_MODEL

    needed = [model, CROPS_MODEL] if model == FRAME_MODEL else [model]
    with OPTIONS.waiting("asking the server"), OPTIONS.client() as client:
        models = client.models(timeout_s=min(CHECK_TIMEOUT_S, OPTIONS.timeout_s))
        ready = {model.name for model in models if model.ready}
        missing = [name for name in needed if name not in ready]
        stand_ins = () if missing else client.describe(model).stand_in_weights
    if OPTIONS.as_json:
        print_json({"missing": missing, "stand_in_weights": stand_ins})
    elif not missing:
        console.print(f"[green]ready[/green]: {len(ready)} models")
        warn_of_stand_ins(stand_ins, console)
    if missing:
        exit_with_error(
            f"the server runs, but does not serve {', '.join(missing)}; "
            "see personserve models"
        )


@command
def models() -> None:
    """List the models in the server's repository, their state and their weights.

    A model that takes frames can be named by --model of other commands; what
    it answers is listed below the table.
    """
    from rich.table import Table

    with OPTIONS.waiting("asking the server"), OPTIONS.client() as client:
        states = client.models()
        described = {model.name: _describe(client, model) for model in states}
    stand_ins = {name: each.stand_in_weights for name, each in described.items()}
    if OPTIONS.as_json:
        for model in states:
            description = described[model.name]
            about = {
                "takes": _name_inputs(description),
                "outputs": [tensor.name for tensor in description.outputs],
                "stand_in_weights": stand_ins[model.name],
            }
            print_json({**vars(model), **about})
        return
    table = Table("model", "version", "state", "weights", "takes")
    table.columns[0].no_wrap = True
    table.columns[0].overflow = "fold"
    for model in states:
        reason = escape(model.reason or "not loaded")
        state = "[green]ready[/green]" if model.ready else reason
        weights = escape(described[model.name].parameters.get("weights", ""))
        if stand_ins[model.name]:
            others = [name for name in stand_ins[model.name] if name != model.name]
            of_others = f" of {', '.join(others)}" if others else ""
            weights = f"[yellow]untrained stand-ins{of_others}[/yellow]"
        takes = _name_inputs(described[model.name]) or ""
        table.add_row(escape(model.name), model.version, state, weights, takes)
    console.print(table)
    for name, description in described.items():
        if description.takes_frames:
            outputs = ", ".join(tensor.name for tensor in description.outputs)
            print_plain(f"--model {name} answers {outputs}", console)
    untrained = dict.fromkeys(name for names in stand_ins.values() for name in names)
    warn_of_stand_ins(tuple(untrained), console)


@command
def bench(
    people: Annotated[int, typer.Option(min=1, help="Number of crops per call.")] = 8,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Number of calls in flight at any time.")
    ] = 4,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Duration of the measurement in seconds.")
    ] = 10.0,
    model: ModelName = DEFAULT_MODEL,
) -> None:
    """Measure people per second and latency under closed-loop load."""
    import numpy as np

    from personserve.internal.closed_loop import run_closed_loop

    rng = np.random.default_rng(0)
    shape = (people, *BENCH_CROP_HW, 3)
    crops = rng.integers(0, 256, shape, dtype=np.uint8)
    with OPTIONS.waiting(f"measuring for {seconds:g} s"), OPTIONS.client() as client:
        call = partial(client.attributes_of_crops, crops, model=model)
        stand_ins = call().stand_in_weights  # warm-up
        latencies_s, elapsed_s = run_closed_loop(call, concurrency, seconds)
    p50_ms, p99_ms = np.percentile(latencies_s, [50, 99]) * 1e3
    rate = people * len(latencies_s) / elapsed_s
    if OPTIONS.as_json:
        values = {"people_per_s": rate, "p50_ms": p50_ms, "p99_ms": p99_ms}
        print_json({**values, "stand_in_weights": stand_ins})
        return
    console.print(
        f"{rate:.1f} people/s; latency of a call with {people} people: "
        f"{p50_ms:.1f} ms (p50), {p99_ms:.1f} ms (p99); {len(latencies_s)} calls, "
        f"{concurrency} in flight"
    )
    warn_of_stand_ins(stand_ins, console)


def _name_inputs(model: ModelDescription) -> str | None:
    """Return a model's input: "frames", "crops", or None for tensors of its own."""
    if model.takes_frames:
        return "frames"
    return "crops" if model.takes_crops else None


def _describe(client: Client, model: ModelState) -> ModelDescription:
    """Return the description of a model that is ready, an empty one of another."""
    from personserve._wire.requests import ModelDescription

    if model.ready:
        with suppress(PersonServeError):  # the list is useful without descriptions
            return client.describe(model.name)
    return ModelDescription(model.name, 0, (), (), {})
