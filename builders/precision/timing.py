"""Time per batch, by its size, and memory of a runner.

On a GPU the time is that of the GPU's own work, by CUDA events and without copies; on
the CPU it is the caller's. Both are medians.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.spec.model import Network
from builders.tensorrt.engine import Engine
from builders.tensors import sample_tensor
from builders.verify.inputs import Runner

LARGEST_BATCH = 512
"""Largest batch that is timed; that of SE-ResNet50 on TensorRT."""

SECONDS_PER_BATCH = 1.0
MIN_RUNS = 5
MAX_RUNS = 200
PAGE_BYTES = 4096
MIB = 1 << 20

SPREAD_PERCENTILES = (10, 90)


@dataclass(frozen=True)
class Times:
    """Time of a call by batch size.

    Attributes:
        ms: Median milliseconds.
        spread_ms: SPREAD_PERCENTILES of the calls; without a batch size whose calls
            were not timed one by one.
    """

    ms: dict[int, float]
    spread_ms: dict[int, tuple[float, float]] = field(default_factory=dict)


def summarise_times(times_s: Mapping[int, Sequence[float]]) -> Times:
    """Return the median and the spread of timed calls.

    Args:
        times_s: Seconds of each call by batch size.
    """
    ms = {size: float(np.median(times)) * 1e3 for size, times in times_s.items()}
    spread_ms = {}
    for size, times in times_s.items():
        low, high = np.percentile(times, SPREAD_PERCENTILES) * 1e3
        spread_ms[size] = (float(low), float(high))
    return Times(ms, spread_ms)


def batch_sizes(model: Network) -> tuple[int, ...]:
    """Return the batch sizes that are timed: powers of two up to the model's largest.

    Args:
        model: The declaration.
    """
    largest = min(model.batching.max_batch_size, LARGEST_BATCH)
    return tuple(2**power for power in range(largest.bit_length()))


def random_inputs(model: Network, size: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return one batch of seeded random inputs.

    Args:
        model: The declaration.
        size: Batch size.

    Returns:
        UINT8 pixels [size, height, width, 3] and arrays [size, ...] by input name.
    """
    rng = np.random.default_rng(0)
    inputs: dict[str, npt.NDArray[np.generic]] = {
        image.name: rng.integers(0, 256, (size, *image.tensor.shape), dtype=np.uint8)
        for image in model.images
    }
    for tensor in model.inputs:
        if tensor.name not in inputs:
            inputs[tensor.name] = sample_tensor(tensor, size, rng)
    return inputs


def measure_host_times(model: Network, run: Runner) -> Times:
    """Time a runner that takes and returns arrays of this process.

    Args:
        model: The declaration.
        run: The runner.

    Returns:
        Medians and spread by batch size.
    """
    times_by_size = {}
    for size in batch_sizes(model):
        inputs = random_inputs(model, size)
        run(**inputs)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < MAX_RUNS and (
            len(times) < MIN_RUNS or time.perf_counter() - began < SECONDS_PER_BATCH
        ):
            start = time.perf_counter()
            run(**inputs)
            times.append(time.perf_counter() - start)
        times_by_size[size] = times
    return summarise_times(times_by_size)


def measure_engine_times(model: Network, engine: Engine) -> Times:
    """Time a plan on its GPU.

    Args:
        model: The declaration.
        engine: The loaded plan.

    Returns:
        Medians by batch size. The GPU's clock gives no times of single calls here.
    """
    for name, array in random_inputs(model, engine.max_batch).items():
        engine.put(name, array)
    ms = {size: engine.median_ms(size, MAX_RUNS) for size in batch_sizes(model)}
    return Times(ms)


def resident_mib() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * PAGE_BYTES / MIB


def gpu_used_mib() -> float:
    """Return the memory in use on the current GPU, by all processes, in MiB."""
    from cuda.bindings import runtime

    runtime.cudaFree(0)  # creates the CUDA context, which belongs to no runner
    _, free, total = runtime.cudaMemGetInfo()
    return float(total - free) / MIB
