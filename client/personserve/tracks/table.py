"""The table of all tracks: which people to ask about, and what to do with the answers.

It makes no requests, so that one implementation serves the synchronous and the
asynchronous client: `plan` chooses the people of a frame, `apply` adds their answers.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve._results import People
from personserve.images.inputs import ImageInput
from personserve.images.thumbnails import ImageReference
from personserve.tracks.lost import LostTracks
from personserve.tracks.policy import Reason, RequestPolicy
from personserve.tracks.quality import LoadedFrame, rate_boxes
from personserve.tracks.results import TrackedBoxes, TrackerId, read_result
from personserve.tracks.state import Answer, Sighting, TrackState
from personserve.tracks.track import Track

RECOGNISED_ANSWERS = 3
"""Answers of a new track after each of which it is compared with lost ones. The first
is often a partial view at the edge of the frame."""


@dataclass(frozen=True)
class TrackCounts:
    """Numbers of frames, boxes and requests so far.

    Attributes:
        frames: Number of frames.
        boxes: Number of boxes with a track id.
        people: Number of people that the server was asked about.
        requests: Number of requests; one is for all people of a frame.
        reasons: Number of people by reason; see RequestPolicy.
    """

    frames: int = 0
    boxes: int = 0
    people: int = 0
    requests: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def with_frame(self, ids: Sequence[TrackerId | None]) -> TrackCounts:
        """Return the counts with another frame.

        Args:
            ids: The tracker's ids of its boxes.
        """
        boxes = self.boxes + sum(name is not None for name in ids)
        return replace(self, frames=self.frames + 1, boxes=boxes)

    def with_request(self, questions: Sequence[Question]) -> TrackCounts:
        """Return the counts with another request.

        Args:
            questions: The people that the server was asked about.
        """
        reasons = Counter(question.reason for question in questions)
        return replace(
            self,
            people=self.people + len(questions),
            requests=self.requests + 1,
            reasons=Counter(self.reasons) + Counter(reasons),
        )


@dataclass(frozen=True)
class Question:
    """A person that the server is to be asked about.

    Attributes:
        tracker_id: The tracker's id.
        sighting: The box, and its quality.
        reason: Why the server is asked.
    """

    tracker_id: TrackerId
    sighting: Sighting
    reason: Reason


@dataclass(frozen=True)
class Plan:
    """A frame, and the people in it that the server is to be asked about.

    Attributes:
        tracker_ids: The tracker's id of each box of the frame; None without one.
        questions: The people to ask about.
    """

    tracker_ids: tuple[TrackerId | None, ...]
    questions: tuple[Question, ...]

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """Boxes of the people to ask about, FP32 [M, 4]."""
        rows = [question.sighting.box for question in self.questions]
        return np.array(rows, np.float32).reshape(-1, 4)


class TrackTable:
    """All tracks that can be seen again.

    Args:
        policy: When the server is asked about a person.
        lost: Tracks that can be recognised; None if people are not recognised.
        rate_hz: Frames per second, for frames without a time.
        lost_s: Time after which an absent track ends, in seconds.
        max_tracks: Largest number of tracks; the longest absent ones end.

    Attributes:
        ended: Tracks that have ended, for the caller to take.

    Raises:
        InvalidInputError: If a number is out of its range.
    """

    def __init__(
        self,
        policy: RequestPolicy,
        lost: LostTracks | None,
        *,
        rate_hz: float,
        lost_s: float,
        max_tracks: int,
    ) -> None:
        if not (rate_hz > 0 and lost_s >= 0 and max_tracks >= 1):
            raise InvalidInputError(
                "expected rate_hz over 0, lost_s of at least 0 and max_tracks of at "
                f"least 1, got {rate_hz}, {lost_s} and {max_tracks}"
            )
        self.ended: list[Track] = []
        self._policy = policy
        self._lost = lost
        self._rate_hz = rate_hz
        self._lost_s = lost_s
        self._max_tracks = max_tracks
        # in the order of the latest sightings
        self._states: OrderedDict[int, TrackState] = OrderedDict()
        self._by_tracker: dict[TrackerId, TrackState] = {}
        self._started = 0
        self._time_s = -math.inf
        self._counts = TrackCounts()

    @property
    def counts(self) -> TrackCounts:
        """Numbers of frames, boxes and requests so far."""
        return self._counts

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._states

    def plan(
        self,
        frame: ImageInput,
        boxes: TrackedBoxes,
        ids: Any = None,
        time_s: float | None = None,
    ) -> Plan:
        """Add the people of a frame, and choose those to ask about.

        Args:
            frame: See Tracks.update.
            boxes: See Tracks.update.
            ids: See Tracks.update.
            time_s: See Tracks.update.

        Returns:
            The plan, to be passed to `apply` or `cancel`.

        Raises:
            InvalidInputError: See Tracks.update.
        """
        result = read_result(boxes, ids)
        loaded = LoadedFrame.from_image(frame)
        self._time_s = time_s = self._check_frame(result.ids, time_s)
        image = ImageReference(frame)
        questions = []
        qualities = rate_boxes(loaded, result.boxes)
        for name, box, quality in zip(result.ids, result.boxes, qualities, strict=True):
            if name is None:
                continue
            sighting = Sighting(time_s, box, quality, loaded.cut(box), image)
            state = self._add_sighting(name, sighting)
            reason = self._choose_reason(state)
            if reason is not None:
                state.is_pending = True
                questions.append(Question(name, state.latest, reason))
        self._counts = self._counts.with_frame(result.ids)
        self._end_absent()
        return Plan(result.ids, tuple(questions))

    def apply(self, plan: Plan, people: People | None) -> list[Track | None]:
        """Add the answers to a plan, and return the tracks of its frame.

        Args:
            plan: The plan.
            people: The answers, in the order of `plan.boxes`; None if the plan asks
                about no person.

        Returns:
            A Track for each box of the frame, None for a box without an id.
        """
        self.cancel(plan)
        if people is not None:
            self._counts = self._counts.with_request(plan.questions)
            role = people.roles.get(people.gender_role)
            newcomers = [
                state
                for question, person in zip(plan.questions, people, strict=True)
                if (state := self._add_answer(question, Answer(person, role)))
                is not None
                and state.embedding.count <= RECOGNISED_ANSWERS
            ]
            self._recognise(plan, newcomers)
        return [self._snapshot(name) for name in plan.tracker_ids]

    def cancel(self, plan: Plan) -> None:
        """Give up a plan, so that its people are asked about again.

        Args:
            plan: The plan.
        """
        for question in plan.questions:
            if (state := self._by_tracker.get(question.tracker_id)) is not None:
                state.is_pending = False

    def snapshots(self) -> list[Track]:
        """Return all tracks that can be seen again, by id."""
        return [self._states[id_].snapshot() for id_ in sorted(self._states)]

    def end_all(self) -> None:
        """End all tracks."""
        for id_ in sorted(self._states):
            self._end(self._states[id_])

    def _check_frame(
        self, ids: tuple[TrackerId | None, ...], time_s: float | None
    ) -> float:
        """Return the time of a frame; refuse what cannot be added."""
        if len(ids) > self._max_tracks:
            raise InvalidInputError(
                f"{len(ids)} people in a frame; expected at most max_tracks="
                f"{self._max_tracks}"
            )
        if time_s is None:
            time_s = self._counts.frames / self._rate_hz
        if not self._time_s <= time_s < math.inf:
            raise InvalidInputError(
                f"time_s={time_s:g}: expected a number of seconds, not before the "
                f"previous frame's {self._time_s:g}"
            )
        return time_s

    def _add_sighting(self, name: TrackerId, sighting: Sighting) -> TrackState:
        state = self._by_tracker.get(name)
        if state is None:
            state = self._start(name, sighting)
        state.add_sighting(sighting)
        self._states.move_to_end(state.id)
        return state

    def _start(self, name: TrackerId, sighting: Sighting) -> TrackState:
        self._started += 1
        state = TrackState(self._started, name, sighting, sighting.time_s)
        self._states[state.id] = self._by_tracker[name] = state
        return state

    def _choose_reason(self, state: TrackState) -> Reason | None:
        if state.is_pending:
            return None
        view = state.view()
        if self._lost is None:  # there is nothing to compare with
            view = replace(view, in_doubt=False)
        return self._policy.choose_reason(view)

    def _add_answer(self, question: Question, answer: Answer) -> TrackState | None:
        """Add an answer to the track that it belongs to, and return that track."""
        state = self._by_tracker.get(question.tracker_id)
        if state is None:
            return None  # it ended while the server was asked
        if self._lost is not None:
            match state.judge(question.sighting, answer, self._lost.similarity):
                case "suspect":
                    return None
                case "other person":
                    state = self._split(state)
                case "same person":
                    pass
        state.add_answer(question.sighting, answer)
        return state

    def _split(self, state: TrackState) -> TrackState:
        """Start a track for the person that the tracker's id has moved to."""
        assert state.suspect is not None  # noqa: S101 - see TrackState.judge
        assert state.tracker_id is not None  # noqa: S101 - it is in _by_tracker
        sighting, answer = state.suspect
        other = self._start(state.tracker_id, sighting)
        other.add_sighting(sighting)
        other.add_answer(sighting, answer)
        other.add_sighting(state.latest)
        state.withdraw()
        return other

    def _recognise(self, plan: Plan, newcomers: list[TrackState]) -> None:
        """Join tracks that have just started with lost ones of the same people."""
        people = [state.person() for state in newcomers]
        embeddings = [
            person.embedding
            for person in people
            if person is not None and person.embedding is not None
        ]
        if self._lost is None or len(embeddings) < len(newcomers) or not newcomers:
            return
        present = {
            id(self._by_tracker.get(name))
            for name in plan.tracker_ids
            if name is not None
        }
        self._lost.hold(
            {
                id_: state
                for id_, state in self._states.items()
                if id(state) not in present and state.is_like(newcomers[0])
            }
        )
        for state, id_ in zip(newcomers, self._lost.recognise(embeddings), strict=True):
            # people who were in a frame together are two
            if id_ is not None and self._states[id_].last_s < state.first_s:
                self._join(self._states[id_], state)

    def _join(self, earlier: TrackState, later: TrackState) -> None:
        assert self._lost is not None  # noqa: S101 - the caller has asked it
        self._lost.remove([earlier.id])
        self._forget(earlier)
        del self._states[later.id]
        earlier.absorb(later)
        self._states[earlier.id] = earlier
        if later.tracker_id is not None:
            self._by_tracker[later.tracker_id] = earlier

    def _end_absent(self) -> None:
        """End tracks that were absent for too long, or that are too many."""
        for state in list(self._states.values()):
            is_over = state.last_s < self._time_s - self._lost_s
            if not is_over and len(self._states) <= self._max_tracks:
                return
            self._end(state)

    def _end(self, state: TrackState) -> None:
        if self._lost is not None:
            self._lost.remove([state.id])
        self._forget(state)
        self.ended.append(state.snapshot())

    def _forget(self, state: TrackState) -> None:
        del self._states[state.id]
        if state.tracker_id is not None:
            self._by_tracker.pop(state.tracker_id, None)

    def _snapshot(self, name: TrackerId | None) -> Track | None:
        state = None if name is None else self._by_tracker.get(name)
        return None if state is None else state.snapshot()
