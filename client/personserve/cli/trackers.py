"""The tracker of the command line: ByteTrack of edgefirst-tracker.

Y. Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box"
(ECCV 2022). It takes the place of the tracker that users bring.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from personserve._errors import InvalidInputError
from personserve.cli.detection import FloatBoxes

MIN_OVERLAP = 0.2
"""Intersection over union from which on a box continues a track. The boxes of OpenCV's
detector, which knows few sizes, differ more than those of a network."""

LIFESPAN_S = 2.0
"""Time in which a person who is not detected keeps the id."""


class ByteTracker:
    """Numbers people by following their boxes over the frames of a video.

    Raises:
        InvalidInputError: edgefirst-tracker is not installed.
    """

    def __init__(self) -> None:
        try:
            from edgefirst.tracker import (  # type: ignore[import-not-found, unused-ignore]
                ByteTrack,
            )
        except ImportError as exc:
            raise InvalidInputError(
                "--tracks needs a tracker: pip install edgefirst-tracker (the extra "
                "`tracks` of personserve)"
            ) from exc
        self._tracker: Any = ByteTrack(
            iou=MIN_OVERLAP, lifespan_ns=round(LIFESPAN_S * 1e9)
        )
        self._numbers: dict[str, int] = {}
        self._started = 0

    def update(self, boxes: FloatBoxes, time_s: float) -> list[int]:
        """Return the number of the person in each box.

        Args:
            boxes: FP32 [N, 4] of the next frame.
            time_s: Its time in seconds.

        Returns:
            N numbers, from 1 in the order of appearance; -1 without one.
        """
        count = len(boxes)
        tracks = self._tracker.update(
            np.ascontiguousarray(boxes, np.float32),
            np.ones(count, np.float32),  # the detector has chosen them already
            np.zeros(count, np.uintp),
            round(time_s * 1e9),
        )
        numbers = [
            -1 if track is None else self._number(track.uuid) for track in tracks
        ]
        active = {each.info.uuid for each in self._tracker.get_active_tracks()}
        self._numbers = {k: v for k, v in self._numbers.items() if k in active}
        return numbers

    def _number(self, uuid: str) -> int:
        if uuid not in self._numbers:
            self._started += 1
            self._numbers[uuid] = self._started
        return self._numbers[uuid]
