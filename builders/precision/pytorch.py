"""PyTorch as the baseline of the precision report.

FP32 runs eagerly, with TF32 off. On a GPU, FP16 with channels last runs under a CUDA
graph as well, which is the fastest that plain PyTorch offers.
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
from builders.spec.model import Model

if TYPE_CHECKING:
    from builders.ops import BatchNorm
    from builders.tensors import Image, Vector

WARM_UP_RUNS = 10

Run = Callable[[], Any]


def measure_torch(
    model: Model, arrays: Mapping[str, Any]
) -> Iterator[tuple[str, str, Times, float]]:
    """Time a model in PyTorch, on the GPU if there is one.

    Args:
        model: The declaration.
        arrays: Weights by checkpoint name.

    Yields:
        Runner, precision, times by batch size, and memory in MiB.
    """
    if not torch.cuda.is_available():
        before = timing.resident_mib()
        times = timing.measure_host_times(model, Reference(model, arrays))
        yield "PyTorch", "fp32", times, timing.resident_mib() - before
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    runners = (
        ("PyTorch", "fp32", _prepare_eager),
        ("PyTorch graph", "fp16", _prepare_graph),
    )
    for runner, precision, prepare in runners:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        times = timing.summarise_times(
            {
                size: _measure_gpu_s(prepare(model, arrays, size))
                for size in timing.batch_sizes(model)
            }
        )
        memory_mib = torch.cuda.max_memory_reserved() / timing.MIB
        yield runner, precision, times, memory_mib


class _HalfOps(TorchOps):
    """TorchOps in FP16 with channels last; GeM and everything behind it in FP32."""

    def image(self, image: Image) -> torch.Tensor:
        x = super().image(image).half()
        return x.contiguous(memory_format=torch.channels_last)

    def vector(self, vector: Vector) -> torch.Tensor:
        return super().vector(vector).half()

    def gem_pool(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return super().gem_pool(x.float(), name)

    def batch_norm(self, x: torch.Tensor, norm: BatchNorm) -> torch.Tensor:
        if x.dtype == torch.half:
            return super().batch_norm(x, norm)
        return super().batch_norm(x.half(), norm).float()


def _prepare_eager(model: Model, arrays: Mapping[str, Any], size: int) -> Run:
    return _prepare(TorchOps, model, arrays, size, half=False)


def _prepare_graph(model: Model, arrays: Mapping[str, Any], size: int) -> Run:
    run = _prepare(_HalfOps, model, arrays, size, half=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _prepare(
    ops_class: type[TorchOps],
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
        for name, array in timing.random_inputs(model, size).items()
    }
    ops = ops_class(weights, inputs)

    def run() -> Any:
        with torch.inference_mode():
            return model.wire(ops)

    return run


def _measure_gpu_s(run: Run) -> list[float]:
    """Return the seconds of each call, by the GPU's clock."""
    for _ in range(WARM_UP_RUNS):
        run()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(timing.MAX_RUNS + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in pairwise(events)]
