"""Annotated frames with the numbers of tracks."""

from __future__ import annotations

from collections.abc import Iterable

from personserve._results import People, Person, annotate
from personserve.images.crops import Pixels
from personserve.images.inputs import ImageInput
from personserve.tracks.track import Track


def annotate_tracks(frame: ImageInput, tracks: Iterable[Track | None]) -> Pixels:
    """Draw tracks into a copy of their frame: each box, with its number and gender.

    Args:
        frame: The frame; see `ImageInput` for the accepted types.
        tracks: What Tracks.update returned for this frame; None is left out.

    Returns:
        The annotated copy, UINT8 [H, W, 3] in BGR order.

    Raises:
        InvalidInputError: If the frame is invalid.
    """
    drawn = [track for track in tracks if track is not None]
    persons = [
        Person(None, None, track.box) if track.person is None else track.person
        for track in drawn
    ]
    names = (name for person in persons for name in person.stand_in_weights)
    people = People(tuple(persons), None, None, tuple(dict.fromkeys(names)))
    return annotate(frame, people, [track.label() for track in drawn])
