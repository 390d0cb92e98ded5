"""Features of the installed TensorRT, found by looking for them.

`tensorrt` 8.6, 10 and 11 and `tensorrt_rtx` differ in how a network gets its element
types, in the method that adds instance norm, and in what a builder config can do. All
these differences are in this module: no other one compares versions, and no flag is
written as a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from builders.errors import BuildersError
from builders.tensorrt.engine import Engine, EngineError

Target = Literal["tensorrt", "rtx"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "int8")

MODULES: dict[Target, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Name of the Python module of each target."""

NAMES: dict[Target, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
"""Product name of each target, used in records and messages."""

COMPUTE_TYPES: dict[Precision, str] = {
    "fp32": "float32",
    "tf32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "float16",
}
"""Element type of convolutions by precision, as TensorRT spells it. TF32 is FP32 with a
flag that lets tensor cores round their inputs; for INT8 it is the type of the layers
that are not quantised."""


class PlanError(BuildersError, RuntimeError):
    """A plan cannot be built, loaded or run; the message gives the reason and a fix."""


@dataclass(frozen=True)
class Library:
    """An imported TensorRT library.

    Attributes:
        target: The target that the library builds for.
        trt: The library's Python module.
    """

    target: Target
    trt: ModuleType

    @property
    def name(self) -> str:
        """Product name, as in records."""
        return NAMES[self.target]

    @property
    def version(self) -> str:
        """Version of the library; its plans load in the same version only."""
        return str(self.trt.__version__)

    @property
    def strongly_typed(self) -> bool:
        """Whether element types follow from the network alone (10 and later, RTX).

        8.6 takes them from builder flags and from constraints on layers.
        """
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def normalization(self) -> str | None:
        """Name of the network's method that adds a normalisation layer, or None."""
        methods = ("add_normalization_v2", "add_normalization")
        available = [m for m in methods if hasattr(self.trt.INetworkDefinition, m)]
        return available[0] if available else None

    @property
    def normalizes_in_float(self) -> bool:
        """Whether the normalisation layer can keep its statistics in FP32."""
        layer = getattr(self.trt, "INormalizationLayer", None)
        return hasattr(layer, "compute_precision")

    @property
    def has_onnx_parser(self) -> bool:
        """Whether the library reads ONNX files."""
        return hasattr(self.trt, "OnnxParser")

    @property
    def chooses_gpu(self) -> bool:
        """Whether plans are built for named GPU types, which need not be present."""
        return hasattr(self.trt.IBuilderConfig, "set_compute_capability")

    @property
    def times_kernels(self) -> bool:
        """Whether a build times kernels, so that a timing cache is useful.

        Plans for GPUs that are not present are finished when they are loaded instead.
        """
        return not self.chooses_gpu

    @property
    def reports_progress(self) -> bool:
        """Whether a build reports its progress."""
        return hasattr(self.trt, "IProgressMonitor")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions that the library builds."""
        return tuple(
            p
            for p in PRECISIONS
            if p != "bf16" or (hasattr(self.trt, "bfloat16") and self.strongly_typed)
        )

    def compute_type(self, precision: Precision) -> Any:
        """Return the element type of convolutions.

        Args:
            precision: The precision of the plan.

        Returns:
            The library's DataType.

        Raises:
            PlanError: If the library does not build `precision`.
        """
        if precision not in self.precisions:
            raise PlanError(
                f"{self} does not build {precision}; it builds "
                f"{', '.join(self.precisions)}"
            )
        return getattr(self.trt, COMPUTE_TYPES[precision])

    def create_builder(self, logger: Any) -> Any:
        """Create the library's builder.

        Args:
            logger: An ILogger of the library, which must outlive the builder.

        Returns:
            The IBuilder.

        Raises:
            PlanError: If the library needs a GPU and finds none.
        """
        try:
            builder = self.trt.Builder(logger)
        except TypeError:  # "factory function returned nullptr", as pybind11 puts it
            builder = None
        if not builder:
            raise PlanError(
                f"{self} cannot create a builder: it needs an NVIDIA GPU and its "
                "driver. TensorRT-RTX builds without one (--target rtx --gpu sm_86)"
            )
        return builder

    def create_network(self, builder: Any) -> Any:
        """Create an empty network with a dynamic batch, strongly typed if possible.

        Args:
            builder: An IBuilder of the library.

        Returns:
            The INetworkDefinition.
        """
        flags = self.trt.NetworkDefinitionCreationFlag
        flag = flags.STRONGLY_TYPED if self.strongly_typed else flags.EXPLICIT_BATCH
        return builder.create_network(1 << int(flag))

    def configure(self, config: Any, precision: Precision) -> None:
        """Set every flag of a builder config that depends on the precision.

        Args:
            config: An IBuilderConfig of the library.
            precision: The precision of the plan.
        """
        flag = self.trt.BuilderFlag
        if precision == "tf32":
            config.set_flag(flag.TF32)
        else:
            config.clear_flag(flag.TF32)
        if not self.strongly_typed and precision in {"fp16", "int8"}:
            config.set_flag(flag.FP16)
            config.set_flag(flag.OBEY_PRECISION_CONSTRAINTS)
        if not self.strongly_typed and precision == "int8":
            config.set_flag(flag.INT8)
        sources = self.trt.TacticSource
        # these networks never need cuBLAS or cuDNN, and loading both costs a gigabyte;
        # 11 no longer lists them
        own_kernels = [
            getattr(sources, name)
            for name in ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
            if hasattr(sources, name)
        ]
        config.set_tactic_sources(sum(1 << int(source) for source in own_kernels))
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED

    def quantize(self, network: Any, x: Any, scale: Any) -> Any:
        """Add a layer that quantises a tensor to INT8.

        Args:
            network: The INetworkDefinition.
            x: ITensor to quantise.
            scale: FP32 ITensor, a scalar or one value for each index of an axis.

        Returns:
            The IQuantizeLayer.
        """
        try:
            return network.add_quantize(x, scale, self.trt.int8)
        except TypeError:  # 8.6 takes no output type
            return network.add_quantize(x, scale)

    def dequantize(self, network: Any, x: Any, scale: Any, data_type: Any) -> Any:
        """Add a layer that converts an INT8 tensor back to a float type.

        Args:
            network: The INetworkDefinition.
            x: INT8 ITensor.
            scale: FP32 ITensor, as for `quantize`.
            data_type: Element type of the result; 8.6 chooses it itself.

        Returns:
            The IDequantizeLayer.
        """
        try:
            return network.add_dequantize(x, scale, data_type)
        except TypeError:  # 8.6 takes no output type
            return network.add_dequantize(x, scale)

    @property
    def gpu_types(self) -> dict[str, Any]:
        """GPU types that plans can be built for: ComputeCapability by name ("sm_86").

        Empty for a library that builds for the GPU of this machine.
        """
        if not self.chooses_gpu:
            return {}
        return {
            name.lower().replace("sm", "sm_"): value
            for name, value in self.trt.ComputeCapability.__members__.items()
            if name.startswith("SM")
        }

    def load_engine(self, plan: bytes) -> Engine:
        """Load a plan on the current GPU.

        Args:
            plan: The content of a plan file.

        Returns:
            An engine with buffers for its largest batch; its own calls raise
            EngineError.

        Raises:
            PlanError: If there is no GPU, or this library or GPU cannot load the plan.
        """
        try:
            return Engine(self.trt, plan)
        except EngineError as exc:
            raise PlanError(str(exc)) from exc

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def library_from_name(name: str) -> Library:
    """Return the installed library with a product name.

    Args:
        name: "TensorRT" or "TensorRT-RTX", as in a plan's record.

    Returns:
        The library.

    Raises:
        PlanError: If the library is not installed.
    """
    (target,) = (target for target, product in NAMES.items() if product == name)
    return load_library(target)


@cache
def load_library(target: Target) -> Library:
    """Import the TensorRT library of a target.

    Args:
        target: "tensorrt" or "rtx".

    Returns:
        The library.

    Raises:
        PlanError: If its module is not installed or cannot be imported.
    """
    try:
        return Library(target, import_module(MODULES[target]))
    except (ImportError, OSError) as exc:
        raise PlanError(
            f"{MODULES[target]} cannot be imported ({exc}); "
            f'pip install -e ".[{target}]"'
        ) from exc
