"""What the installed TensorRT offers, by feature detection.

`tensorrt` 8.6, 10 and 11 and `tensorrt_rtx` differ in how a network gets its types,
how instance norm is spelt, and what a builder config can do. Nothing else in the
project asks for a version, and no flag is written as a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

Target = Literal["tensorrt", "rtx"]
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "int8")

MODULES: dict[Target, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}

NAMES: dict[Target, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
"""As passports and people call them."""

COMPUTE_TYPES: dict[Precision, str] = {
    "fp32": "float32",
    "tf32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "float16",
}
"""Name of the element type of convolutions, in the library's own spelling. TF32 is
FP32 with a flag that lets tensor cores round its inputs; in INT8 it is the type of what
stays float."""


class PlanError(RuntimeError):
    """A plan that cannot be built, loaded or run; says why and what to do."""


@dataclass(frozen=True)
class Library:
    """An imported TensorRT. `trt` is its module."""

    target: Target
    trt: ModuleType

    @property
    def name(self) -> str:
        """What passports call it."""
        return NAMES[self.target]

    @property
    def version(self) -> str:
        """Its version, as the plans it builds need it."""
        return str(self.trt.__version__)

    @property
    def strongly_typed(self) -> bool:
        """Whether types follow from the network alone (10 and later, RTX); 8.6 takes
        them from builder flags and layers.
        """
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def normalization(self) -> str | None:
        """The network's method for a native normalisation layer, if it has one."""
        names = ("add_normalization_v2", "add_normalization")
        known = [n for n in names if hasattr(self.trt.INetworkDefinition, n)]
        return known[0] if known else None

    @property
    def normalizes_in_float(self) -> bool:
        """Whether that layer can be told to keep its statistics in FP32."""
        layer = getattr(self.trt, "INormalizationLayer", None)
        return hasattr(layer, "compute_precision")

    @property
    def has_onnx_parser(self) -> bool:
        """Whether it reads ONNX files."""
        return hasattr(self.trt, "OnnxParser")

    @property
    def chooses_gpu(self) -> bool:
        """Whether plans are built for named GPU types, without one being here."""
        return hasattr(self.trt.IBuilderConfig, "set_compute_capability")

    @property
    def times_kernels(self) -> bool:
        """Whether a build times kernels, so that a timing cache is of use. Plans for
        GPUs that are not here are finished when they are loaded instead.
        """
        return not self.chooses_gpu

    @property
    def reports_progress(self) -> bool:
        """Whether a build tells how far it is."""
        return hasattr(self.trt, "IProgressMonitor")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that it can build."""
        return tuple(
            p
            for p in PRECISIONS
            if p != "bf16" or (hasattr(self.trt, "bfloat16") and self.strongly_typed)
        )

    def compute_type(self, precision: Precision) -> Any:
        """The element type of convolutions. Raises PlanError for one it lacks."""
        if precision not in self.precisions:
            raise PlanError(
                f"{self} does not build {precision}; it builds "
                f"{', '.join(self.precisions)}"
            )
        return getattr(self.trt, COMPUTE_TYPES[precision])

    def create_network(self, builder: Any) -> Any:
        """An empty network with a dynamic batch, typed by itself where that exists."""
        flags = self.trt.NetworkDefinitionCreationFlag
        flag = flags.STRONGLY_TYPED if self.strongly_typed else flags.EXPLICIT_BATCH
        return builder.create_network(1 << int(flag))

    def configure(self, config: Any, precision: Precision) -> None:
        """Everything about `precision` that is not in the network."""
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
        # cuBLAS and cuDNN are never needed for these networks, and loading them costs
        # a gigabyte; 11 no longer lists them
        own = [
            getattr(sources, name)
            for name in ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
            if hasattr(sources, name)
        ]
        config.set_tactic_sources(sum(1 << int(source) for source in own))
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED

    def quantize(self, network: Any, x: Any, step: Any) -> Any:
        """A layer that makes INT8 of `x`; later versions want the type said."""
        try:
            return network.add_quantize(x, step, self.trt.int8)
        except TypeError:
            return network.add_quantize(x, step)

    def dequantize(self, network: Any, x: Any, step: Any, data_type: Any) -> Any:
        """A layer that makes `data_type` of INT8; 8.6 chooses the type itself."""
        try:
            return network.add_dequantize(x, step, data_type)
        except TypeError:
            return network.add_dequantize(x, step)

    def gpus(self) -> dict[str, Any]:
        """GPU types that plans can be built for by name: {"sm_86": value}."""
        if not self.chooses_gpu:
            return {}
        return {
            name.lower().replace("sm", "sm_"): value
            for name, value in self.trt.ComputeCapability.__members__.items()
            if name.startswith("SM")
        }

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def library_called(name: str) -> Library:
    """The installed library that a passport calls `name`. Raises PlanError."""
    (target,) = (target for target, known in NAMES.items() if known == name)
    return load_library(target)


@cache
def load_library(target: Target) -> Library:
    """The installed TensorRT for `target`. Raises PlanError where there is none."""
    try:
        return Library(target, import_module(MODULES[target]))
    except (ImportError, OSError) as exc:
        raise PlanError(
            f"{MODULES[target]} cannot be imported ({exc}); "
            f'pip install "personserve[{target}]"'
        ) from exc
