"""Tracks of people, for the synchronous and the asynchronous client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, TypedDict

from personserve._async_client import AsyncClient
from personserve._client import Client
from personserve._results import People
from personserve._results.html import describe_untrained
from personserve._types import CropSide, ImageInput
from personserve.gallery import BaseGallery
from personserve.tracks.lost import LostTracks
from personserve.tracks.policy import RequestPolicy
from personserve.tracks.results import TrackedBoxes
from personserve.tracks.table import Plan, TrackCounts, TrackTable
from personserve.tracks.track import Track, render_tracks

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_RATE_HZ = 25.0
DEFAULT_LOST_S = 30.0
DEFAULT_MAX_TRACKS = 1000

TrackCallback = Callable[[Track], None]
"""A function that receives a track."""


class TrackOptions(TypedDict, total=False):
    """The arguments of Tracks and AsyncTracks after the client; see Tracks."""

    rate_hz: float
    policy: RequestPolicy | None
    gallery: BaseGallery | None
    camera: str | None
    lost_s: float
    max_tracks: int
    on_end: TrackCallback | None
    model: str | None
    crop_on: CropSide


class _BaseTracks:
    """What both kinds of tracks share: everything but the requests."""

    def __init__(
        self,
        *,
        rate_hz: float = DEFAULT_RATE_HZ,
        policy: RequestPolicy | None = None,
        gallery: BaseGallery | None = None,
        camera: str | None = None,
        lost_s: float = DEFAULT_LOST_S,
        max_tracks: int = DEFAULT_MAX_TRACKS,
        on_end: TrackCallback | None = None,
        model: str | None = None,
        crop_on: CropSide = "auto",
    ) -> None:
        self._table = TrackTable(
            RequestPolicy() if policy is None else policy,
            None if gallery is None else LostTracks(gallery, camera),
            rate_hz=rate_hz,
            lost_s=lost_s,
            max_tracks=max_tracks,
        )
        self._on_end = on_end
        self._lock = Lock()
        self._options: dict[str, Any] = {"crop_on": crop_on}
        if model is not None:
            self._options["model"] = model

    @property
    def counts(self) -> TrackCounts:
        """Numbers of frames, boxes and requests so far."""
        with self._lock:
            return self._table.counts

    def __iter__(self) -> Iterator[Track]:
        """Return an iterator over all tracks that have not ended, by id."""
        with self._lock:
            return iter(self._table.snapshots())

    def __len__(self) -> int:
        with self._lock:
            return len(self._table)

    def __contains__(self, id_: object) -> bool:
        with self._lock:
            return id_ in self._table

    def end(self) -> list[Track]:
        """End all tracks, at the end of a video; `on_end` receives them, too.

        Returns:
            The tracks that had not ended, by id.
        """
        with self._locked_table() as table:
            tracks = table.snapshots()
            table.end_all()
        return tracks

    def __repr__(self) -> str:
        return f"<{self._describe(list(self))}>"

    def _repr_html_(self) -> str:
        tracks = list(self)
        return render_tracks(tracks, self._describe(tracks))

    def _describe(self, tracks: list[Track]) -> str:
        counts = self.counts
        stand_ins = {
            name: None
            for track in tracks
            if track.person is not None
            for name in track.person.stand_in_weights
        }
        return (
            f"{type(self).__name__}: {len(tracks)}; asked about {counts.people} of "
            f"{counts.boxes} boxes, in {counts.requests} requests for {counts.frames} "
            f"frames{describe_untrained(tuple(stand_ins))}"
        )

    @contextmanager
    def _plan_frame(
        self, frame: ImageInput, boxes: TrackedBoxes, ids: Any, time_s: float | None
    ) -> Iterator[Plan]:
        """Add a frame, and take back its questions if the block raises an error."""
        with self._locked_table() as table:
            plan = table.plan(frame, boxes, ids, time_s)
        try:
            yield plan
        except BaseException:
            with self._lock:
                self._table.cancel(plan)
            raise

    def _apply(self, plan: Plan, people: People | None) -> list[Track | None]:
        """Add the answers to the questions, and return the people of the frame."""
        with self._locked_table() as table:
            return table.apply(plan, people)

    @contextmanager
    def _locked_table(self) -> Iterator[TrackTable]:
        """Lock the table for a block, and then report the tracks that it has ended."""
        with self._lock:
            try:
                yield self._table
            finally:
                ended, self._table.ended = self._table.ended, []
        if self._on_end is not None:
            for track in ended:
                self._on_end(track)


class Tracks(_BaseTracks):
    """Gender and embedding of each person that a tracker follows, from few requests.

        tracks = Tracks(client, rate_hz=10)
        for track in tracks.update(frame, detections):
            print(track.id, track.gender, track.age_s)

    The server is asked only about people whose answer is worth a request; see
    RequestPolicy. A track's gender is the mean log-odds of its answers, and its
    embedding their mean, both weighted by the size, the visible share and the sharpness
    of the boxes. The client's `abstain_below` applies to the mean.

    With a gallery that has a threshold, people who come back under another id of the
    tracker are recognised and keep their number, and a track is split where the tracker
    has confused two people.

    Tracks are thread-safe and use the time of the video, not a clock: the same frames
    give the same requests. Memory is bounded: by `max_tracks` tracks, each of about 10
    KB without its thumbnail of up to 55 KB.

    Args:
        client: The client.
        rate_hz: Frames per second of the video. It gives the times of frames for which
            `update` gets none.
        policy: When the server is asked about a person. None for the defaults.
        gallery: Gallery for lost tracks, with a threshold; None if people are not
            recognised. Qdrant's is asked while other threads wait.
        camera: Name of the camera in the gallery; needed if several cameras share it.
        lost_s: Time without being seen, in seconds of the video, after which a track
            ends and the person is not recognised any more.
        max_tracks: Largest number of tracks; if there are more, those that were not
            seen for the longest time end.
        on_end: Receives each track that has ended, in the thread of `update` or `end`.
        model: Model for frames; None for the client's default.
        crop_on: See Client.attributes.

    Raises:
        InvalidInputError: If a number is out of its range, or the gallery has no
            threshold.
    """

    def __init__(self, client: Client, **options: Unpack[TrackOptions]) -> None:
        super().__init__(**options)
        self._client = client

    def update(
        self,
        frame: ImageInput,
        boxes: TrackedBoxes,
        ids: Any = None,
        *,
        time_s: float | None = None,
    ) -> list[Track | None]:
        """Add a frame, ask the server about it if needed, and return its people.

        Args:
            frame: See Client.attributes. For an encoded frame, sharpness is not
                considered, and there are no thumbnails.
            boxes: A tracker's result: supervision's Detections with tracker_id,
                ultralytics' Results of model.track(), a list of DeepSORT's tracks, or
                rows (x0, y0, x1, y1, id, ...) as SORT and boxmot return; or boxes as
                for Client.attributes. They may be outside the frame.
            ids: The tracker's ids of the boxes, if `boxes` has none: integers or text,
                None or -1 for a person without an id.
            time_s: Time of the frame in seconds, not before that of the previous one.
                None for its number divided by `rate_hz`.

        Returns:
            A Track for each box, in order; None for a box without an id.

        Raises:
            InvalidInputError: If the frame, the boxes or the ids are invalid.
            PersonServeError: If the server does not answer. The frame's people are
                added nevertheless, and are asked about at the next frame.
        """
        people = None
        with self._plan_frame(frame, boxes, ids, time_s) as plan:
            if plan.questions:
                people = self._client.attributes(frame, plan.boxes, **self._options)
        return self._apply(plan, people)


class AsyncTracks(_BaseTracks):
    """Tracks for asyncio, with the same arguments, methods and results as Tracks.

        tracks = AsyncTracks(client, rate_hz=10)
        for track in await tracks.update(frame, detections):
            print(track.id, track.gender, track.age_s)

    Args:
        client: The client.
        options: See Tracks.

    Raises:
        InvalidInputError: See Tracks.
    """

    def __init__(self, client: AsyncClient, **options: Unpack[TrackOptions]) -> None:
        super().__init__(**options)
        self._client = client

    async def update(
        self,
        frame: ImageInput,
        boxes: TrackedBoxes,
        ids: Any = None,
        *,
        time_s: float | None = None,
    ) -> list[Track | None]:
        """Add a frame, ask the server about it if needed, and return its people.

        Args:
            frame: See Tracks.update.
            boxes: See Tracks.update.
            ids: See Tracks.update.
            time_s: See Tracks.update.

        Returns:
            See Tracks.update.

        Raises:
            InvalidInputError: See Tracks.update.
            PersonServeError: See Tracks.update.
        """
        people = None
        with self._plan_frame(frame, boxes, ids, time_s) as plan:
            if plan.questions:
                people = await self._client.attributes(
                    frame, plan.boxes, **self._options
                )
        return self._apply(plan, people)
