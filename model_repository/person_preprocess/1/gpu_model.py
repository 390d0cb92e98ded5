# Rendered by `python -m builders render` from ensembles/person_preprocess/gpu_model.py; edit that file.
"""Triton Python model: the same preprocessing with the pixels on a GPU.

Frames are decoded and cut on the GPU, and the crops stay there for the networks. Two
processes on each GPU do it for all requests: `execute` checks a request and hands it to
the threads of FrameQueue, which respond later. So the requests that arrive during one
batch form the next, without a delay for a single one, and Triton merges nothing.

Without a GPU, or without the packages of the extra `gpu`, the model says so in Triton's
log and works on the CPU in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cv2
import triton_python_backend_utils as pb_utils

from pause_watchdog import PauseWatchdog
from cpu_lane import CpuLane
from frame_queue import FrameQueue
from frame_requests import FrameRequests
from frames import Lane
from crops import CropShape

LANES = 2
"""Threads on a GPU: while one waits for its batch, the other prepares the next. A third
gains nothing (builders/benchmarks/README.md)."""

LARGEST_BATCH = 4
"""Frames of one batch. On an H100 two threads decode and cut 1,100 frames of 1080p a
second one by one, 2,800 in batches of 4, 1,700 in batches of 8 and 600 in batches of 16
(builders/benchmarks/README.md)."""


class TritonPythonModel:
    """Frame and boxes [N, 4] to crops for each network, UINT8 RGB [N, H, W, 3]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the GPU, and read limits and crop shapes from the model's config."""
        cv2.setNumThreads(1)
        self._requests = FrameRequests(args)
        lanes, largest_batch = _open_lanes(args, list(self._requests.shapes.values()))
        self._queue = FrameQueue(self._requests, lanes, largest_batch)
        self._watchdog = PauseWatchdog()

    def execute(self, requests: list[Any]) -> None:
        """Take requests; their responses follow from the threads of the queue."""
        for request in requests:
            self._queue.take(request)
        self._watchdog.hand_over()

    def finalize(self) -> None:
        """Respond to what was taken, stop all threads, and free the GPU's memory."""
        self._watchdog.stop()
        self._queue.close()
        self._requests.close()


def _open_lanes(
    arguments: dict[str, str], shapes: Sequence[CropShape]
) -> tuple[list[Lane], int]:
    """Return lanes on the GPU of this instance, or else on the CPU; and their batch."""
    device_id = int(arguments["model_instance_device_id"])
    try:
        # what these import is there only where the extra `gpu` is installed
        from gpu_lane import GpuLane, open_gpu

        gpu = open_gpu(device_id, shapes)
        return [GpuLane(gpu, shapes) for _ in range(LANES)], LARGEST_BATCH
    except Exception as exc:  # noqa: BLE001 - whatever it is, the CPU can do the work
        pb_utils.Logger.log_warn(
            f"{arguments['model_name']}: frames are decoded and cut on the CPU, since "
            f"GPU {device_id} cannot be used for it: {exc!r}. It needs a driver for "
            "CUDA 13, and the packages of personserve's extra `gpu` in its Python"
        )
        return [CpuLane(shapes) for _ in range(os.cpu_count() or 1)], 1
