"""Declarations of Python models and of ensembles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from builders.spec.model import Model, Network, OnnxModel
from builders.tensors import Tensor, require, require_name

ChooseVariant = Callable[[Model], Model]
"""Returns the variant of a network that is to be used."""


@dataclass(frozen=True)
class PythonModel:
    """A model for Triton's Python backend. It does not batch.

    Attributes:
        name: Name of the model at the server.
        model_file: Its model.py.
        inputs: Input tensors.
        output_tensors: Output tensors.
        parameters: Parameters in its config.
        modules: Further files that model.py imports, placed next to it.
        gpu_model_file: The form of model.py for targets on a GPU, one of `modules`.
            None for a model that uses the CPU on every target.
        instances: Number of instances; None means one for each core.
        waiting_people_per_core: People that may wait for the networks behind the model,
            for each core; rendered as parameter `max_waiting_people`. None for a model
            that limits nothing.
    """

    name: str
    model_file: Path
    inputs: tuple[Tensor, ...]
    output_tensors: tuple[Tensor, ...]
    parameters: Mapping[str, str]
    modules: tuple[Path, ...] = ()
    gpu_model_file: Path | None = None
    instances: int | None = None
    waiting_people_per_core: int | None = None

    def __post_init__(self) -> None:
        require_name(self.name, "model")
        for path in (self.model_file, *self.modules):
            require(path.is_file(), f"model {self.name}: no file {path}")
        require(
            self.gpu_model_file is None or self.gpu_model_file in self.modules,
            f"model {self.name}: gpu_model_file {self.gpu_model_file} is not among the "
            "modules",
        )


@dataclass(frozen=True)
class Step:
    """One model of an ensemble.

    Attributes:
        model: The model.
        inputs: The ensemble's tensor names by the model's input names.
        outputs: The ensemble's tensor names by the model's output names.
    """

    model: Network | PythonModel
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Ensemble:
    """A graph of models that one request passes through.

    Its inputs are the tensors that no step produces.

    Attributes:
        name: Name of the ensemble, of its file in ensembles and at the server.
        steps: The models, in any order.
        outputs: Names of the produced tensors that are returned.
        batched: Whether tensors are [N, ...] and Triton validates N. Otherwise N is
            checked by the first step.
        on_request: Whether the ensemble is rendered and loaded only when it is named.
        for_models: Returns the ensemble for other variants of its networks: it is
            called with a function that returns the variant of a network. None for an
            ensemble of which nothing but the networks changes.
    """

    name: str
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    batched: bool
    on_request: bool = False
    for_models: Callable[[ChooseVariant], Ensemble] | None = field(
        default=None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        require_name(self.name, "ensemble")
        for step in self.steps:
            if isinstance(step.model, OnnxModel):
                self._check_imported(step.model)
        produced: dict[str, Tensor] = {}
        for step in self.steps:
            self._check_names(step, "inputs", step.model.inputs)
            self._check_names(step, "outputs", step.model.output_tensors)
            for tensor in step.model.output_tensors:
                produced[step.outputs[tensor.name]] = tensor
        for name in self.outputs:
            require(
                name in produced,
                f"ensemble {self.name}: no step produces output {name!r}; "
                f"steps produce {sorted(produced)}",
            )
        require(
            not self.batched or len(self.models) == len(self.steps),
            f"ensemble {self.name}: a batched ensemble can only join models that batch",
        )

    def with_models(self, choose: ChooseVariant) -> Ensemble:
        """Return the ensemble with other variants of its networks.

        Args:
            choose: Returns the variant of a network.
        """
        if self.for_models is not None:
            return self.for_models(choose)

        def choose_step(step: Step) -> Step:
            if isinstance(step.model, Model):
                return replace(step, model=choose(step.model))
            return step

        return replace(self, steps=tuple(map(choose_step, self.steps)))

    def _check_imported(self, model: OnnxModel) -> None:
        """Require inputs that a step can be given, and answers in every case."""
        require(
            model.takes_crops_only,
            f"ensemble {self.name}: step {model.name} is an imported ONNX file whose "
            "inputs are not all UINT8 [height, width, 3]; ask the model by itself "
            "(Client.infer), or put the normalisation into the file",
        )
        require(
            all(
                t.data_type == "FP32" and min(t.shape) > 0 for t in model.output_tensors
            ),
            f"ensemble {self.name}: step {model.name} is an imported ONNX file with "
            f"outputs {list(map(str, model.output_tensors))}; expected FP32 of fixed "
            "sizes, because a step answers NaN to a request that fails",
        )

    def _check_names(
        self,
        step: Step,
        side: Literal["inputs", "outputs"],
        tensors: tuple[Tensor, ...],
    ) -> None:
        mapped, expected = set(getattr(step, side)), {t.name for t in tensors}
        require(
            mapped == expected,
            f"ensemble {self.name}: step {step.model.name} maps {side} "
            f"{sorted(mapped)}, but the model has {sorted(expected)}",
        )

    @property
    def models(self) -> tuple[Network, ...]:
        """The networks among the steps."""
        return tuple(s.model for s in self.steps if isinstance(s.model, Network))

    @property
    def python_models(self) -> tuple[PythonModel, ...]:
        """The Python models among the steps."""
        return tuple(s.model for s in self.steps if isinstance(s.model, PythonModel))

    @property
    def max_batch_size(self) -> int:
        """The largest N that all its networks accept."""
        return min(model.batching.max_batch_size for model in self.models)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Input tensors of the ensemble; steps may share one."""
        produced = {name for step in self.steps for name in step.outputs.values()}
        inputs = {
            step.inputs[tensor.name]: self._rename(
                tensor, step.inputs[tensor.name], step.model
            )
            for step in self.steps
            for tensor in step.model.inputs
            if step.inputs[tensor.name] not in produced
        }
        return tuple(inputs.values())

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        """Output tensors of the ensemble."""
        produced = {
            step.outputs[tensor.name]: self._rename(
                tensor, step.outputs[tensor.name], step.model
            )
            for step in self.steps
            for tensor in step.model.output_tensors
        }
        return tuple(produced[name] for name in self.outputs)

    def _rename(
        self, tensor: Tensor, name: str, model: Network | PythonModel
    ) -> Tensor:
        carries_n = isinstance(model, Network) and not self.batched
        shape = (-1, *tensor.shape) if carries_n else tensor.shape
        return Tensor(name, tensor.data_type, shape, tensor.optional)


Declaration = Network | PythonModel | Ensemble
"""A file in builders/models or ensembles declares one of these as MODEL."""
