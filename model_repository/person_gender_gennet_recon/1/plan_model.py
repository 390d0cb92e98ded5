# Rendered by `python -m builders render` from builders/repository/runtimes/plan_model.py; edit that file.
"""Triton Python model: model.plan with TensorRT's or TensorRT-RTX's Python runtime.

For servers without a TensorRT backend, and for plans that no backend loads. Names and
shapes are read from the engine; the plan's record names the library that built it.
Requests that Triton batches together are put side by side into the engine's buffers
and run once. Tensors that are on the GPU stay there.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from deadlines import AbandonedError, Deadlines
from failures import Failures
from pause_watchdog import PauseWatchdog
from refusals import Reason
from engine import Engine, EngineError

MODULES = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt_rtx"}


class TritonPythonModel:
    """One engine, with a stream of its own, per instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load model.plan with the library that built it."""
        folder = Path(args["model_repository"]) / args["model_version"]
        record = json.loads((folder / "model.plan.json").read_text())
        trt = import_module(MODULES[record["library"]])
        if trt.__version__ != record["version"]:
            raise EngineError(
                f"the plan was built by {record['library']} {record['version']}, "
                f"and {trt.__version__} is installed; install that version or build "
                "the plan again"
            )
        plan = (folder / "model.plan").read_bytes()
        self._engine = Engine(trt, plan, int(args["model_instance_device_id"]))
        self._failures = Failures(args)
        self._deadlines = Deadlines()
        self._watchdog = PauseWatchdog()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests whose clients wait as one batch, and respond to each."""
        self._engine.use_device()
        refused = [self._refuse_abandoned(request) for request in requests]
        waited_for = [r for r, each in zip(requests, refused, strict=True) if not each]
        answered = iter(self._respond(waited_for) if waited_for else ())
        responses = [each or next(answered) for each in refused]
        self._watchdog.hand_over()
        return responses

    def finalize(self) -> None:
        """Stop the watchdog, delete the counters, and free the engine's buffers."""
        self._watchdog.stop()
        self._failures.close()
        self._engine.close()

    def _refuse_abandoned(self, request: Any) -> Any:
        try:
            self._deadlines.find(request).check()
        except AbandonedError as exc:
            return self._failures.respond(request, Reason.CANCELLED, str(exc))
        return None

    def _respond(self, requests: list[Any]) -> list[Any]:
        try:
            counts, start = [], 0
            for request in requests:
                counts.append(self._put(request, start))
                start += counts[-1]
            outputs = self._engine.run(start)
        except EngineError as exc:
            return [
                self._failures.respond(request, Reason.FAILED, str(exc))
                for request in requests
            ]
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
