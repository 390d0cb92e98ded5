"""How long a batch takes, by its size, and what memory a runner takes.

On a GPU a time is that of the work on it, by CUDA events and without copies; on the CPU
it is the caller's. Both are medians.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.parity import Runner
from builders.spec import Model
from builders.tensorrt.engine import Engine

LARGEST_BATCH = 512
SECONDS_A_BATCH = 1.0
MOST_RUNS = 200
PAGE_BYTES = 4096
MIB = 1 << 20

Times = dict[int, float]
"""Median ms by batch."""


def batches(model: Model) -> tuple[int, ...]:
    """1, 2, 4 ... up to the model's largest, or seed 003's 512."""
    largest = min(model.batching.maximum, LARGEST_BATCH)
    return tuple(2**power for power in range(largest.bit_length()))


def inputs_of(model: Model, size: int) -> dict[str, npt.NDArray[np.uint8]]:
    """A batch of pixels."""
    rng = np.random.default_rng(0)
    return {
        image.name: rng.integers(0, 256, (size, *image.tensor.shape), dtype=np.uint8)
        for image in model.images
    }


def host_times(model: Model, run: Runner) -> Times:
    """Of `run`, called with arrays in this process."""
    found = {}
    for size in batches(model):
        inputs = inputs_of(model, size)
        run(**inputs)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < MOST_RUNS and (
            len(times) < 3 or time.perf_counter() - began < SECONDS_A_BATCH
        ):
            start = time.perf_counter()
            run(**inputs)
            times.append(time.perf_counter() - start)
        found[size] = float(np.median(times)) * 1e3
    return found


def engine_times(model: Model, engine: Engine) -> Times:
    """Of a plan, on its GPU."""
    for name, array in inputs_of(model, engine.max_batch).items():
        engine.put(name, array)
    return {size: engine.median_ms(size, MOST_RUNS) for size in batches(model)}


def resident_mib() -> float:
    """What this process holds in the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * PAGE_BYTES / MIB


def gpu_used_mib() -> float:
    """What is taken of the current GPU's memory, by whomever."""
    from cuda.bindings import runtime

    runtime.cudaFree(0)  # makes the context, which is no runner's own
    _, free, total = runtime.cudaMemGetInfo()
    return float(total - free) / MIB
