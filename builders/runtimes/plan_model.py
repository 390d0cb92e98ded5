"""Triton's Python backend runs this: model.plan with TensorRT's or TensorRT-RTX's own
Python runtime, for servers that have no TensorRT backend (or a plan no backend loads).

Generic: names and shapes are the engine's own, and the plan's passport says which
library built it. Requests that are batched together are put into the engine's buffers
side by side and run once; tensors that are on the GPU stay there.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from engine import Engine, EngineError

MODULES = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt_rtx"}


class TritonPythonModel:
    """One engine with its own stream an instance."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        passport = json.loads((folder / "model.plan.json").read_text())
        trt = import_module(MODULES[passport["library"]])
        if trt.__version__ != passport["version"]:
            raise EngineError(
                f"the plan was built by {passport['library']} {passport['version']}, "
                f"and {trt.__version__} is installed; install that version or build "
                "the plan again"
            )
        self._engine = Engine(trt, (folder / "model.plan").read_bytes())

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            counts, start = [], 0
            for request in requests:
                counts.append(self._put(request, start))
                start += counts[-1]
            outputs = self._engine.run(start)
        except EngineError as exc:
            error = pb_utils.TritonError(str(exc))
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        responses, start = [], 0
        for count in counts:
            part = slice(start, start + count)
            responses.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor(n, a[part].copy()) for n, a in outputs.items()]
                )
            )
            start += count
        return responses

    def finalize(self) -> None:
        self._engine.close()

    def _put(self, request: Any, start: int) -> int:
        count = 0
        for name in self._engine.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor.is_cpu():
                array = tensor.as_numpy()
                self._engine.put(name, array, start)
                count = len(array)
            else:
                count = self._engine.put_dlpack(name, tensor.to_dlpack(), start)
        return count
