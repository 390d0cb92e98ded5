"""A model's network as a torch module that is trained through its own wiring.

The state dict has the checkpoint's names. Norms use batch statistics and update the
running ones, as torch.nn's do in training; logits and features are taken where the
wiring has them, before the sigmoid and before L2 normalisation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from builders.ops import BatchNorm, Conv
from builders.ops.torch import TorchOps
from builders.spec.model import Model

NECK = "heads.bottleneck.0"
"""The batch norm whose input FastReID's BoT recipe compares in triplets."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass
class Answers:
    """Tensors that a network computes from one batch, for losses; all FP32.

    Attributes:
        outputs: The outputs [N, size], by name.
        logits: Logits of the probabilities [N], by output name.
        features: What L2 normalisation gets [N, size], by output name.
        before_neck: Input of the batch-norm neck [N, size]; None without a neck.
        stages: Residual stages before their ReLU [N, C, H, W], if they were asked for.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    before_neck: Tensor | None = None
    stages: list[Tensor] = field(default_factory=list)


class TappedOps(TorchOps):
    """TorchOps that records logits and features."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        stage_norms: Sequence[str] = (),
    ) -> None:
        super().__init__(weights, inputs)
        self._stage_norms = stage_norms
        self._stage_ends: list[Tensor] = []
        self._stages: list[Tensor] = []
        # by identity of the result; the values are kept so that no id is used again
        self._sources: dict[int, tuple[Tensor, Tensor]] = {}
        self._neck_input: Tensor | None = None

    def convolution(self, x: Tensor, conv: Conv) -> Tensor:
        result = super().convolution(x, conv)
        if conv.norm is not None and conv.norm.name in self._stage_norms:
            self._stage_ends.append(result)
        return result

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        result = super().add(a, b)
        if self._stage_ends and a is self._stage_ends[-1]:
            self._stages.append(result)
        return result

    def sigmoid(self, x: Tensor) -> Tensor:
        return self._record(super().sigmoid(x.float()), x)

    def l2_norm(self, x: Tensor) -> Tensor:
        return self._record(super().l2_norm(x.float()), x)

    def softmax(self, x: Tensor) -> Tensor:
        return self._record(super().softmax(x.float()), x)

    def select(self, x: Tensor, index: int) -> Tensor:
        column = super().select(x, index)
        if id(x) in self._sources and x.shape[1] == 2:
            # the logit of one of two probabilities is a difference
            two = self._sources[id(x)][1]
            return self._record(column, two[:, index] - two[:, 1 - index])
        return column

    def batch_norm(self, x: Tensor, norm: BatchNorm) -> Tensor:
        if norm.name == NECK:
            self._neck_input = x
        return super().batch_norm(x, norm)

    def _record(self, result: Tensor, source: Tensor) -> Tensor:
        self._sources[id(result)] = result, source
        return result

    def collect_answers(self, model: Model) -> Answers:
        """Run a model and return its outputs with the recorded tensors.

        Args:
            model: The model.
        """
        answers = Answers()
        for name, value in model.wire(self).items():
            answers.outputs[name] = value.float()
            source = self._sources.get(id(value))
            if source is None:
                continue
            is_vector = value.shape[1] > 1
            kept = answers.features if is_vector else answers.logits
            kept[name] = source[1].float() if is_vector else source[1].float().flatten()
        if self._neck_input is not None:
            answers.before_neck = self._neck_input.float().flatten(1)
        answers.stages = self._stages
        return answers


class TrainingOps(TappedOps):
    """TappedOps whose batch norms use the batch and update their statistics.

    Args:
        weights: Tensors by checkpoint name; statistics are changed in place.
        inputs: UINT8 [N, H, W, 3] or FP32 [N, size] by input name.
        momentum: Weight of a batch in the running statistics.
        still: Names of batch norms that use their running statistics instead.
        stage_norms: Last batch norms of the stages to record.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        momentum: float,
        still: Collection[str],
        stage_norms: Sequence[str] = (),
    ) -> None:
        super().__init__(weights, inputs, stage_norms)
        self._momentum, self._still = momentum, still

    def batch_norm(self, x: Tensor, norm: BatchNorm) -> Tensor:
        if norm.name in self._still:
            return super().batch_norm(x, norm)
        if norm.name == NECK:
            self._neck_input = x
        counter = self._weights.get(f"{norm.name}.num_batches_tracked")
        if counter is not None:
            counter.add_(1)
        return functional.batch_norm(
            x,
            self._weights[f"{norm.name}.running_mean"],
            self._weights[f"{norm.name}.running_var"],
            self._weights[f"{norm.name}.weight"],
            self._weights[f"{norm.name}.bias"],
            training=True,
            momentum=self._momentum,
            eps=norm.eps,
        )


class TrainedNetwork(nn.Module):
    """A model's weights, with the heads that only training needs.

    Args:
        model: The model.
        arrays: Its weights by checkpoint name.
        heads: Parameters and statistics of training alone, by checkpoint name.
        momentum: Weight of a batch in the running statistics.
        stage_norms: Last batch norms of the stages that losses compare.
    """

    def __init__(
        self,
        model: Model,
        arrays: Arrays,
        heads: Arrays,
        momentum: float = 0.1,
        stage_norms: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model, self.momentum = model, momentum
        self.stage_norms = tuple(stage_norms)
        for key, entry in model.summary.layout.items():
            if entry.kind == "counter":
                self._enter(key, torch.zeros((), dtype=torch.int64))
            else:
                value = torch.from_numpy(np.array(arrays[key], np.float32))
                is_parameter = entry.kind == "parameter"
                self._enter(key, nn.Parameter(value) if is_parameter else value)
        for key, array in heads.items():
            value = torch.from_numpy(np.array(array))
            is_statistic = ".running_" in key
            self._enter(key, value if is_statistic else nn.Parameter(value))

    def _enter(self, key: str, value: Tensor) -> None:
        """Put a tensor where the state dict gives it its checkpoint name."""
        *path, name = key.split(".")
        module: nn.Module = self
        for part in path:
            if part not in module._modules:  # noqa: SLF001 - getattr finds methods too
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if isinstance(value, nn.Parameter):
            module.register_parameter(name, value)
        else:
            module.register_buffer(name, value)

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers by checkpoint name."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(
        self, inputs: Mapping[str, Tensor], still: Collection[str] = ()
    ) -> Answers:
        """Return the answers in training.

        Args:
            inputs: UINT8 [N, H, W, 3] or FP32 [N, size] by input name.
            still: Names of batch norms that use their running statistics.
        """
        ops = TrainingOps(
            self.tensors(), inputs, self.momentum, still, self.stage_norms
        )
        return ops.collect_answers(self.model)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of all tensors in the checkpoint's layout."""
        return {k: v.detach().cpu().numpy().copy() for k, v in self.tensors().items()}


def run_inference(
    model: Model, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> Answers:
    """Return a network's answers as they will be served, in FP32.

    Args:
        model: The model.
        tensors: Its weights by checkpoint name.
        inputs: UINT8 [N, H, W, 3] or FP32 [N, size] by input name.
    """
    with torch.no_grad():
        return TappedOps(tensors, inputs).collect_answers(model)


def match_keys(keys: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the keys that match any of the patterns (fnmatch).

    Args:
        keys: Checkpoint keys.
        patterns: The patterns.
    """
    wanted = list(patterns)
    return [key for key in keys if any(fnmatchcase(key, p) for p in wanted)]


def find_used_keys(network: TrainedNetwork, output: str) -> set[str]:
    """Return the checkpoint keys of parameters that an output depends on.

    A task's batch must not change the statistics of layers that only other tasks use.

    Args:
        network: The network.
        output: Name of the output.
    """
    parameters = {k: v for k, v in network.named_parameters() if v.requires_grad}
    inputs = {
        t.name: torch.zeros(
            (2, *t.shape), dtype=torch.uint8 if t.data_type == "UINT8" else None
        ).to(next(iter(parameters.values())).device)
        for t in network.model.inputs
    }
    ops = TappedOps(network.tensors(), inputs)
    answer = ops.collect_answers(network.model).outputs[output].sum()
    gradients = torch.autograd.grad(
        answer, list(parameters.values()), allow_unused=True
    )
    return {
        key
        for key, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    }
