"""Triton's Python backend runs this: decode the frame, check the boxes, cut the crops.

Each request gets its own answer or its own error; a bad one harms no other. Crop sizes
and limits come from the model's config, so they are written down once.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import simplejpeg
import triton_python_backend_utils as pb_utils
from PIL import Image

from personserve._crops import BoxError, CropShape, Pixels, cut, pixel_boxes

JPEG_MAGIC = b"\xff\xd8\xff"
EXIF_SEARCH_BYTES = 4096


class FrameError(ValueError):
    """A frame that is not a picture we take."""


class TritonPythonModel:
    """Frame [1, 1, bytes] or [H, W, 3] BGR, and boxes [N, 4], to crops per network."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        self._max_people = int(parameters["max_people"])
        self._max_pixels = int(parameters["max_frame_pixels"])
        self._shapes = {
            output["name"]: CropShape(
                int(output["dims"][1]),
                int(output["dims"][2]),
                parameters[f"{output['name']}.interpolation"],
            )
            for output in config["output"]
        }
        # only headers are read with Pillow, and the limit is ours
        Image.MAX_IMAGE_PIXELS = None
        cv2.setNumThreads(1)  # instances are the parallelism
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        self._pool.shutdown()

    def _respond(self, request: Any) -> Any:
        frame, boxes = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("frame", "boxes")
        )
        try:
            crops = self._crops(frame, boxes)
        except (FrameError, BoxError) as exc:
            error = pb_utils.TritonError(str(exc), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, array)
                for name, array in zip(self._shapes, crops, strict=True)
            ]
        )

    def _crops(self, frame: Pixels, boxes: Any) -> list[Pixels]:
        # before decoding: a request that is refused should cost nothing
        if not 1 <= len(boxes) <= self._max_people:
            raise BoxError(
                f"{len(boxes)} boxes; expected 1 to {self._max_people} in one request "
                "(for none, do not call; split more)"
            )
        frame, order = self._decoded(frame)
        height, width = frame.shape[:2]
        return cut(
            frame,
            pixel_boxes(boxes, height, width),
            list(self._shapes.values()),
            order=order,
            pool=self._pool,
        )

    def _decoded(self, frame: Pixels) -> tuple[Pixels, Any]:
        height, width, channels = frame.shape
        if (height, width) == (1, 1):
            return self._decoded_bytes(frame.tobytes())
        if channels != 3:
            raise FrameError(
                f"frame: expected raw BGR pixels [H, W, 3] or an encoded picture "
                f"[1, 1, bytes], got {list(frame.shape)}"
            )
        self._check_size(height, width)
        return frame, "BGR"

    def _decoded_bytes(self, data: bytes) -> tuple[Pixels, Any]:
        try:
            with Image.open(BytesIO(data)) as header:
                self._check_size(header.height, header.width)
        except (OSError, ValueError) as exc:
            if isinstance(exc, FrameError):
                raise
            raise _undecodable(data) from exc
        # OpenCV turns pictures as their EXIF orientation says; simplejpeg does not
        if data.startswith(JPEG_MAGIC) and b"Exif" not in data[:EXIF_SEARCH_BYTES]:
            try:
                return simplejpeg.decode_jpeg(data, colorspace="BGR"), "BGR"
            except ValueError as exc:
                raise _undecodable(data) from exc
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as exc:
            raise _undecodable(data) from exc
        if pixels is None:
            raise _undecodable(data)
        return np.asarray(pixels, np.uint8), "BGR"

    def _check_size(self, height: int, width: int) -> None:
        if height * width > self._max_pixels:
            raise FrameError(
                f"frame: {width}x{height} is {height * width:,} pixels, over the limit "
                f"of {self._max_pixels:,}"
            )


def _undecodable(data: bytes) -> FrameError:
    return FrameError(
        f"frame: {len(data)} bytes starting {data[:8].hex(' ')} do not decode; "
        "expected a whole JPEG, PNG or WebP"
    )
