"""Conditions that people of a gallery have to meet in order to be found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from personserve.gallery.matches import GalleryError, PayloadValue
from personserve.gallery.payloads import (
    CAMERA,
    TIME,
    TRACK,
    normalise_value,
    require_name,
    seconds_from_time,
    text_from_name,
)

Names = str | int | Iterable[str | int] | None


@dataclass(frozen=True)
class Filter:
    """Conditions on the payload of people; all of them have to be met.

        entrance_this_morning = Filter(cameras="entrance", since=eight_o_clock)
        elsewhere = Filter(other_than_cameras=person_camera)

    A person whose payload lacks a value does not meet a condition on it, and meets
    `other_than_cameras`.

    Attributes:
        cameras: Names of cameras, one or several; None for all.
        other_than_cameras: Names of cameras whose people are left out.
        tracks: Ids of tracks, one or several; None for all.
        since: Earliest time, in the seconds of the payload's `time_s`, or a datetime
            with a time zone. This time is included.
        until: End of the time, which is not included.
        equals: Values that a payload must have, by name: text, whole numbers, or
            booleans. 1 and True are different values.
    """

    cameras: Names = None
    other_than_cameras: Names = None
    tracks: Names = None
    since: float | datetime | None = None
    until: float | datetime | None = None
    equals: Mapping[str, str | int | bool] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("cameras", "other_than_cameras", "tracks"):
            object.__setattr__(self, name, _normalise_names(getattr(self, name), name))
        for name in ("since", "until"):
            time = getattr(self, name)
            if time is not None:
                object.__setattr__(self, name, seconds_from_time(time, name))
        object.__setattr__(self, "equals", _normalise_equals(self.equals))

    @property
    def wanted(self) -> dict[str, tuple[str, ...]]:
        """Accepted texts by name of the value; a payload must have one of them."""
        names = {CAMERA: self.cameras, TRACK: self.tracks}
        return {key: _tuple_of(each) for key, each in names.items() if each is not None}

    @property
    def unwanted_cameras(self) -> tuple[str, ...]:
        """The cameras whose people are left out."""
        return _tuple_of(self.other_than_cameras or ())

    @property
    def interval_s(self) -> tuple[float | None, float | None]:
        """The first second that is wanted, and the first one after it that is not."""
        return _float_of(self.since), _float_of(self.until)


def _normalise_names(names: Any, what: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        names = (names,)
    texts = tuple(dict.fromkeys(text_from_name(name, what) for name in names))
    if not texts:
        raise GalleryError(f"{what}: expected at least one, or None for no condition")
    return texts


def _normalise_equals(equals: Any) -> dict[str, PayloadValue]:
    if not isinstance(equals, Mapping):
        raise GalleryError(f"equals: expected a mapping by name, got {equals!r}")
    values = {}
    for name, value in equals.items():
        require_name(name)
        values[name] = normalise_value(value, name)
        if name == TIME or isinstance(values[name], float):
            raise GalleryError(
                f"equals {name!r}: expected text, a whole number or a boolean, got "
                f"{value!r}; times are compared with `since` and `until`"
            )
    return values


def _tuple_of(names: Any) -> tuple[str, ...]:
    """Return names that __post_init__ has normalised."""
    return tuple(names)


def _float_of(time: Any) -> float | None:
    """Return a time that __post_init__ has normalised."""
    return None if time is None else float(time)
