"""Declarations of networks, validated on construction.

A declaration that cannot work raises SpecError at import. The message says what was
expected, what came and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from builders.ops import Ops, V, WiringError
from builders.ops.shape import NetworkSummary, summarise_network
from builders.spec.execution import PlanExecution
from builders.spec.source import Source
from builders.spec.variants import (
    DEFAULT_VARIANT,
    SEPARATOR,
    Choice,
    Sign,
    check_choices,
    parse_variant,
)
from builders.tensors import (
    Image,
    Output,
    SpecError,
    Tensor,
    Vector,
    require,
    require_name,
)


@dataclass(frozen=True)
class Batching:
    """Batch sizes, queue delays and instance counts of a served model.

    Tuning plans for a batch of 64 makes the gender network 11 % faster at 64 than
    tuning for 8, and 24 % slower at 1 (builders/benchmarks/README.md).

    Attributes:
        max_batch_size: Largest batch that the model accepts.
        opt_batch_size: Batch size that TensorRT plans are optimised for.
        queue_delay_us: Longest time in microseconds that a request waits to be merged
            with others. 0 until a measurement supports another value
            (`python -m loadtest tune`): on few cores 2 ms nearly halved throughput.
        gpu_instances: Model instances on each GPU.
        cpu_instances: Model instances on the CPU, each one process with one thread,
            because two threads in one process lose up to 30 %.
        cpu_queue_delay_us: The same as `queue_delay_us`, on the CPU. None means that
            requests are not merged: a larger batch is no faster there and leaves the
            other instances idle.
        preferred_batch_sizes: Batch sizes at which a merged batch is run at once.
    """

    max_batch_size: int = 64
    opt_batch_size: int = 64
    queue_delay_us: int = 0
    gpu_instances: int = 1
    cpu_instances: int | None = None
    cpu_queue_delay_us: int | None = None
    preferred_batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(
            1 <= self.opt_batch_size <= self.max_batch_size,
            f"batching: opt_batch_size {self.opt_batch_size} is not within "
            f"1..max_batch_size ({self.max_batch_size})",
        )
        require(
            self.queue_delay_us >= 0
            and (self.cpu_queue_delay_us or 0) >= 0
            and self.gpu_instances >= 1
            and (self.cpu_instances is None or self.cpu_instances >= 1),
            "batching: expected queue delays >= 0 and at least one instance",
        )
        require(
            all(
                1 <= size <= self.max_batch_size for size in self.preferred_batch_sizes
            ),
            f"batching: preferred_batch_sizes {list(self.preferred_batch_sizes)} are "
            f"not within 1..max_batch_size ({self.max_batch_size})",
        )


@dataclass(frozen=True)
class Tolerance:
    """Largest allowed differences from the torch reference.

    Attributes:
        rtol: Relative tolerance in FP32 on the CPU (numpy.isclose). The default values
            of rtol and atol are those of the PyTorch ONNX export tutorial.
        atol: Absolute tolerance in FP32 on the CPU (numpy.isclose).
        relative: Largest difference of an FP32 plan, over the reference's spread.
        reduced_abs: Largest difference of a probability in reduced precision.
        reduced_cosine: Least cosine similarity of an embedding in reduced precision.
        int8_abs: Largest difference of a probability in INT8.
        int8_cosine: Least cosine similarity of an embedding in INT8.
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
    """A network with weights, built and served under its own name.

    Attributes:
        name: Name of the model, of its file in builders/models and at the server.
        source: The published system that the network follows.
        network: Wires the network: `network(ops, *images)` or, if the model has vectors
            instead, `network(ops, *vectors)`; returns the values by output name.
        outputs: Outputs of the network.
        images: Image inputs; a model has either images or vectors.
        vectors: Vector inputs.
        dropped: Patterns (fnmatch) of checkpoint keys that inference does not need. Any
            other key that the wiring does not use is an error.
        aliases: Prefixes of keys in older checkpoints, and their present form.
        choices: Differences that keys cannot tell; see builders.spec.variants.
        signs: Names in checkpoints that suggest other options than the declared ones.
        on_request: Whether the model is built only when it is named.
        int8_exclude: Patterns (fnmatch) of convolutions that stay float in INT8, chosen
            by a sensitivity report.
        assumptions: What the source leaves open and this project decided.
        batching: Batch sizes, queue delays and instance counts.
        execution: Options of Triton's native TensorRT backend.
        tolerance: Largest allowed differences from the torch reference.
        variant: Name of the variant that this is; see `in_variant`.
        declared: The declaration, if this is another variant of it.
    """

    name: str
    source: Source
    network: Callable[..., Mapping[str, Any]]
    outputs: tuple[Output, ...]
    images: tuple[Image, ...] = ()
    vectors: tuple[Vector, ...] = ()
    dropped: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    signs: tuple[Sign, ...] = ()
    on_request: bool = False
    int8_exclude: tuple[str, ...] = ()
    assumptions: str = ""
    batching: Batching = field(default_factory=Batching)
    execution: PlanExecution = field(default_factory=PlanExecution)
    tolerance: Tolerance = field(default_factory=Tolerance)
    variant: str = DEFAULT_VARIANT
    declared: Model | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_name(self.name, "model")
        self.execution.check_batch_sizes(self.batching.max_batch_size)
        check_choices(self.choices, self.signs)
        require(
            bool(self.images) != bool(self.vectors) and bool(self.outputs),
            f"model {self.name}: declare images or vectors, not both, and at least "
            "one output",
        )
        require(
            self.source.is_citable,
            f"model {self.name}: source {self.source.name!r} has neither a url nor a "
            "paper; add one, so that a reader can look it up",
        )
        for image in self.images:
            require_name(image.name, "image")
        names = [t.name for t in (*self.inputs, *self.output_tensors)]
        require(
            len(set(names)) == len(names),
            f"model {self.name}: two tensors share a name in {names}",
        )
        try:
            wired = dict(self.summary.outputs)
        except WiringError as exc:
            raise SpecError(f"model {self.name}: {exc}") from exc
        declared = {o.name: (o.size,) for o in self.outputs}
        require(
            wired == declared,
            f"model {self.name}: outputs are declared as {declared}, but the network "
            f"returns {wired}; make the two agree",
        )

    @cached_property
    def summary(self) -> NetworkSummary:
        """Checkpoint layout, MACs and output shapes of the network."""
        return summarise_network(self.wire)

    def wire(self, ops: Ops[V]) -> Mapping[str, V]:
        """Run the network and return its values by output name.

        Args:
            ops: The backend to run it with.
        """
        return self.network(
            ops,
            *(ops.image(image) for image in self.images),
            *(ops.vector(vector) for vector in self.vectors),
        )

    def in_variant(self, text: str) -> Model:
        """Return the model in a variant, whichever variant this is.

        Args:
            text: Names of options, for example "padded-256x128". A choice without a
                named option has the declared one.

        Raises:
            VariantError: The model has no such option.
        """
        declared = self.declared or self
        chosen = [o for o in parse_variant(declared, text) if o.change is not None]
        name = SEPARATOR.join(option.name for option in chosen) or DEFAULT_VARIANT
        if name == self.variant:
            return self
        model = declared
        for option in chosen:
            model = option.apply(model)
        return replace(model, variant=name, declared=declared) if chosen else declared

    @property
    def options(self) -> Mapping[str, str]:
        """Name of the option that this variant has, by choice."""
        chosen = {option.name for option in parse_variant(self, self.variant)}
        return {
            choice.name: next(
                (o.name for o in choice.options if o.name in chosen),
                choice.options[0].name,
            )
            for choice in self.choices
        }

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Input tensors."""
        images = tuple(image.tensor for image in self.images)
        return images + tuple(vector.tensor for vector in self.vectors)

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        """Output tensors."""
        return tuple(output.tensor for output in self.outputs)


NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class OnnxModel:
    """A network imported as an ONNX file (`python -m builders import`).

    The file takes the place of weights. Its first dimension is the batch.

    Attributes:
        name: Name of the model, of its file in builders/models and at the server.
        source: Where the file comes from, and its licence.
        inputs: Input tensors, without the batch dimension.
        output_tensors: Output tensors, without the batch dimension.
        batching: Batch sizes, queue delays and instance counts.
        execution: Options of Triton's native TensorRT backend.
        tolerance: Largest allowed differences from ONNX Runtime's outputs.
        assumptions: What the source leaves open and this project decided.
        on_request: Whether the model is built only when it is named.
        wrapped_images: Images that the file takes as normalised floats. It is served
            behind their normalisation, so that its inputs are UINT8 RGB crops.
    """

    name: str
    source: Source
    inputs: tuple[Tensor, ...]
    output_tensors: tuple[Tensor, ...]
    batching: Batching = field(default_factory=Batching)
    execution: PlanExecution = field(default_factory=PlanExecution)
    tolerance: Tolerance = field(default_factory=Tolerance)
    assumptions: str = ""
    on_request: bool = False
    wrapped_images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        require_name(self.name, "model")
        self.execution.check_batch_sizes(self.batching.max_batch_size)
        require(
            bool(self.inputs) and bool(self.output_tensors),
            f"model {self.name}: an ONNX file needs at least one input and one output",
        )
        for image in self.wrapped_images:
            require(
                image.tensor in self.inputs,
                f"model {self.name}: the wrapped image {image.tensor} is none of the "
                f"inputs {self.inputs}",
            )

    @property
    def images(self) -> tuple[Image, ...]:
        """The inputs that take RGB crops: those that are UINT8 [height, width, 3].

        The file normalises them by itself, or it is wrapped so that it does. Pixels in
        another form need a normalisation that the file does not state, so such inputs
        are no images.
        """
        wrapped = {image.name: image for image in self.wrapped_images}
        return tuple(
            wrapped.get(t.name)
            or Image(t.shape[0], t.shape[1], NO_MEAN, NO_STD, t.name)
            for t in self.inputs
            if t.data_type == "UINT8" and _is_image_shape(t.shape)
        )

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs as rows of values; the size is -1 where it varies."""
        return tuple(
            Output(t.name, -1 if min(t.shape) < 0 else math.prod(t.shape))
            for t in self.output_tensors
        )

    @property
    def takes_crops_only(self) -> bool:
        """Whether every input is an image."""
        return len(self.images) == len(self.inputs)


def _is_image_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] == 3 and min(shape) > 0


Network = Model | OnnxModel
"""A declaration that is built, for one or more targets."""
