"""Boxes of a detector's result, which must be those of persons.

Only public attributes are read: `xyxy`, `class_id` and `data` of supervision's
Detections; `boxes`, `xyxy`, `cls` and `names` of ultralytics' Results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError

PERSON_CLASS = 0
"""The class "person" of COCO, on which most detectors are trained."""

PERSON_NAMES = frozenset({"human", "pedestrian", "people", "person"})
"""Names of classes, in lower case, that are taken for persons."""


def boxes_from_result(value: Any) -> Any:
    """Return the boxes of a detection result, or the value itself if it is not one.

    Args:
        value: A detection result, a list of one, or numbers.

    Returns:
        The boxes, in whatever type the detector has.

    Raises:
        InvalidInputError: A list of several results, a result without boxes, or one
            with boxes that are not persons'.
    """
    if isinstance(value, list | tuple) and any(map(_is_result, value)):
        if len(value) > 1:
            raise InvalidInputError(
                f"boxes: got a {type(value).__name__} of {len(value)} detection "
                "results; pass the result of one image, for example results[0]"
            )
        (value,) = value
    if not _is_result(value):
        return value
    holder = value if hasattr(value, "xyxy") else value.boxes
    if holder is None or not hasattr(holder, "xyxy"):
        raise InvalidInputError(
            f"boxes: the {type(value).__name__} has no upright boxes with xyxy; pass "
            "numbers [N, 4] (x0, y0, x1, y1)"
        )
    _require_persons(value, holder)
    return holder.xyxy


def to_host(values: Any) -> Any:
    """Copy a torch tensor from the GPU; return everything else unchanged.

    Args:
        values: A tensor, or anything else.

    Returns:
        The values in the memory of the CPU.
    """
    return values.cpu() if hasattr(values, "cpu") else values


def _is_result(value: Any) -> bool:
    return hasattr(value, "xyxy") or hasattr(value, "boxes")


def _require_persons(result: Any, holder: Any) -> None:
    """Refuse boxes of other classes: they would be given a gender like any person."""
    ids = getattr(holder, "class_id", getattr(holder, "cls", None))
    if ids is None:
        return
    classes = np.asarray(to_host(ids)).ravel().astype(int)
    names = _class_names(result, classes)
    if names is None:
        wrong = classes != PERSON_CLASS
        texts = [f"class {number}" for number in classes]
    else:
        wrong = np.array([name.lower() not in PERSON_NAMES for name in names], bool)
        texts = names
    if wrong.any():
        others = sorted({texts[index] for index in np.flatnonzero(wrong)})
        raise InvalidInputError(
            f"boxes: {int(wrong.sum())} of {len(wrong)} are not of the class person "
            f"({', '.join(others)}; the first is box {int(wrong.argmax())}); pass "
            "persons only, for example detections[detections.class_id == 0], or "
            "model(image, classes=[0]) of ultralytics. If these boxes are persons, "
            "pass their numbers: detections.xyxy or results[0].boxes.xyxy"
        )


def _class_names(result: Any, classes: npt.NDArray[Any]) -> list[str] | None:
    """Return the class name of each box, or None if the result has no names."""
    data = getattr(result, "data", None)
    if isinstance(data, Mapping) and "class_name" in data:
        return [str(name) for name in data["class_name"]]
    names = getattr(result, "names", None)
    if isinstance(names, Mapping):
        # ultralytics names a class "0" or "class0" if the model file has no names
        if all(str(name) in {str(n), f"class{n}"} for n, name in names.items()):
            return None
        return [str(names.get(number, number)) for number in classes.tolist()]
    if isinstance(names, Sequence) and not isinstance(names, str) and len(names):
        return [str(names[number]) for number in classes.tolist()]
    return None
