"""PyTorch as the report's baseline: eagerly in FP32 (TF32 off), and on a GPU also in
FP16 with channels last under a CUDA graph, the best that plain PyTorch does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from builders.ops.torch import Reference, TorchOps
from builders.precision import timing
from builders.precision.timing import Times
from builders.spec import Model

if TYPE_CHECKING:
    from builders.ops import BatchNorm
    from builders.spec import Image

WARM_UP_RUNS = 10

Run = Callable[[], Any]


def torch_times(
    model: Model, arrays: Mapping[str, Any]
) -> Iterator[tuple[str, str, Times, float]]:
    """(runner, precision, times, MiB) of every way that runs here."""
    if not torch.cuda.is_available():
        before = timing.resident_mib()
        times = timing.host_times(model, Reference(model, arrays))
        yield "PyTorch", "fp32", times, timing.resident_mib() - before
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    ways = (("PyTorch", "fp32", _eager), ("PyTorch graph", "fp16", _graph))
    for runner, precision, prepare in ways:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        times = {
            size: _gpu_time(prepare(model, arrays, size))
            for size in timing.batches(model)
        }
        taken = torch.cuda.max_memory_reserved() / timing.MIB
        yield runner, precision, times, taken


class _HalfOps(TorchOps):
    """Convolutions in FP16 channels-last; GeM and everything after in FP32."""

    def image(self, image: Image) -> torch.Tensor:
        x = super().image(image).half()
        return x.contiguous(memory_format=torch.channels_last)

    def gem_pool(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return super().gem_pool(x.float(), name)

    def batch_norm(self, x: torch.Tensor, norm: BatchNorm) -> torch.Tensor:
        if x.dtype == torch.half:
            return super().batch_norm(x, norm)
        return super().batch_norm(x.half(), norm).float()


def _eager(model: Model, arrays: Mapping[str, Any], size: int) -> Run:
    return _network(TorchOps, model, arrays, size, half=False)


def _graph(model: Model, arrays: Mapping[str, Any], size: int) -> Run:
    run = _network(_HalfOps, model, arrays, size, half=True)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_RUNS):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _network(
    kind: type[TorchOps],
    model: Model,
    arrays: Mapping[str, Any],
    size: int,
    *,
    half: bool,
) -> Run:
    def weight(key: str, array: Any) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array)).cuda()
        if half and not key.endswith(".p"):
            tensor = tensor.half()
        if half and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    weights = {key: weight(key, array) for key, array in arrays.items()}
    inputs = {
        name: torch.from_numpy(array).cuda()
        for name, array in timing.inputs_of(model, size).items()
    }
    ops = kind(weights, inputs)

    def run() -> Any:
        with torch.inference_mode():
            return model.wire(ops)

    return run


def _gpu_time(run: Run) -> float:
    for _ in range(WARM_UP_RUNS):
        run()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(timing.MOST_RUNS + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return float(np.median([a.elapsed_time(b) for a, b in pairwise(events)]))
