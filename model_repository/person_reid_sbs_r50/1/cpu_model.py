# Rendered by `python -m builders render` from builders/repository/runtimes/cpu_model.py; edit that file.
"""Triton Python model: model.onnx on the CPU, with the runtime that its record names.

Names and shapes are read from the ONNX file. Each instance uses one thread, because
instances are the parallelism: two threads in one process lose up to 30 %.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from cpu_session import open_session, split_feed
from deadlines import AbandonedError, Deadlines
from failures import Failures
from pause_watchdog import PauseWatchdog
from refusals import Reason

BUSY_S = 0.01
"""Pause after which an instance was idle: a request that waits is begun sooner."""


class TritonPythonModel:
    """Runs each request in chunks (see split_feed), while its client waits."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open model.onnx."""
        folder = Path(args["model_repository"]) / args["model_version"]
        record = json.loads((folder / "model.onnx.json").read_text())
        path = str(folder / "model.onnx")
        self._session = open_session(path, record, threads=1)
        self._failures = Failures(args)
        self._deadlines = Deadlines()
        self._idle_since_s = -BUSY_S
        self._watchdog = PauseWatchdog()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to each request."""
        # a request that found this instance idle did not wait, and is not abandoned
        waited = time.monotonic() - self._idle_since_s < BUSY_S
        responses = [self._respond(request, waited) for request in requests]
        self._idle_since_s = time.monotonic()
        self._watchdog.hand_over()
        return responses

    def finalize(self) -> None:
        """Stop the watchdog, and delete the counters."""
        self._watchdog.stop()
        self._failures.close()

    def _respond(self, request: Any, waited: bool) -> Any:
        feed = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self._session.inputs
        }
        deadline = self._deadlines.find(request)
        chunks = []
        try:
            for index, part in enumerate(split_feed(feed)):
                deadline.check() if index or waited else deadline.check_time()
                chunks.append(self._session.run(part))
        except AbandonedError as exc:
            return self._failures.respond(request, Reason.CANCELLED, str(exc))
        except Exception as exc:  # noqa: BLE001 - its errors share no base class
            return self._failures.respond(request, Reason.FAILED, str(exc))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.concatenate(arrays))
                for name, arrays in zip(
                    self._session.outputs, zip(*chunks, strict=True), strict=True
                )
            ]
        )
