"""Boxes and ids of a tracker's result.

Only public attributes are read, so no tracker is imported:

- `tracker_id` of supervision's Detections (ByteTrack, SORT and others of `trackers`),
- `boxes.id` of ultralytics' Results,
- `track_id`, `to_ltrb()` or `to_tlbr()` and `is_confirmed()` of a list of DeepSORT's
  tracks,
- the columns (x0, y0, x1, y1, id, ...) of the arrays of SORT and boxmot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve.images.detections import to_host
from personserve.images.inputs import Boxes, array_from_boxes

TrackerId = int | str
"""The id that a tracker gives to a person."""

TrackedBoxes = Boxes | Any
"""Boxes [N, 4] whose ids are passed separately, or a tracker's result with ids."""

ID_COLUMN = 4
"""Column of the id in the arrays of SORT [N, 5] and boxmot [N, 8]."""


@dataclass(frozen=True)
class TrackedResult:
    """The people of a frame, as their tracker reports them.

    Attributes:
        boxes: FP32 [N, 4], (x0, y0, x1, y1) in pixels.
        ids: Id of each; None where the tracker has not given one yet.
    """

    boxes: npt.NDArray[np.float32]
    ids: tuple[TrackerId | None, ...]


def read_result(boxes: TrackedBoxes, ids: Any = None) -> TrackedResult:
    """Read boxes and ids of a tracker's result.

    Args:
        boxes: Boxes, or a tracker's result; see the module's docstring.
        ids: Id of each box, if `boxes` has none: integers or text; None or a negative
            number for a person that has no id yet.

    Returns:
        The boxes and ids.

    Raises:
        InvalidInputError: No ids, another number of ids than of boxes, an id that is
            neither an integer nor text, or one id for two boxes.
    """
    if ids is None:
        boxes, ids = _split_result(boxes)
    box_array = array_from_boxes(boxes)
    names = tuple(_name_from_id(each) for each in _list_of(ids))
    if len(names) != len(box_array):
        raise InvalidInputError(
            f"got {len(names)} track ids for {len(box_array)} boxes; expected one each"
        )
    known = [name for name in names if name is not None]
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise InvalidInputError(
            f"track id {twice!r} has two boxes; expected one box for each id in a frame"
        )
    return TrackedResult(box_array, names)


def _split_result(result: Any) -> tuple[Any, Any]:
    """Return boxes and ids of a result that has both."""
    if isinstance(result, list | tuple):
        if len(result) == 1 and _has_ids(result[0]):
            (result,) = result
        elif len(result) and all(hasattr(each, "track_id") for each in result):
            return _split_tracks(result)
    if hasattr(result, "tracker_id"):  # supervision
        count = len(result.xyxy)
        ids = result.tracker_id
        if ids is None and count:
            raise InvalidInputError(
                "the Detections have no tracker_id: pass them through a tracker first, "
                "for example tracker.update_with_detections(detections)"
            )
        return result, () if ids is None else ids
    if hasattr(result, "boxes"):  # ultralytics
        return _split_ultralytics(result)
    return _split_columns(result)


def _has_ids(value: Any) -> bool:
    return hasattr(value, "tracker_id") or hasattr(value, "boxes")


def _split_ultralytics(result: Any) -> tuple[Any, Any]:
    ids = getattr(result.boxes, "id", None)
    if ids is None:
        # model.track() gives no ids to a frame without confirmed tracks
        return result, [None] * len(result.boxes.xyxy)
    return result, ids


def _split_tracks(tracks: Sequence[Any]) -> tuple[Any, Any]:
    """Return boxes and ids of DeepSORT's confirmed tracks that were seen just now."""
    seen = [
        track
        for track in tracks
        if not hasattr(track, "is_confirmed") or track.is_confirmed()
        if getattr(track, "time_since_update", 0) == 0
    ]
    boxes = [
        track.to_ltrb() if hasattr(track, "to_ltrb") else track.to_tlbr()
        for track in seen
    ]
    return np.array(boxes, np.float32).reshape(-1, 4), [each.track_id for each in seen]


def _split_columns(rows: Any) -> tuple[Any, Any]:
    try:
        array = np.asarray(to_host(rows), np.float64)
    except (TypeError, ValueError):
        array = np.empty((1, 0))
    if array.size == 0 and array.shape[0] == 0:
        return np.empty((0, 4), np.float32), ()
    if array.ndim != 2 or array.shape[1] <= ID_COLUMN:
        raise InvalidInputError(
            "boxes without track ids: pass ids=, or a tracker's result: supervision's "
            "Detections with tracker_id, ultralytics' Results of model.track(), "
            "DeepSORT's tracks, or rows (x0, y0, x1, y1, id, ...) as of boxmot; got "
            f"{type(rows).__name__}"
        )
    return array[:, :4].astype(np.float32), array[:, ID_COLUMN]


def _list_of(ids: Any) -> list[Any]:
    if isinstance(ids, list | tuple):
        return list(ids)
    values: list[Any] = np.asarray(to_host(ids)).ravel().tolist()
    return values


def _name_from_id(value: Any) -> TrackerId | None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():  # ultralytics' ids are floats
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(
            f"track id {value!r}: expected an integer or text, or None for no id"
        )
    return None if value < 0 else value
