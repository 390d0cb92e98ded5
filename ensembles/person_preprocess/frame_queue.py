"""Queue of frames: batches across requests, and a response for each.

A model of the Python backend that responds through response senders takes the next
request while the last ones are in work (Triton 24.06 and later). The threads here take
what has arrived meanwhile, up to a limit, as one batch.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensembles.person_preprocess.frame_requests import FrameRequests
from ensembles.person_preprocess.frames import DeviceError, FrameRequest, Lane


@dataclass(frozen=True)
class _Work:
    """A request that was read; it keeps the memory of its inputs alive."""

    request: Any
    sender: Any
    frame: FrameRequest


class FrameQueue:
    """Passes requests to lanes in batches, and sends the responses.

    Args:
        requests: Reads and refuses requests.
        lanes: One for each thread.
        largest_batch: Most frames of a batch.
    """

    def __init__(
        self, requests: FrameRequests, lanes: Sequence[Lane], largest_batch: int
    ) -> None:
        self._requests = requests
        self._lanes = lanes
        self._largest_batch = largest_batch
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"lane {number}")
            for number, lane in enumerate(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def take(self, request: Any) -> None:
        """Check a request and put it into the queue, or refuse it at once.

        Args:
            request: Triton's request.
        """
        sender = request.get_response_sender()
        try:
            frame = self._requests.read(request)
        except Exception as exc:  # noqa: BLE001 - the others are answered
            self._send(sender, self._requests.refuse(request, exc))
        else:
            self._queue.put(_Work(request, sender, frame))

    def close(self) -> None:
        """Respond to what is in the queue, and stop the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        for lane in self._lanes:
            lane.close()

    def _run(self, lane: Lane) -> None:
        while True:
            batch, is_last = self._next_batch()
            if batch:
                self._respond(lane, batch)
            if is_last:
                return

    def _next_batch(self) -> tuple[list[_Work], bool]:
        """Return the work that waits, and whether the thread should end after it."""
        batch: list[_Work] = []
        work = self._queue.get()
        while work is not None:
            batch.append(work)
            if len(batch) == self._largest_batch:
                return batch, False
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _respond(self, lane: Lane, batch: Sequence[_Work]) -> None:
        batch = [work for work in batch if self._is_awaited(work)]
        try:
            crops = lane.cut([work.frame for work in batch])
        except DeviceError as exc:
            for work in batch:
                self._send(work.sender, self._requests.refuse(work.request, exc))
            # no request can succeed here any more: serve's supervisor and the liveness
            # probe see that the process is gone
            os.kill(os.getpid(), signal.SIGKILL)
        except Exception as exc:  # noqa: BLE001 - whatever it was, each gets an answer
            crops = [exc] * len(batch)
        for work, outputs in zip(batch, crops, strict=True):
            self._send(work.sender, self._response(work, outputs))

    def _is_awaited(self, work: _Work) -> bool:
        try:
            work.frame.deadline.check_time()
        except Exception as exc:  # noqa: BLE001 - the others are answered
            self._send(work.sender, self._requests.refuse(work.request, exc))
            return False
        return True

    def _response(self, work: _Work, outputs: list[Any] | Exception) -> Any:
        if isinstance(outputs, Exception):
            return self._requests.refuse(work.request, outputs)
        return pb_utils.InferenceResponse(
            [
                _make_tensor(name, crops)
                for name, crops in zip(self._requests.shapes, outputs, strict=True)
            ]
        )

    def _send(self, sender: Any, response: Any) -> None:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _make_tensor(name: str, crops: Any) -> Any:
    if isinstance(crops, np.ndarray):
        return pb_utils.Tensor(name, crops)
    return pb_utils.Tensor.from_dlpack(name, crops)
