"""People followed through a video, with a row for each when it has left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from personserve._client import Client
from personserve._errors import InvalidInputError
from personserve.cli.analysis import DEFAULT_RATE_HZ, choose_rate
from personserve.cli.drawing import write_image
from personserve.cli.frames import Frame, Video
from personserve.cli.interrupts import (
    deferred_interrupt,
    exit_if_interrupted,
    print_interruption,
)
from personserve.cli.output import print_json
from personserve.cli.results import Results
from personserve.cli.sources import Source
from personserve.cli.tables import TrackFile
from personserve.cli.timeline import Timeline
from personserve.cli.trackers import ByteTracker
from personserve.cli.videos import VideoFile
from personserve.gallery import MemoryGallery
from personserve.tracks import Track, Tracks
from personserve.tracks.annotation import annotate_tracks

TRACKS_HEADER = (
    f"{'track':>8} {'from':>10} {'to':>10} {'frames':>8} {'answers':>8}  gender"
)


@dataclass
class TrackOutputs:
    """Where tracks are written, besides the terminal.

    Attributes:
        table: A file that receives one row for each track.
        timeline: File for the image of the timeline; None for none.
        same_person: Cosine similarity from which on a person who comes back is
            recognised; None to give each track of the tracker its own number.
    """

    table: TrackFile
    timeline: Path | None = None
    same_person: float | None = None


class _Report:
    """Shows each track that has ended."""

    def __init__(self, source: str, outputs: TrackOutputs, results: Results) -> None:
        self._source = source
        self._outputs = outputs
        self._results = results
        self.timeline = Timeline(Path(source).name)
        self.count = 0

    def add(self, track: Track) -> None:
        results = self._results
        if track.person is not None:
            names = (*results.stand_ins, *track.person.stand_in_weights)
            results.stand_ins = tuple(dict.fromkeys(names))
        if not self.count:
            results.print_text(TRACKS_HEADER)
        self.count += 1
        self.timeline.add(track)
        self._outputs.table.write(self._source, track)
        if results.as_json:
            values = track.to_dict(embedding=results.embeddings)
            print_json({"source": self._source, **values})
        else:
            answers = max(track.gender_count, track.embedding_count)
            gender = "" if track.gender is None else str(track.gender)
            results.print_text(
                f"{track.id:>8} {track.first_s:>8.2f} s {track.last_s:>8.2f} s "
                f"{track.frame_count:>8} {answers:>8}  {gender}"
            )


def show_tracks(
    client: Client,
    source: Source,
    limit: int | None,
    output: Path | None,
    outputs: TrackOutputs,
    results: Results,
) -> None:
    """Follow the people in a video, and show a row for each when it has left.

    Ctrl-C ends the video early. What was analysed until then, or until an error, is
    written and reported.

    Args:
        client: The client.
        source: A video file, a camera or a stream.
        limit: Number of frames of a camera or a stream; see Video.read.
        output: File for the annotated video; None for none.
        outputs: The table, and the timeline.
        results: Where the results are shown.

    Raises:
        PersonServeError: The video cannot be read or written, or a request failed.
        typer.Exit: Ctrl-C ended a video file; the exit code is INTERRUPTED.
    """
    tracker = ByteTracker()
    with results.waiting(f"opening {source.name}"):
        video = Video(source)
    report = _Report(source.name, outputs, results)
    tracks = Tracks(
        client,
        gallery=_open_gallery(outputs.same_person),
        on_end=report.add,
        model=results.model,
    )
    with video, deferred_interrupt() as stop:
        if limit is not None and not video.is_live:
            raise InvalidInputError(
                "--frames: frames that are sampled from a video are too far apart to "
                "follow people; leave it out, or leave out --tracks"
            )
        rate_hz, rate_text = choose_rate(video, limit)
        file = VideoFile(output, rate_hz)
        try:
            with file, results.progress() as progress:
                task = progress.add_task("following", total=video.count(limit))
                frames = _read_frames(video, limit, stop)
                for count, (frame, time_s) in enumerate(frames, start=1):
                    numbers = tracker.update(frame.boxes, time_s)
                    latest = tracks.update(
                        frame.pixels, frame.boxes, numbers, time_s=time_s
                    )
                    if output is not None:
                        file.write(annotate_tracks(frame.pixels, latest))
                    progress.update(task, completed=count)
        finally:
            tracks.end()
            _finish(video, tracks, report, outputs, results)
            if file.codec:
                results.written.append(f"{output}: {file.codec}; {rate_text}")
            if stop.is_set():
                print_interruption(video, tracks.counts.frames, limit)
    exit_if_interrupted(video, stop)


def _finish(
    video: Video,
    tracks: Tracks,
    report: _Report,
    outputs: TrackOutputs,
    results: Results,
) -> None:
    """Write the timeline, and report the number of tracks."""
    counts = tracks.counts
    results.frame_count += counts.frames
    results.detection_count += counts.boxes
    of_all = "" if video.frame_count is None else f" (of {video.frame_count})"
    results.print_text(
        f"{counts.frames} frames{of_all}, {counts.boxes} detections, {report.count} "
        f"tracks; the server was asked about {counts.people} detections in "
        f"{counts.requests} requests"
    )
    if outputs.timeline is not None and report.count:
        write_image(outputs.timeline, report.timeline.draw())
        results.written.append(str(outputs.timeline))
    if outputs.table.path is not None and report.count:
        results.written.append(f"{outputs.table.path}: {report.count} rows")


def _read_frames(
    video: Video, limit: int | None, stop: Event
) -> Iterator[tuple[Frame, float]]:
    """Yield each frame with its time, which a source without a rate does not have."""
    for frame in video.read(limit, stop):
        time_s = frame.time_s
        yield frame, (frame.index or 0) / DEFAULT_RATE_HZ if time_s is None else time_s


def _open_gallery(same_person: float | None) -> MemoryGallery | None:
    if same_person is None:
        return None
    gallery = MemoryGallery()
    gallery.set_threshold(same_person)
    return gallery
