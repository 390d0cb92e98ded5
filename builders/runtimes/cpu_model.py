"""Triton's Python backend runs this: model.onnx with ONNX Runtime, on the CPU.

Generic: names and shapes are the ONNX file's own. One thread an instance, because
instances are the parallelism (two threads in one process lose up to 30 %).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Runs every request of a batch, each as it came: on a CPU a larger batch is no
    faster, so copying requests together would only cost.
    """

    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = os.path.join(
            args["model_repository"], args["model_version"], "model.onnx"
        )
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
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
        try:
            arrays = self._session.run(self._outputs, feed)
        except Exception as exc:  # noqa: BLE001 - its errors share no base class
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.ascontiguousarray(array))
                for name, array in zip(self._outputs, arrays, strict=True)
            ]
        )
