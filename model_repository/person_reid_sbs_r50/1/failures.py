# Rendered by `python -m builders render` from builders/repository/runtimes/failures.py; edit that file.
"""Responses of a network to requests that it does not compute.

A network that is a step of an ensemble must not respond with an error. Triton before
26.03 frees an ensemble's request too early, or never, if one of its parallel steps
fails, and then ends with SIGSEGV (core, pull request 483; seen with 24.10 at the third
error). Such a network responds with NaN in place of each value, which no client takes
for an answer: personserve raises ServerError.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from refusals import Reason, RefusalLog

STEP_PARAMETER = "step_of"
"""Parameter in the config of a network that is a step: the names of its ensembles."""


class Failures:
    """Responds to requests that failed or that no client waits for.

    Args:
        arguments: The argument of Triton's `initialize`.
    """

    def __init__(self, arguments: dict[str, str]) -> None:
        config = json.loads(arguments["model_config"])
        self._log = RefusalLog(arguments)
        self._is_step = STEP_PARAMETER in config["parameters"]
        self._input = config["input"][0]["name"]
        self._outputs = {
            output["name"]: tuple(int(size) for size in output["dims"])
            for output in config["output"]
        }

    def respond(self, request: Any, reason: Reason, text: str) -> Any:
        """Count and log a failure, and return the response.

        Args:
            request: Triton's request.
            reason: Why it is not computed.
            text: What was expected, what came, and what to do about it.
        """
        if not self._is_step:
            return self._log.respond(request, reason, text)
        self._log.note(request, reason, text)
        rows = pb_utils.get_input_tensor_by_name(request, self._input).shape()[0]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.full((rows, *shape), np.nan, np.float32))
                for name, shape in self._outputs.items()
            ]
        )

    def close(self) -> None:
        """Delete the counters."""
        self._log.close()
