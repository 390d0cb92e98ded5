"""When the answer about a person is worth a request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from personserve._errors import InvalidInputError

Reason = Literal["new", "better", "doubt", "interval"]
"""Why a person is asked about: no answer yet, a better view, possibly another person
under the same id, or the time since the last answer."""

POOR_VIEW = 0.5
"""Quality, as a share of the best one answered, below which a request waits for a
better view, for up to another interval."""

UNSETTLED_ANSWERS = 8
"""Answers during which the interval of a person whose gender is unsettled stays short:
some never settle."""


@dataclass(frozen=True)
class View:
    """The input of a policy: a box of a frame, and the state of its track.

    Attributes:
        quality: Quality of the box, 0 (not worth a request) to 1.
        best_quality: Best quality of the boxes that were answered.
        answer_count: Number of answers of the track.
        waited_s: Time since the last answer in seconds; infinite without one.
        in_doubt: Whether the track's id may have moved to another person.
        is_settled: Whether the gender is clear: more answers would not change it.
    """

    quality: float
    best_quality: float = 0.0
    answer_count: int = 0
    waited_s: float = math.inf
    in_doubt: bool = False
    is_settled: bool = True


@dataclass(frozen=True)
class RequestPolicy:
    """Decides when the server is asked about a person.

    It is asked about a new track, about a better (larger, sharper, less hidden) view,
    and otherwise at intervals that double: with the defaults 1, 2, 4, 8, 16 and then
    every 30 seconds after the last answer. At 10 frames per second that is frame 0, 10,
    30, 70, 150 and 310 of a track. As long as the gender is unsettled (abstained, or
    within two standard errors of the threshold), the interval stays at 1 second for up
    to 8 answers.

    Attributes:
        first_interval_s: Time from the first to the second request about a track in
            seconds, in the time of the video. It doubles with each answer.
        refresh_s: Longest interval in seconds.
        quality_gain: A view that is this many times as good as the best one that was
            answered is asked about at once.
    """

    first_interval_s: float = 1.0
    refresh_s: float = 30.0
    quality_gain: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.first_interval_s <= self.refresh_s:
            raise InvalidInputError(
                "RequestPolicy: expected 0 <= first_interval_s <= refresh_s, got "
                f"{self.first_interval_s:g} and {self.refresh_s:g}"
            )
        if not self.quality_gain > 1:
            raise InvalidInputError(
                f"RequestPolicy: expected quality_gain over 1, got {self.quality_gain}"
            )

    @classmethod
    def every_box(cls) -> RequestPolicy:
        """Return the policy that asks about every box, to compare with."""
        return cls(first_interval_s=0.0, refresh_s=0.0)

    def choose_reason(self, view: View) -> Reason | None:
        """Return why the server should be asked about a person, None if it should not.

        Args:
            view: The box and its track.

        Returns:
            The reason, or None.
        """
        if view.quality <= 0:
            return None
        if view.answer_count == 0:
            return "new"
        if view.in_doubt:
            return "doubt"
        if view.quality >= self.quality_gain * view.best_quality:
            return "better"
        doublings = view.answer_count - 1
        if not view.is_settled:
            doublings = max(0, view.answer_count - UNSETTLED_ANSWERS)
        interval_s = self.first_interval_s * 2.0 ** min(doublings, 60)
        interval_s = min(interval_s, self.refresh_s)
        if view.quality < POOR_VIEW * view.best_quality:
            interval_s *= 2
        # times are sums and quotients of floats
        return "interval" if view.waited_s >= interval_s - 1e-6 else None
