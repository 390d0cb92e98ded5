"""Triton's Python backend runs this: model.onnx on the CPU, as its record says.

Generic: names and shapes are the ONNX file's own. One thread an instance, because
instances are the parallelism (two threads in one process lose up to 30 %).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from cpu_session import open_session

CHUNK_BYTES = 600 << 10
"""Input of one run: four crops of a person. A larger batch is no faster on a CPU, and
at 32 the activations of the gender network (100 MB) leave the caches and cost a quarter
more time."""


class TritonPythonModel:
    """Runs requests as they come, in chunks, into one answer each."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        record = json.loads((folder / "model.onnx.json").read_text())
        path = str(folder / "model.onnx")
        self._session = open_session(path, record, threads=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        feed = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self._session.inputs
        }
        count = len(feed[self._session.inputs[0]])
        row_bytes = sum(array[:1].nbytes for array in feed.values())
        chunk = max(1, CHUNK_BYTES // row_bytes)
        try:
            chunks = [
                self._session.run(
                    {name: array[i : i + chunk] for name, array in feed.items()}
                )
                for i in range(0, count, chunk)
            ]
        except Exception as exc:  # noqa: BLE001 - its errors share no base class
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.concatenate(arrays))
                for name, arrays in zip(
                    self._session.outputs, zip(*chunks, strict=True), strict=True
                )
            ]
        )
