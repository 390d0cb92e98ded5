# Rendered by `python -m builders render` from builders/repository/runtimes/cpu_session.py; edit that file.
"""Sessions that run model.onnx on the CPU, with ONNX Runtime or OpenVINO.

This file imports only the runtime, because it is also rendered into the repository for
Triton's Python backend. The file's record names the runtime and the precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""OpenVINO's precision for layers that are not INT8. Without a hint OpenVINO uses BF16
where the CPU has it."""

CHUNK_BYTES = 600 << 10
"""Input bytes of one run: four crops of a person. A larger batch is no faster on a CPU,
and at 32 the activations of the gender network (100 MB) leave the caches and cost a
quarter more time."""


class RuntimeMissingError(RuntimeError):
    """The runtime of a file is not installed; the message says what to install."""


class Session(Protocol):
    """A loaded network, with the names of its inputs and outputs in order."""

    inputs: list[str]
    outputs: list[str]

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        """Run the network.

        Args:
            feed: {input name: array}.

        Returns:
            The outputs in order.
        """
        ...


def open_session(
    model: str | bytes, record: Mapping[str, Any], threads: int = 0
) -> Session:
    """Open an ONNX file.

    Args:
        model: Path of the file, or its bytes.
        record: The file's record: `runtime` and `precision`.
        threads: Threads of a run; 0 for one per core.

    Raises:
        RuntimeMissingError: The runtime is not installed.
    """
    if record.get("runtime", ONNX_RUNTIME) == OPENVINO:
        return _OpenVino(model, record.get("precision", "fp32"), threads)
    return _OnnxRuntime(model, threads)


def split_feed(feed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Split the rows of a request into runs of up to CHUNK_BYTES.

    Args:
        feed: {input name: array [N, ...]}.

    Yields:
        The rows of each run, in order.
    """
    row_bytes = sum(array[:1].nbytes for array in feed.values())
    count = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, len(next(iter(feed.values()))), count):
        yield {name: array[start : start + count] for name, array in feed.items()}


class _OnnxRuntime:
    def __init__(self, model: str | bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = min(threads, 1)
        # without VNNI the INT8 kernels add pairs of products in 16 bits, which
        # saturates; this makes them use unsigned weights, which do not
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.inputs: list[str] = [value.name for value in self._session.get_inputs()]
        self.outputs: list[str] = [value.name for value in self._session.get_outputs()]

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        outputs: list[Any] = self._session.run(self.outputs, dict(feed))
        return outputs


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
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": 1,
            # instances would all be pinned to the same core
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            properties["INFERENCE_NUM_THREADS"] = threads
        self._network = core.compile_model(network, "CPU", properties)

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        results = self._network(dict(feed))
        return [results[index].copy() for index in range(len(self.outputs))]


def has_bf16() -> bool:
    """Return whether OpenVINO computes in BF16 on this CPU.

    Raises:
        RuntimeMissingError: OpenVINO is not installed.
    """
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _core() -> Any:
    try:
        import openvino
    except ImportError as exc:
        raise RuntimeMissingError(
            f"this file runs with OpenVINO, which cannot be imported ({exc}); "
            'pip install -e ".[openvino]"'
        ) from exc
    return openvino.Core()
