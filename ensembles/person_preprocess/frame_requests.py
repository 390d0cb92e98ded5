"""Requests of the preprocessing model: what is read, checked and refused.

Limits and crop shapes come from the model's config, so that they are declared in one
place. The forms of the model on the CPU and on a GPU share this file, and so their
error texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from builders.repository.runtimes.admission import Admission, OverloadError
from builders.repository.runtimes.deadlines import AbandonedError, Deadlines
from builders.repository.runtimes.refusals import Reason, RefusalLog
from ensembles.person_preprocess.frames import FrameRequest
from personserve.images.crops import BoxError, CropShape, Pixels
from personserve.images.encoded import Encoded
from personserve.images.formats import (
    ImageFormatError,
    ImageSizeError,
    check_image_size,
)

CHANNELS = 3
"""Values of a pixel of a raw frame: blue, green, red."""

REASONS: Mapping[type[Exception], Reason] = {
    OverloadError: Reason.OVERLOADED,
    AbandonedError: Reason.CANCELLED,
    ImageSizeError: Reason.IMAGE_SIZE,
    ImageFormatError: Reason.IMAGE,
    BoxError: Reason.BOXES,
}
"""The reason of each expected error; a subclass before its base."""


class FrameRequests:
    """Reads requests, admits them, and refuses those that are at fault.

    Attributes:
        shapes: Shape of each network's crops, by output name.

    Args:
        arguments: The argument of Triton's `initialize`.
    """

    def __init__(self, arguments: dict[str, str]) -> None:
        config = json.loads(arguments["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        self._max_people = int(parameters["max_people"])
        self.shapes = {
            output["name"]: _crop_shape(output, parameters)
            for output in config["output"]
        }
        self._refusals = RefusalLog(arguments, list(Reason))
        self._admission = Admission(
            parameters["networks"].split(","),
            int(parameters["max_waiting_people"]),
            sum(group["count"] for group in config["instance_group"]),
        )
        self._admission.start()
        self._deadlines = Deadlines()

    def read(self, request: Any) -> FrameRequest:
        """Admit a request and read its inputs.

        Args:
            request: Triton's request.

        Raises:
            AbandonedError: Its client does not wait any more.
            BoxError: It has no boxes, or too many.
            ImageFormatError: Its frame is missing, no accepted image, or too large.
            OverloadError: Too many people wait for the networks.
        """
        boxes = _read_input(request, "boxes")
        self._admission.admit(len(boxes))
        deadline = self._deadlines.begin(request)
        # before decoding: a request that is refused should cost nothing
        if not 1 <= len(boxes) <= self._max_people:
            raise BoxError(
                f"{len(boxes)} boxes; expected 1 to {self._max_people} in one request "
                "(for none, do not call; split more)"
            )
        # Triton drops what was cancelled before this step and after it
        deadline.check_time()
        return FrameRequest(_read_frame(request), boxes, deadline)

    def refuse(self, request: Any, exc: Exception) -> Any:
        """Count and log an error, and return it as Triton's response.

        Args:
            request: Triton's request.
            exc: What was raised for it.
        """
        kinds = (kind for kind in REASONS if isinstance(exc, kind))
        reason = REASONS.get(next(kinds, Exception), Reason.FAILED)
        text = repr(exc) if reason is Reason.FAILED else str(exc)
        prefix = "frame: " if isinstance(exc, ImageFormatError) else ""
        return self._refusals.respond(request, reason, f"{prefix}{text}")

    def close(self) -> None:
        """Stop all threads, and delete the counters."""
        self._admission.close()
        self._refusals.close()


def _crop_shape(output: Mapping[str, Any], parameters: Mapping[str, str]) -> CropShape:
    """Return the cut of an output [N, height, width, 3]."""
    _, height, width, _ = (int(size) for size in output["dims"])
    edge = parameters.get(f"{output['name']}.shorter_edge")
    return CropShape(
        height,
        width,
        parameters[f"{output['name']}.interpolation"],
        None if edge is None else int(edge),
    )


def _read_input(request: Any, name: str) -> Any:
    """Return an input as an array; an optional one that was left out is empty."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return np.empty(0, np.uint8) if tensor is None else tensor.as_numpy()


def _read_frame(request: Any) -> Encoded | Pixels:
    """Return a request's frame: a checked image, or raw BGR pixels [H, W, 3]."""
    encoded, raw, size = (
        _read_input(request, name)
        for name in ("encoded_frame", "raw_frame", "frame_size")
    )
    if encoded.size and raw.size:
        raise ImageFormatError(
            f"expected either encoded_frame or raw_frame, got both ({encoded.size} and "
            f"{raw.size} bytes); leave one out"
        )
    if raw.size:
        return _shape_raw_frame(raw, size)
    if not encoded.size:
        raise ImageFormatError(
            "expected the bytes of a JPEG, PNG or WebP as encoded_frame, or BGR pixels "
            "as raw_frame with frame_size [height, width], got neither"
        )
    if size.any():
        raise ImageFormatError(
            f"frame_size {size.tolist()} is for raw_frame, and encoded_frame has a "
            "size of its own; leave frame_size out"
        )
    # a copy: a client may write to shared memory after the check
    return Encoded.from_bytes(encoded.tobytes())


def _shape_raw_frame(raw: Any, size: Any) -> Pixels:
    """Return raw pixels as [height, width, 3] without a copy."""
    if size.size == 0 or size.min() < 1:
        raise ImageFormatError(
            "expected frame_size [height, width] in pixels with raw_frame, got "
            f"{size.tolist() or 'none'}"
        )
    height, width = size.tolist()
    check_image_size(width, height)
    if raw.size != height * width * CHANNELS:
        raise ImageFormatError(
            f"frame_size [{height}, {width}] takes {height * width * CHANNELS} bytes "
            f"of raw_frame (BGR pixels row by row), got {raw.size}"
        )
    pixels: Pixels = raw.reshape(height, width, CHANNELS)
    return pixels
