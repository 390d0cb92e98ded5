"""model.onnx on the CPU, by ONNX Runtime or by OpenVINO.

Stands alone (NumPy and the runtime), because `build` copies it beside Triton's Python
model. Which runtime runs a file, and in which precision, says the file's record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""OpenVINO's precision of what is not INT8. Without a hint it takes BF16 where the CPU
has it."""


class RuntimeMissingError(RuntimeError):
    """What should run the file is not installed, or not able to; says what to do."""


class Session(Protocol):
    """A loaded network; both have their tensors' names in order."""

    inputs: list[str]
    outputs: list[str]

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        """Outputs in order."""


def open_session(
    model: str | bytes, record: Mapping[str, Any], threads: int = 0
) -> Session:
    """The file at a path, or its bytes, run as `record` says; `threads` 0 are all
    cores. Raises RuntimeMissingError.
    """
    if record.get("runtime", ONNX_RUNTIME) == OPENVINO:
        return _OpenVino(model, record.get("precision", "fp32"), threads)
    return _OnnxRuntime(model, threads)


class _OnnxRuntime:
    def __init__(self, model: str | bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = min(threads, 1)
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.inputs: list[str] = [value.name for value in self._session.get_inputs()]
        self.outputs: list[str] = [value.name for value in self._session.get_outputs()]

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = self._session.run(self.outputs, dict(feed))
        return found


class _OpenVino:
    def __init__(self, model: str | bytes, precision: str, threads: int) -> None:
        core = _core()
        network = core.read_model(model)
        self.inputs: list[str] = [value.any_name for value in network.inputs]
        # a result's tensor has the names of all that it went through; its own is the
        # node's, before the port
        self.outputs: list[str] = [
            value.get_node().get_friendly_name().partition("/sink_port_")[0]
            for value in network.outputs
        ]
        how: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": 1,
            # instances would all be pinned to the same core
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            how["INFERENCE_NUM_THREADS"] = threads
        self._network = core.compile_model(network, "CPU", how)

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        found = self._network(dict(feed))
        return [found[index].copy() for index in range(len(self.outputs))]


def has_bf16() -> bool:
    """Whether OpenVINO computes in BF16 on this CPU. Raises RuntimeMissingError."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _core() -> Any:
    try:
        import openvino
    except ImportError as exc:
        raise RuntimeMissingError(
            f"OpenVINO cannot be imported ({exc}), and is what should run this; "
            'pip install "personserve[openvino]"'
        ) from exc
    return openvino.Core()
