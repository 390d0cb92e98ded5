"""Results of people written back into a detector's objects.

Only public attributes of supervision's Detections and ultralytics' Results are used, so
neither package is imported unless new Detections are made.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from personserve._errors import InvalidInputError
from personserve._results.roles import missing_role

if TYPE_CHECKING:
    from personserve._results.people import People


def detections_with_people(people: People, detections: Any, *, embeddings: bool) -> Any:
    """Implement People.to_supervision.

    Args:
        people: The people.
        detections: See People.to_supervision.
        embeddings: See People.to_supervision.

    Returns:
        The Detections.

    Raises:
        InvalidInputError: See People.to_supervision.
    """
    data: dict[str, Any] = {}
    genders = [person.gender for person in people if person.gender is not None]
    if people.female_probabilities is not None:
        data["gender"] = np.array([gender.label for gender in genders], np.str_)
        data["gender_probability"] = np.array(
            [gender.probability for gender in genders], np.float32
        )
        data["female_probability"] = np.asarray(people.female_probabilities)
    for name, values in people.outputs.items():
        if name in {people.gender_role, people.embedding_role}:
            continue
        if values.shape[1:] == (1,):
            data[name] = values[:, 0]
        elif embeddings:
            data[name] = values
    if embeddings and people.embeddings is not None:
        data[people.embedding_role] = people.embeddings
    if detections is None:
        return _make_detections(people, data)
    _check_count(people, len(detections.xyxy), "detections")
    return dataclasses.replace(detections, data={**(detections.data or {}), **data})


def results_with_people(people: People, results: Any) -> Any:
    """Implement People.to_ultralytics.

    Args:
        people: The people.
        results: See People.to_ultralytics.

    Returns:
        The Results.

    Raises:
        InvalidInputError: See People.to_ultralytics.
    """
    if isinstance(results, list | tuple) and len(results) == 1:
        (results,) = results
    _check_count(people, len(results.boxes.xyxy), "boxes")
    genders = [person.gender for person in people if person.gender is not None]
    if people.female_probabilities is None:
        raise missing_role("gender", people.outputs)
    labels = list(people.gender_labels) or sorted({each.label for each in genders})
    rows = results.boxes.data
    # (x0, y0, x1, y1, confidence, class), with a track id before the confidence
    rows = rows.clone() if hasattr(rows, "clone") else np.array(rows)
    for row, gender in enumerate(genders):
        rows[row, -2] = gender.probability
        rows[row, -1] = labels.index(gender.label)
    changed = copy.copy(results)
    changed.names = dict(enumerate(labels))
    changed.boxes = type(results.boxes)(rows, results.boxes.orig_shape)
    return changed


def _make_detections(people: People, data: dict[str, Any]) -> Any:
    try:
        import supervision  # type: ignore[import-not-found, unused-ignore]
    except ImportError as exc:
        raise InvalidInputError(
            "to_supervision needs supervision, or the Detections that were passed as "
            "boxes: pip install supervision"
        ) from exc
    boxes = [person.box for person in people if person.box is not None]
    if len(boxes) < len(people):
        raise InvalidInputError("to_supervision: people of crops have no boxes")
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        class_id=np.zeros(len(people), int),
        data={**data, "class_name": np.full(len(people), "person")},
    )


def _check_count(people: People, count: int, what: str) -> None:
    if count != len(people):
        raise InvalidInputError(
            f"got {count} {what} for {len(people)} people; pass the object that was "
            "passed as boxes"
        )
