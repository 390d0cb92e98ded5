"""Payloads: the camera, track, time and further values stored with each person."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from personserve.gallery.matches import GalleryError, PayloadValue

CAMERA = "camera"
TRACK = "track"
TIME = "time_s"

Payload = Mapping[str, PayloadValue | datetime | None]
"""Values of one person by name. Three names have a meaning:

camera: Name of the camera that saw the person. Numbers are kept as text.
track: Id of the track of that camera's tracker. Numbers are kept as text.
time_s: When it was seen, in seconds of any clock (a Unix time, or a video's own time),
    or a datetime with a time zone, which is kept as a Unix time. Filters by time and
    `expire` use it.

All other names, of letters, digits, "-" and "_", are yours. A value of None is left
out.
"""

NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names that need no quotes in the paths of Qdrant's filters."""

INT64 = 2**63


def normalise_payloads(
    payload: Payload | Sequence[Payload] | None, count: int
) -> list[dict[str, PayloadValue]]:
    """Check the payloads of several people.

    Args:
        payload: One for all people, one for each, or None.
        count: Number of people.

    Returns:
        A dict for each person, with text as camera and track, and seconds as time.

    Raises:
        GalleryError: Another number of payloads, or a name or value that a payload
            cannot have.
    """
    if payload is None:
        return [{} for _ in range(count)]
    if isinstance(payload, Mapping):
        values = _normalise_payload(payload)
        return [dict(values) for _ in range(count)]
    if isinstance(payload, str) or not isinstance(payload, Sequence):
        raise GalleryError(
            f"payload: expected a mapping such as {{'camera': 'entrance'}}, or one for "
            f"each person, got {type(payload).__name__}"
        )
    if len(payload) != count:
        raise GalleryError(
            f"{len(payload)} payloads for {count} people; expected one for each, or a "
            "single mapping for all"
        )
    return [_normalise_payload(each) for each in payload]


def seconds_from_time(time: Any, name: str) -> float:
    """Convert a time to seconds.

    Args:
        time: Seconds, or a datetime with a time zone.
        name: What it is, for the message.

    Returns:
        The seconds; of a datetime, its Unix time.

    Raises:
        GalleryError: Not a finite number, or a datetime without a time zone.
    """
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise GalleryError(
                f"{name}: {time.isoformat(' ')} has no time zone; expected one, for "
                "example datetime.now(timezone.utc)"
            )
        return time.timestamp()
    if isinstance(time, np.generic):
        time = time.item()
    if (
        isinstance(time, bool)
        or not isinstance(time, int | float)
        or not math.isfinite(time)
    ):
        raise GalleryError(f"{name}: expected seconds or a datetime, got {time!r}")
    return float(time)


def text_from_name(value: Any, name: str) -> str:
    """Convert the name of a camera or the id of a track to text.

    Args:
        value: Non-empty text, or a whole number.
        name: What it is, for the message.

    Returns:
        The text.

    Raises:
        GalleryError: Anything else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise GalleryError(
            f"{name}: expected non-empty text or a whole number, got {value!r}"
        )
    return value


def normalise_value(value: Any, name: str) -> PayloadValue:
    """Check one value of a payload.

    Args:
        value: The value.
        name: Its name.

    Returns:
        Text, a number or a boolean.

    Raises:
        GalleryError: A value of another type, or a number that JSON cannot express.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if name == TIME:
        return seconds_from_time(value, name)
    if name in {CAMERA, TRACK}:
        return text_from_name(value, name)
    if not (
        isinstance(value, str | bool)
        or (isinstance(value, int) and -INT64 <= value < INT64)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        raise GalleryError(
            f"payload {name!r}: expected text, a boolean, or a finite number of 64 "
            f"bits, got {value!r}"
        )
    accepted: PayloadValue = value
    return accepted


def require_name(name: Any) -> None:
    """Refuse a name that a payload's value cannot have.

    Args:
        name: The name.

    Raises:
        GalleryError: Not letters, digits, "-" and "_".
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise GalleryError(
            f"payload: expected names of letters, digits, '-' and '_', got {name!r}"
        )


def _normalise_payload(payload: Any) -> dict[str, PayloadValue]:
    if not isinstance(payload, Mapping):
        raise GalleryError(
            f"payload: expected a mapping such as {{'camera': 'entrance'}}, got "
            f"{type(payload).__name__}"
        )
    for name in payload:
        require_name(name)
    return {
        name: normalise_value(value, name)
        for name, value in payload.items()
        if value is not None
    }
