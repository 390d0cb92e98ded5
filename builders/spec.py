"""Every kind of declaration, checked when it is declared.

`Model` (a network with weights), `PythonModel` (a Triton Python model of ours) and
`Ensemble` (a graph of those) are what `model_repository/` is made from. A declaration
that cannot work raises SpecError at import: what was expected, what came, what to do.
Shapes never include the batch dimension; -1 is a dimension that varies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from builders.ops import Ops, V, WiringError
from builders.ops.shape import Survey, survey
from personserve._crops import CropShape

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""ImageNet's statistics in 0..255 units, RGB, as IBN-Net and FastReID use them."""

DataType = Literal["BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64"]
"""Triton's names of the element types in use."""

ITEM_BYTES: Mapping[DataType, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "INT8": 1,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
}

Interpolation = Literal["linear", "cubic"]


class SpecError(ValueError):
    """A declaration that cannot work."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(message)


def _require_name(name: str, what: str) -> None:
    _require(
        re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None,
        f"{what} name {name!r}: expected lower-case letters, digits and underscores, "
        "starting with a letter, because it becomes a folder and a Python argument",
    )


@dataclass(frozen=True)
class Tensor:
    """A named tensor on the wire."""

    name: str
    data_type: DataType
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"[A-Za-z_][\w.:/-]*", self.name) is not None,
            f"tensor name {self.name!r}: expected a letter first, then letters, "
            "digits and _ . : / -",
        )
        _require(
            len(self.shape) > 0 and all(d > 0 or d == -1 for d in self.shape),
            f"tensor {self.name}: shape {self.shape} has a dimension that is neither "
            "positive nor -1 (varies)",
        )


@dataclass(frozen=True)
class Image:
    """One input of crops, UINT8 [N, height, width, 3] RGB on the wire.

    `mean` and `std` are in 0..255 units and in the network's own channel order
    `order`; the network applies them as its first operation. `interpolation` and
    `shorter_edge` are those that the model was evaluated with, for whoever resizes
    pictures to this size (see personserve's CropShape).
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    name: str = "crops"
    order: Literal["RGB", "BGR"] = "RGB"
    interpolation: Interpolation = "linear"
    shorter_edge: int | None = None

    def __post_init__(self) -> None:
        _require_name(self.name, "image")
        _require(
            self.shorter_edge is None
            or self.shorter_edge >= max(self.height, self.width),
            f"image {self.name}: shorter_edge {self.shorter_edge} is less than the "
            f"crop of {self.height}x{self.width}",
        )
        _require(
            0 < self.height <= 4096 and 0 < self.width <= 4096,
            f"image {self.name}: {self.height}x{self.width} pixels; expected "
            "(height, width) within 1..4096",
        )
        _require(
            all(value > 0 for value in self.std),
            f"image {self.name}: std {self.std} must be positive, in 0..255 units",
        )
        _require(
            max(self.mean) <= 0 or max(self.mean) > 1,
            f"image {self.name}: mean {self.mean} looks like 0..1 units; multiply "
            "mean and std by 255",
        )

    @property
    def tensor(self) -> Tensor:
        """The input as it is on the wire."""
        return Tensor(self.name, "UINT8", (self.height, self.width, 3))

    @property
    def crop_shape(self) -> CropShape:
        """How pictures become crops for it."""
        return CropShape(self.height, self.width, self.interpolation, self.shorter_edge)


@dataclass(frozen=True)
class Vector:
    """One input of FP32 vectors [N, size] that another network has made."""

    name: str
    size: int

    def __post_init__(self) -> None:
        _require_name(self.name, "vector")

    @property
    def tensor(self) -> Tensor:
        """The input as it is on the wire."""
        return Tensor(self.name, "FP32", (self.size,))


@dataclass(frozen=True)
class Output:
    """One FP32 output of a network. `labels` and `threshold` belong to a probability:
    `labels[1]` is meant from `threshold` up, `labels[0]` below.
    """

    name: str
    size: int
    labels: tuple[str, str] | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        _require(
            self.labels is None or self.size == 1,
            f"output {self.name}: two labels describe one probability, not "
            f"{self.size} values; drop labels or set size=1",
        )
        _require(
            0 < self.threshold < 1,
            f"output {self.name}: threshold {self.threshold} is not inside (0, 1)",
        )

    @property
    def tensor(self) -> Tensor:
        """The output as it is on the wire."""
        return Tensor(self.name, "FP32", (self.size,))


@dataclass(frozen=True)
class Batching:
    """Batch sizes and instances. `usual` is the batch that plans are tuned for: 64
    makes the gender network 11 % faster at 64 than tuning for 8, and 24 % slower at 1
    (builders/BENCHMARKS.md).

    A queue delay is 0 until a measurement supports one (`python -m loadtest tune`): on
    few cores 2 ms nearly halved throughput. On the CPU an instance is one process with
    one thread, because two threads in one process lose up to 30 %, and requests are not
    merged (None), because a larger batch is no faster and leaves the others idle.
    `preferred` are batch sizes that are not waited beyond.
    """

    maximum: int = 64
    usual: int = 64
    queue_delay_us: int = 0
    gpu_instances: int = 1
    cpu_instances: int = 2
    cpu_queue_delay_us: int | None = None
    preferred: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(
            1 <= self.usual <= self.maximum,
            f"batching: usual {self.usual} is not within 1..maximum ({self.maximum})",
        )
        _require(
            self.queue_delay_us >= 0
            and (self.cpu_queue_delay_us or 0) >= 0
            and self.gpu_instances >= 1
            and self.cpu_instances >= 1,
            "batching: expected queue delays >= 0 and at least one instance",
        )
        _require(
            all(1 <= size <= self.maximum for size in self.preferred),
            f"batching: preferred {list(self.preferred)} is not within 1..maximum "
            f"({self.maximum})",
        )


@dataclass(frozen=True)
class Tolerance:
    """How close a backend must come to the torch reference.

    On the CPU in FP32 by numpy.isclose's rule, with the values that seed 002 exports
    with. FP32 plans by the largest difference over the reference's spread
    (`relative`). In reduced precision probabilities by `reduced_abs` and embeddings
    by `reduced_cosine`, the smallest cosine of two rows; INT8 by `int8_abs` and
    `int8_cosine` likewise.
    """

    rtol: float = 1e-3
    atol: float = 1e-5
    relative: float = 1e-3
    reduced_abs: float = 0.02
    reduced_cosine: float = 0.999
    int8_abs: float = 0.05
    int8_cosine: float = 0.99


@dataclass(frozen=True)
class Model:
    """A network with weights, served as an engine of its own.

    `network(ops, *images)`, or `network(ops, *vectors)` where it has those instead,
    wires it and returns {output name: value}. `dropped` are
    patterns (fnmatch) of checkpoint keys that inference does not need; any other key
    that the wiring does not use is an error. `aliases` are beginnings of keys that
    older checkpoints have, and what they are called now. Models `on_request` are only
    built when they are named. `int8_exclude` are patterns of convolutions that stay
    float in INT8, because a sensitivity report says so. `source` says where the
    architecture comes from and `assumptions` what that source leaves open and we chose.
    """

    name: str
    source: str
    licence: str
    network: Callable[..., Mapping[str, Any]]
    outputs: tuple[Output, ...]
    images: tuple[Image, ...] = ()
    vectors: tuple[Vector, ...] = ()
    dropped: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    on_request: bool = False
    int8_exclude: tuple[str, ...] = ()
    assumptions: str = ""
    batching: Batching = field(default_factory=Batching)
    tolerance: Tolerance = field(default_factory=Tolerance)

    def __post_init__(self) -> None:
        _require_name(self.name, "model")
        _require(
            bool(self.images) != bool(self.vectors) and bool(self.outputs),
            f"model {self.name}: declare images or vectors, not both, and at least "
            "one output",
        )
        names = [t.name for t in (*self.inputs, *self.output_tensors)]
        _require(
            len(set(names)) == len(names),
            f"model {self.name}: two tensors share a name in {names}",
        )
        try:
            found = dict(self.survey.outputs)
        except WiringError as exc:
            raise SpecError(f"model {self.name}: {exc}") from exc
        declared = {o.name: (o.size,) for o in self.outputs}
        _require(
            found == declared,
            f"model {self.name}: outputs are declared as {declared}, but the network "
            f"returns {found}; make the two agree",
        )

    @cached_property
    def survey(self) -> Survey:
        """Layout, MACs and output shapes of the network."""
        return survey(self.wire)

    def wire(self, ops: Ops[V]) -> Mapping[str, V]:
        """{output name: value} of the network, run by `ops`."""
        return self.network(
            ops,
            *(ops.image(image) for image in self.images),
            *(ops.vector(vector) for vector in self.vectors),
        )

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Input tensors."""
        images = tuple(image.tensor for image in self.images)
        return images + tuple(vector.tensor for vector in self.vectors)

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        """Output tensors."""
        return tuple(output.tensor for output in self.outputs)


@dataclass(frozen=True)
class OnnxModel:
    """A network that comes as a whole in an ONNX file (`python -m builders import`).
    The file takes the place of weights; its first dimension is the batch.
    """

    name: str
    source: str
    licence: str
    inputs: tuple[Tensor, ...]
    output_tensors: tuple[Tensor, ...]
    batching: Batching = field(default_factory=Batching)
    tolerance: Tolerance = field(default_factory=Tolerance)
    assumptions: str = ""
    on_request: bool = False

    def __post_init__(self) -> None:
        _require_name(self.name, "model")
        _require(
            bool(self.inputs) and bool(self.output_tensors),
            f"model {self.name}: an ONNX file needs at least one input and one output",
        )


@dataclass(frozen=True)
class PythonModel:
    """A Triton Python model of ours: `source` is its model.py, `modules` are further
    files that it imports and that are copied beside it. It does not batch.
    """

    name: str
    source: Path
    inputs: tuple[Tensor, ...]
    output_tensors: tuple[Tensor, ...]
    parameters: Mapping[str, str]
    modules: tuple[Path, ...] = ()
    instances: int = 2

    def __post_init__(self) -> None:
        _require_name(self.name, "model")
        for path in (self.source, *self.modules):
            _require(path.is_file(), f"model {self.name}: no file {path}")


@dataclass(frozen=True)
class Step:
    """One model of an ensemble; both maps go from the model's tensor name to the
    ensemble's.
    """

    model: Model | PythonModel
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Ensemble:
    """A graph of models that one request runs through. Its own inputs are the tensors
    that no step makes; `outputs` says which of the made ones leave it.

    `batched` ensembles take [N, ...] tensors and let Triton check N; others leave N
    to their first step.
    """

    name: str
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    batched: bool

    def __post_init__(self) -> None:
        _require_name(self.name, "ensemble")
        made: dict[str, Tensor] = {}
        for step in self.steps:
            self._check_names(step, "inputs", step.model.inputs)
            self._check_names(step, "outputs", step.model.output_tensors)
            for tensor in step.model.output_tensors:
                made[step.outputs[tensor.name]] = tensor
        for name in self.outputs:
            _require(
                name in made,
                f"ensemble {self.name}: no step makes output {name!r}; "
                f"steps make {sorted(made)}",
            )
        _require(
            not self.batched or len(self.models) == len(self.steps),
            f"ensemble {self.name}: a batched ensemble can only join models that batch",
        )

    def _check_names(
        self,
        step: Step,
        side: Literal["inputs", "outputs"],
        tensors: tuple[Tensor, ...],
    ) -> None:
        mapped, expected = set(getattr(step, side)), {t.name for t in tensors}
        _require(
            mapped == expected,
            f"ensemble {self.name}: step {step.model.name} maps {side} "
            f"{sorted(mapped)}, but the model has {sorted(expected)}",
        )

    @property
    def models(self) -> tuple[Model, ...]:
        """The steps that are networks."""
        return tuple(s.model for s in self.steps if isinstance(s.model, Model))

    @property
    def maximum(self) -> int:
        """The largest N that every network of it takes."""
        return min(model.batching.maximum for model in self.models)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Input tensors."""
        made = {name for step in self.steps for name in step.outputs.values()}
        return tuple(
            self._renamed(tensor, step.inputs[tensor.name], step.model)
            for step in self.steps
            for tensor in step.model.inputs
            if step.inputs[tensor.name] not in made
        )

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        """Output tensors."""
        made = {
            step.outputs[tensor.name]: self._renamed(
                tensor, step.outputs[tensor.name], step.model
            )
            for step in self.steps
            for tensor in step.model.output_tensors
        }
        return tuple(made[name] for name in self.outputs)

    def _renamed(self, tensor: Tensor, name: str, model: Model | PythonModel) -> Tensor:
        carries_n = isinstance(model, Model) and not self.batched
        shape = (-1, *tensor.shape) if carries_n else tensor.shape
        return Tensor(name, tensor.data_type, shape)


Network = Model | OnnxModel
"""What is built and has targets."""

Declaration = Network | PythonModel | Ensemble
