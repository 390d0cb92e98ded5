# Rendered by `python -m builders render` from builders/repository/runtimes/refusals.py; edit that file.
"""Log lines and counters of requests that a Python model refuses or fails to answer.

Triton counts a request as a success once the Python model has answered, with an error
too, and writes no line about it. Here each error has a reason. It is counted in the
metric COUNTER on Triton's metrics port, and described by a line in Triton's log:

    refused reason=image model=person_preprocess request=4f2a unlogged=0 text=frame: ...

A model does not see the sender's address; the id of the request tells which it was.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from enum import Enum
from typing import Any

import triton_python_backend_utils as pb_utils

COUNTER = "personserve_requests_refused_total"
BURST, LINES_PER_S = 20, 1.0
"""Lines that may follow each other at once, and lines per second over a longer time.
A process writes at most 50 MB a day, however many bad requests arrive."""

MAX_ID, MAX_TEXT = 64, 400
"""Longest part of a request's id and of a text in a line, in characters."""


class Reason(Enum):
    """Why a request got an error instead of its outputs."""

    BOXES = "boxes"
    """The boxes are too few, too many, not finite, empty, or outside the frame."""
    IMAGE = "image"
    """The frame is not an accepted image, or is damaged."""
    IMAGE_SIZE = "image_size"
    """The frame has too many pixels or bytes."""
    OVERLOADED = "overloaded"
    """Too many people wait for the networks already."""
    CANCELLED = "cancelled"
    """The client cancelled the request, or its deadline passed."""
    FAILED = "failed"
    """The model failed: a fault of the server."""


NETWORK_REASONS = (Reason.CANCELLED, Reason.FAILED)
"""Reasons of a model whose input Triton itself has checked."""


class RefusalLog:
    """Counts and describes the errors of one model instance.

    Args:
        arguments: The argument of Triton's `initialize`.
        reasons: Reasons that the model has; their counters exist from the start.
    """

    def __init__(
        self,
        arguments: dict[str, str],
        reasons: Sequence[Reason] = NETWORK_REASONS,
    ) -> None:
        self._model = arguments["model_name"]
        self._limiter = LineLimiter()
        self._family: Any = None
        self._counters = self._create_counters(reasons)

    def respond(self, request: Any, reason: Reason, text: str) -> Any:
        """Count and log an error, and return it as Triton's response.

        Args:
            request: Triton's request.
            reason: Why it gets an error.
            text: What was expected, what came, and what to do about it.
        """
        self.note(request, reason, text)
        error = pb_utils.TritonError(text, _error_code(reason))
        return pb_utils.InferenceResponse(error=error)

    def note(self, request: Any, reason: Reason, text: str) -> None:
        """Count and log an error.

        Args:
            request: Triton's request.
            reason: Why it gets an error.
            text: What was expected, what came, and what to do about it.
        """
        if reason in self._counters:
            self._counters[reason].increment(1)
        unlogged = self._limiter.take(time.monotonic())
        if unlogged is not None:
            request_id = request.request_id()
            line = format_line(reason, self._model, request_id, unlogged, text)
            pb_utils.Logger.log_warn(line)

    def close(self) -> None:
        """Delete the counters, before the family that they belong to."""
        self._counters.clear()
        self._family = None

    def _create_counters(self, reasons: Sequence[Reason]) -> dict[Reason, Any]:
        try:
            self._family = pb_utils.MetricFamily(
                name=COUNTER,
                description="Requests that got an error from a Python model, by reason",
                kind=pb_utils.MetricFamily.COUNTER,
            )
            return {
                reason: self._family.Metric(
                    labels={"model": self._model, "reason": reason.value}
                )
                for reason in reasons
            }
        except pb_utils.TritonModelException as exc:  # a server without metrics
            pb_utils.Logger.log_warn(f"{self._model} counts no refused requests: {exc}")
            return {}


class LineLimiter:
    """Limit on the lines of a log: BURST at once, LINES_PER_S in the long run."""

    def __init__(self) -> None:
        self._allowance = float(BURST)
        self._updated_s = 0.0
        self._unlogged = 0

    def take(self, now_s: float) -> int | None:
        """Ask for a line.

        Args:
            now_s: Seconds of a monotonic clock.

        Returns:
            The number of lines refused since the last one, or None to write no line.
        """
        earned = (now_s - self._updated_s) * LINES_PER_S
        self._allowance = min(BURST, self._allowance + earned)
        self._updated_s = now_s
        if self._allowance < 1:
            self._unlogged += 1
            return None
        self._allowance -= 1
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged


def format_line(
    reason: Reason, model: str, request_id: str, unlogged: int, text: str
) -> str:
    """Return the line of a refused request: fields of `name=value`, the text last.

    Args:
        reason: Why it got an error.
        model: Name of the model.
        request_id: Id of the request, as the client sent it.
        unlogged: Number of errors since the last line that have no line.
        text: Text of the error.
    """
    # the sender chooses the id, and may not forge a field or a line with it
    safe_id = re.sub(r"[^\w.:-]", "_", request_id[:MAX_ID], flags=re.ASCII) or "-"
    return (
        f"refused reason={reason.value} model={model} request={safe_id} "
        f"unlogged={unlogged} text={json.dumps(text[:MAX_TEXT])[1:-1]}"
    )


def _error_code(reason: Reason) -> Any:
    codes = {
        Reason.OVERLOADED: pb_utils.TritonError.UNAVAILABLE,
        Reason.CANCELLED: pb_utils.TritonError.CANCELLED,
        Reason.FAILED: pb_utils.TritonError.INTERNAL,
    }
    return codes.get(reason, pb_utils.TritonError.INVALID_ARG)
