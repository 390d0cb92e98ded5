"""Triton's Python backend runs this: model.onnx with ONNX Runtime, on the CPU.

Generic: names and shapes are the ONNX file's own. One thread an instance, because
instances are the parallelism (two threads in one process lose up to 30 %).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

CHUNK_BYTES = 600 << 10
"""Input of one run: four crops of a person. A larger batch is no faster on a CPU, and
at 32 the activations of the gender network (100 MB) leave the caches and cost a quarter
more time."""


class TritonPythonModel:
    """Runs requests as they come, in chunks, into one answer each."""

    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        folder = Path(args["model_repository"]) / args["model_version"]
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        feed = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self._inputs
        }
        count = len(feed[self._inputs[0]])
        row_bytes = sum(array[:1].nbytes for array in feed.values())
        chunk = max(1, CHUNK_BYTES // row_bytes)
        try:
            chunks = [
                self._session.run(
                    self._outputs,
                    {name: array[i : i + chunk] for name, array in feed.items()},
                )
                for i in range(0, count, chunk)
            ]
        except Exception as exc:  # noqa: BLE001 - its errors share no base class
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.concatenate(arrays))
                for name, arrays in zip(
                    self._outputs, zip(*chunks, strict=True), strict=True
                )
            ]
        )
