"""The `tracks` command: requests that following people saves, and its accuracy.

A video is analysed twice: with `personserve.Tracks`, and by asking the server about
every box. People are detected by OpenCV's HOG and followed by ByteTrack, as by
`personserve attributes VIDEO --tracks`. Three figures are compared: people asked about,
the genders of the tracks, and how often the gender of a person changes from one frame
to the next.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track as show_progress

from loadtest.app import app
from loadtest.errors import LoadTestError
from loadtest.facts import describe_models, describe_server, describe_session
from loadtest.options import (
    DEFAULT_FRAME_MODEL,
    GRPC_ADDRESS,
    HTTP_ADDRESS,
    GrpcAddress,
    HttpAddress,
    ReportFolder,
)
from personserve import Client, Gender, People, Person, RequestPolicy, Track, Tracks
from personserve.cli.detection import detect_people
from personserve.cli.trackers import ByteTracker
from personserve.internal.report import Report, page_link
from personserve.internal.sections import Table

CALL_TIMEOUT_S = 120.0

Item = TypeVar("Item")

Labels = Iterator[tuple[int, str | None]]
"""The tracker's number of each person, and the label of the gender."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TrackedFrame:
    """A frame of a video, and the people in it.

    Attributes:
        pixels: UINT8 [H, W, 3] in BGR order.
        boxes: FP32 [N, 4].
        numbers: The tracker's number of each person.
    """

    pixels: Pixels
    boxes: npt.NDArray[np.float32]
    numbers: Sequence[int]


@dataclass
class TrackedVideo:
    """A video whose people were detected and followed.

    Iteration reads the frames from the file, because they need not fit in memory.

    Attributes:
        path: The file.
        rate_hz: Frames per second.
        boxes: Boxes of each frame.
        numbers: The tracker's number of each person of each frame.
    """

    path: Path
    rate_hz: float
    boxes: list[npt.NDArray[np.float32]] = field(default_factory=list)
    numbers: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[TrackedFrame]:
        capture = cv2.VideoCapture(str(self.path))
        try:
            for boxes, numbers in zip(self.boxes, self.numbers, strict=True):
                pixels = np.asarray(capture.read()[1], np.uint8)
                yield TrackedFrame(pixels, boxes, numbers)
        finally:
            capture.release()


@dataclass
class Run:
    """What one way of asking has answered.

    Attributes:
        people: Number of people that the server was asked about.
        requests: Number of requests.
        seconds: Time that the calls took.
        labels: For each person the gender's label in each frame, in order; None before
            the first answer.
        tracks: The tracks at the end, by the tracker's number.
    """

    people: int = 0
    requests: int = 0
    seconds: float = 0.0
    labels: dict[int, list[str | None]] = field(
        default_factory=lambda: defaultdict(list)
    )
    tracks: dict[int, Track] = field(default_factory=dict)

    @property
    def flips(self) -> int:
        """How often a label differs from that of the same person one frame before."""
        return sum(count_flips(labels) for labels in self.labels.values())


@dataclass(frozen=True)
class Comparison:
    """The figures of a video.

    Attributes:
        frames: Number of frames.
        boxes: Number of boxes.
        tracks: Number of tracks.
        people: Number of people asked about by Tracks.
        requests: Number of requests by Tracks.
        requests_for_all: Number of requests that ask about every box.
        seconds: Time of the calls of Tracks.
        seconds_for_all: Time of the calls that ask about every box.
        agreement: Share of the boxes whose track has the same gender as the mean of the
            answers about every box, however probable it is.
        decided: Share of the boxes whose track's gender is not abstained, in both.
        decided_agreement: Agreement as a share of these.
        similarity: Mean cosine similarity of the tracks' embeddings to those means.
        flips: Changes of the gender of a track, as it is known at each frame.
        flips_for_all: Changes of the gender that is answered about each box.
    """

    frames: int
    boxes: int
    tracks: int
    people: int
    requests: int
    requests_for_all: int
    seconds: float
    seconds_for_all: float
    agreement: float
    decided: float
    decided_agreement: float
    similarity: float
    flips: int
    flips_for_all: int


@app.command()
def tracks(
    video: Annotated[
        Path,
        typer.Argument(help="A video with people, for example OpenCV's vtest.avi."),
    ],
    grpc: GrpcAddress = GRPC_ADDRESS,
    http: HttpAddress = HTTP_ADDRESS,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Use the first frames only. Default: all frames."),
    ] = None,
    abstain_below: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Genders that are less probable than this are undecided.",
        ),
    ] = 0.55,
    output: ReportFolder = Path("reports/tracks"),
) -> None:
    """Measure what following people saves, compared with asking about every box."""
    console = Console(width=130)
    tracked = _follow_people(video, frames)
    if not any(map(len, tracked.boxes)):
        raise LoadTestError(f"{video}: OpenCV's detector finds no person in it")
    with Client(grpc, timeout_s=CALL_TIMEOUT_S, abstain_below=abstain_below) as client:
        chosen = ask_with_policy(client, tracked)
        everything = ask_about_all(client, tracked)
        stand_ins = client.describe(DEFAULT_FRAME_MODEL).stand_in_weights
    comparison = compare_runs(tracked, chosen, everything)
    facts = describe_session() | {
        "video": f"{video.name}, {tracked.rate_hz:g} frames/s"
    }
    facts |= describe_server(grpc, http, describe_models(http, [DEFAULT_FRAME_MODEL]))
    warning = ""
    if stand_ins:
        warning = (
            f"Untrained weights ({', '.join(stand_ins)}): the genders have no meaning. "
            "Agreement and changes are those of these answers."
        )
    report = Report(
        "People over time",
        facts,
        {"facts": facts, **asdict(comparison)},
        [tabulate(comparison)],
        warning=warning,
    )
    report.print_to(console)
    console.print(f"wrote {page_link(report.write(output))}", soft_wrap=True)


def count_flips(labels: Iterable[str | None]) -> int:
    """Count how often a label differs from the one before.

    Args:
        labels: Labels in order; None is skipped.

    Returns:
        The number of changes.
    """
    known = [label for label in labels if label is not None]
    return sum(a != b for a, b in pairwise(known))


def ask_with_policy(client: Client, video: TrackedVideo) -> Run:
    """Analyse a video with Tracks.

    Args:
        client: The client.
        video: The video.

    Returns:
        What was answered; the label of a frame is the one known then.
    """

    def read_labels(frame: TrackedFrame, latest: Sequence[Track | None]) -> Labels:
        for number, track in zip(frame.numbers, latest, strict=True):
            yield number, _label_of(None if track is None else track.gender)

    return _run(client, video, RequestPolicy(), read_labels)


def ask_about_all(client: Client, video: TrackedVideo) -> Run:
    """Analyse a video by asking about every box.

    Args:
        client: The client.
        video: The video.

    Returns:
        What was answered; the label of a frame is that of its own answer.
    """
    recording = _RecordingClient(client)

    def read_labels(frame: TrackedFrame, _latest: Sequence[Track | None]) -> Labels:
        boxes = map(tuple, frame.boxes.tolist())
        numbers = dict(zip(boxes, frame.numbers, strict=True))
        for person in recording.take():
            if person.box is not None:
                yield numbers[person.box], _label_of(person.gender)

    # the client's attributes() is all that Tracks uses
    return _run(
        cast("Client", recording), video, RequestPolicy.every_box(), read_labels
    )


def _run(
    client: Client,
    video: TrackedVideo,
    policy: RequestPolicy,
    read_labels: Callable[[TrackedFrame, Sequence[Track | None]], Labels],
) -> Run:
    run = Run()

    def keep(track: Track) -> None:
        if isinstance(track.tracker_id, int):
            run.tracks[track.tracker_id] = track

    followed = Tracks(client, rate_hz=video.rate_hz, policy=policy, on_end=keep)
    for frame in _show(video, "asking the server"):
        start_s = time.perf_counter()
        latest = followed.update(frame.pixels, frame.boxes, frame.numbers)
        run.seconds += time.perf_counter() - start_s
        for number, label in read_labels(frame, latest):
            run.labels[number].append(label)
    followed.end()
    run.people, run.requests = followed.counts.people, followed.counts.requests
    return run


def compare_runs(video: TrackedVideo, chosen: Run, everything: Run) -> Comparison:
    """Compare both ways of asking.

    Args:
        video: The video.
        chosen: What Tracks has answered.
        everything: The answers about every box.

    Returns:
        The figures.
    """
    counts = {number: len(labels) for number, labels in chosen.labels.items()}
    genders = {
        number: (track.gender, everything.tracks[number].gender)
        for number, track in chosen.tracks.items()
    }
    boxes, same, decided, decided_same = sum(counts.values()), 0, 0, 0
    for number, (gender, other) in genders.items():
        is_same = _label_of(gender) == _label_of(other)
        same += is_same * counts[number]
        if gender is None or other is None or gender.abstained or other.abstained:
            continue
        decided += counts[number]
        decided_same += is_same * counts[number]
    similarities = [
        float(first.embedding @ second)
        for number, first in chosen.tracks.items()
        if (second := everything.tracks[number].embedding) is not None
        and first.embedding is not None
    ]
    return Comparison(
        frames=len(video),
        boxes=boxes,
        tracks=len(counts),
        people=chosen.people,
        requests=chosen.requests,
        requests_for_all=everything.requests,
        seconds=chosen.seconds,
        seconds_for_all=everything.seconds,
        agreement=same / boxes,
        decided=decided / boxes,
        decided_agreement=decided_same / decided if decided else float("nan"),
        similarity=float(np.mean(similarities)) if similarities else float("nan"),
        flips=chosen.flips,
        flips_for_all=everything.flips,
    )


def tabulate(figures: Comparison) -> Table:
    """Return a table of the figures.

    Args:
        figures: The figures.
    """
    boxes, people = figures.boxes, figures.people
    flips = figures.flips / max(1, figures.flips_for_all)
    rows = [
        [
            "people asked about",
            f"{boxes}",
            f"{people}",
            f"{boxes / people:.1f} x fewer",
        ],
        [
            "requests",
            f"{figures.requests_for_all}",
            f"{figures.requests}",
            f"{figures.requests_for_all / figures.requests:.1f} x fewer",
        ],
        [
            "time of the calls, s",
            f"{figures.seconds_for_all:.1f}",
            f"{figures.seconds:.1f}",
            f"{figures.seconds_for_all / figures.seconds:.1f} x less",
        ],
        ["gender of the track", "", "", f"{figures.agreement:.1%} of boxes agree"],
        [
            f"gender of the track, {figures.decided:.0%} of boxes decided",
            "",
            "",
            f"{figures.decided_agreement:.1%} of these agree",
        ],
        ["embedding of the track", "", "", f"mean cosine {figures.similarity:.4f}"],
        [
            "changes of the gender between frames",
            f"{figures.flips_for_all}",
            f"{figures.flips}",
            f"{flips:.1%} of them",
        ],
    ]
    title = f"{figures.frames} frames, {boxes} boxes, {figures.tracks} tracks"
    return Table(title, ["figure", "every box", "Tracks", "comparison"], rows)


class _RecordingClient:
    """A client that records the people of the latest frame."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._people: list[Person] = []

    def attributes(self, *arguments: Any, **options: Any) -> People:
        people = self._client.attributes(*arguments, **options)
        self._people = list(people)
        return people

    def take(self) -> list[Person]:
        """Return the people of the latest call, once."""
        people, self._people = self._people, []
        return people


def _follow_people(path: Path, limit: int | None) -> TrackedVideo:
    """Detect and number the people of a video."""
    capture = cv2.VideoCapture(str(path))
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    if not capture.isOpened() or not rate_hz > 0:
        raise LoadTestError(f"{path}: OpenCV cannot read it as a video")
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    video = TrackedVideo(path, rate_hz)
    tracker = ByteTracker()
    for index in _show(
        range(count if limit is None else min(limit, count)), "detecting"
    ):
        readable, image = capture.read()
        if not readable:
            break
        boxes = detect_people(np.asarray(image, np.uint8))
        video.boxes.append(boxes)
        video.numbers.append(tracker.update(boxes, index / rate_hz))
    capture.release()
    return video


def _show(frames: Iterable[Item], doing: str) -> Iterator[Item]:
    console = Console(stderr=True)
    yield from show_progress(frames, doing, console=console, transient=True)


def _label_of(gender: Gender | None) -> str | None:
    return None if gender is None else gender.label
