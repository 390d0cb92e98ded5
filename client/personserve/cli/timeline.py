"""A timeline of tracks as an image: which person was seen when."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from personserve._results.annotation import (
    STAND_IN_NOTE,
    UNDECIDED_COLOUR,
    blend_colour,
)
from personserve.images.crops import Pixels
from personserve.images.drawing import FONT, Colour, draw_text, measure_text
from personserve.tracks import Track

MAX_ROWS = 60
"""Tracks in an image; of more, those in the most frames are drawn."""

ROW_HEIGHT = 56
THUMBNAIL_HW = (50, 40)
LABEL_X = 56
AXIS_X = 260
AXIS_WIDTH = 900
MARGIN = 12
HEADER_HEIGHT = 48

TICKS = 10
TICK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)

MIN_BAR_PX = 3
BLACK: Colour = (30, 30, 30)
GREY: Colour = (150, 150, 150)
LINE: Colour = (225, 225, 225)
NOTE_COLOUR: Colour = (30, 30, 200)
TEXT_SCALE = 0.45


class Timeline:
    """The tracks of one video, to be drawn when it has ended.

    At most MAX_ROWS of them are kept: those in the most frames.

    Args:
        title: Text above the timeline, for example the name of the video.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._tracks: list[Track] = []
        self._count = 0
        self._end_s = 0.0

    def add(self, track: Track) -> None:
        """Add a track that has ended.

        Args:
            track: The track.
        """
        self._count += 1
        self._end_s = max(self._end_s, track.last_s)
        self._tracks.append(track)
        if len(self._tracks) > 2 * MAX_ROWS:
            self._tracks = _longest(self._tracks)

    def draw(self) -> Pixels:
        """Draw the timeline.

        Returns:
            UINT8 [H, W, 3] in BGR order: a row for each track, in the order of
            appearance, with its best view, label, and a bar where it was seen.
        """
        tracks = sorted(
            _longest(self._tracks), key=lambda each: (each.first_s, each.id)
        )
        height = HEADER_HEIGHT + ROW_HEIGHT * max(1, len(tracks)) + MARGIN
        note = STAND_IN_NOTE if any(map(_has_stand_ins, tracks)) else ""
        note_height = measure_text(note, TEXT_SCALE)[1] if note else 0
        width = AXIS_X + AXIS_WIDTH + 2 * MARGIN
        image = np.full((height + note_height, width, 3), 255, np.uint8)
        title = f"{self._title}: {self._count} tracks"
        if self._count > len(tracks):
            title += f", the {len(tracks)} in the most frames"
        _write(image, title, (MARGIN, 18), BLACK)
        self._draw_axis(image, height)
        for row, track in enumerate(tracks):
            self._draw_row(image, HEADER_HEIGHT + row * ROW_HEIGHT, track)
        if note:
            strip = (0, height, width, height + note_height)
            draw_text(image, note, strip, TEXT_SCALE, NOTE_COLOUR)
        return image

    def _draw_axis(self, image: Pixels, height: int) -> None:
        step_s = next(
            (step for step in TICK_STEPS_S if self._end_s / step <= TICKS),
            TICK_STEPS_S[-1] * np.ceil(self._end_s / TICK_STEPS_S[-1] / TICKS),
        )
        for tick in range(int(self._end_s / step_s) + 1):
            time_s = tick * step_s
            x = self._x_from_time(time_s)
            cv2.line(image, (x, HEADER_HEIGHT - 4), (x, height - MARGIN), LINE)
            _write(image, _text_from_time(time_s), (x, HEADER_HEIGHT - 10), GREY)

    def _draw_row(self, image: Pixels, top: int, track: Track) -> None:
        if track.thumbnail is not None:
            height, width = THUMBNAIL_HW
            scale = min(
                height / track.thumbnail.shape[0], width / track.thumbnail.shape[1]
            )
            size_wh = tuple(
                max(1, round(edge * scale)) for edge in track.thumbnail.shape[1::-1]
            )
            small = cv2.resize(track.thumbnail, size_wh, interpolation=cv2.INTER_AREA)
            image[top : top + size_wh[1], MARGIN : MARGIN + size_wh[0]] = small
        _write(image, track.label(), (LABEL_X, top + 22), BLACK)
        answers = max(track.gender_count, track.embedding_count)
        text = f"{track.frame_count} frames, answers: {answers}"
        _write(image, text, (LABEL_X, top + 40), GREY, 0.38)
        colour = UNDECIDED_COLOUR
        if track.person is not None:
            colour = blend_colour(track.person)
        middle = top + ROW_HEIGHT // 2 - 2
        for start_s, end_s in track.spans:
            start, end = self._x_from_time(start_s), self._x_from_time(end_s)
            end = max(end, start + MIN_BAR_PX)
            cv2.rectangle(image, (start, middle - 9), (end, middle + 9), colour, -1)

    def _x_from_time(self, time_s: float) -> int:
        return AXIS_X + round(AXIS_WIDTH * time_s / (self._end_s or 1.0))


def _longest(tracks: Sequence[Track]) -> list[Track]:
    return sorted(tracks, key=lambda each: (-each.frame_count, each.id))[:MAX_ROWS]


def _has_stand_ins(track: Track) -> bool:
    return track.person is not None and bool(track.person.stand_in_weights)


def _text_from_time(time_s: float) -> str:
    if time_s < 60:
        return f"{time_s:g} s"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _write(
    image: Pixels,
    text: str,
    origin: tuple[int, int],
    colour: Colour,
    scale: float = TEXT_SCALE,
) -> None:
    cv2.putText(image, text, origin, FONT, scale, colour, 1, cv2.LINE_AA)
