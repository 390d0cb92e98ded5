"""Triton Python model: decode the frame, check the boxes, cut the crops.

Each request gets its own response or its own error; a bad one harms no other.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import triton_python_backend_utils as pb_utils

from builders.repository.runtimes.pause_watchdog import PauseWatchdog
from ensembles.person_preprocess.frame_requests import FrameRequests
from ensembles.person_preprocess.frames import decode_frame
from personserve.images.crops import Pixels, cut_crops, pixel_boxes


class TritonPythonModel:
    """Frame and boxes [N, 4] to crops for each network, UINT8 RGB [N, H, W, 3]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read limits and crop shapes from the model's config."""
        cv2.setNumThreads(1)  # instances are the parallelism
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._requests = FrameRequests(args)
        self._watchdog = PauseWatchdog()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to each request."""
        responses = [self._respond(request) for request in requests]
        self._watchdog.hand_over()
        return responses

    def finalize(self) -> None:
        """Stop the watchdog and all threads, and delete the counters."""
        self._watchdog.stop()
        self._requests.close()
        self._pool.shutdown()

    def _respond(self, request: Any) -> Any:
        try:
            crops = self._cut_crops(request)
        except Exception as exc:  # noqa: BLE001 - the others of the batch are answered
            return self._requests.refuse(request, exc)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, array)
                for name, array in zip(self._requests.shapes, crops, strict=True)
            ]
        )

    def _cut_crops(self, request: Any) -> list[Pixels]:
        asked = self._requests.read(request)
        pixels = decode_frame(asked.frame)
        asked.deadline.check_time()
        height, width = pixels.shape[:2]
        return cut_crops(
            pixels,
            pixel_boxes(asked.boxes, height, width),
            list(self._requests.shapes.values()),
            order="BGR",
            pool=self._pool,
        )
