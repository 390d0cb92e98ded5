"""Analysis of the people in images and videos, with output as it proceeds."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import typer

from personserve._client import Client
from personserve._defaults import DEFAULT_IN_FLIGHT
from personserve._errors import InvalidInputError
from personserve._results import People, annotate
from personserve.cli.answers import (
    IMAGES_HEADER,
    VIDEO_HEADER,
    print_frame_row,
    print_people,
)
from personserve.cli.detection import detect_people
from personserve.cli.drawing import write_image
from personserve.cli.frames import Frame, Video
from personserve.cli.interrupts import (
    INTERRUPTED,
    deferred_interrupt,
    exit_if_interrupted,
    print_interruption,
)
from personserve.cli.options import error_console, print_error
from personserve.cli.output import print_plain
from personserve.cli.results import Results
from personserve.cli.sources import Source
from personserve.cli.videos import VideoFile

LIVE_RATE_HZ = 10.0
"""Frame rate of the annotated video of a camera; frames are repeated or left out so
that it runs in real time."""

DEFAULT_RATE_HZ = 25.0
"""Frame rate of a video whose file states none."""

LISTED_FILES = 5
"""Number of written images that are named one by one."""

MIN_RATE_HZ = 1.0
"""Lowest frame rate of a video of sampled frames."""


def show_image(
    client: Client, frame: Frame, output: Path | None, results: Results
) -> None:
    """Analyse the people in an image, and print and draw the results.

    Args:
        client: The client.
        frame: The image and the boxes of its people.
        output: File for the annotated image; None for none.
        results: Where the results are shown.

    Raises:
        PersonServeError: The request failed, or a file cannot be written.
    """
    people = client.attributes(
        frame.pixels, frame.boxes, model=results.model, crop_on="auto"
    )
    if output is not None:
        write_image(output, annotate(frame.pixels, people))
        results.written.append(str(output))
    results.add(frame, frame.name, people)
    if not results.as_json:
        print_people(people, results.console)


def show_images(
    client: Client,
    images: Sequence[tuple[Source, Path | None]],
    timeout_s: float,
    results: Results,
) -> None:
    """Analyse the people in several images, and show a line for each.

    An image that cannot be read is reported and counted in `results.unreadable`, and
    the others are analysed. Ctrl-C ends the images early.

    Args:
        client: The client.
        images: Each image with the file for the annotated one, or None.
        timeout_s: Deadline of a download in seconds.
        results: Where the results are shown.

    Raises:
        PersonServeError: A request failed, or a file cannot be written.
        typer.Exit: Ctrl-C; the exit code is INTERRUPTED.
    """
    outputs = {source.name: output for source, output in images}
    drawn: list[Path] = []
    results.print_text(IMAGES_HEADER)
    with deferred_interrupt() as stop:
        frames = _read_images(
            [source for source, _ in images], timeout_s, stop, results
        )
        try:
            with results.progress() as progress:
                task = progress.add_task("analysing", total=len(images))
                for frame, people in _analyse_frames(client, frames, results.model):
                    output = outputs[frame.name]
                    if output is not None:
                        write_image(output, annotate(frame.pixels, people))
                        drawn.append(output)
                    results.add(frame, frame.name, people)
                    if not results.as_json:
                        print_frame_row(frame, people, results.console)
                    done = results.frame_count + results.unreadable
                    progress.update(task, completed=done)
        finally:
            results.print_text(
                f"{results.frame_count} images, {results.detection_count} detections"
            )
            results.written += _summarise(drawn)
    if stop.is_set():
        text = f"interrupted after {results.frame_count} of {len(images)} images"
        print_plain(text, error_console)
        raise typer.Exit(INTERRUPTED)


def show_video(
    client: Client,
    source: Source,
    limit: int | None,
    output: Path | None,
    results: Results,
) -> None:
    """Analyse the people in a video, several frames at a time, and show each frame.

    Ctrl-C ends the video early. What was analysed until then, or until an error, is
    written and reported.

    Args:
        client: The client.
        source: A video file, a camera or a stream.
        limit: Number of frames; see Video.read.
        output: File for the annotated video; None for none.
        results: Where the results are shown.

    Raises:
        PersonServeError: The video cannot be read or written, or a request failed.
        typer.Exit: Ctrl-C ended a video file; the exit code is INTERRUPTED.
    """
    with results.waiting(f"opening {source.name}"):
        video = Video(source)
    before = results.frame_count, results.detection_count
    with video, deferred_interrupt() as stop:
        rate_hz, rate_text = choose_rate(video, limit)
        file = VideoFile(output, rate_hz)
        try:
            with file, results.progress() as progress:
                task = progress.add_task("analysing", total=video.count(limit))
                for count in _show_frames(client, video, limit, stop, file, results):
                    progress.update(task, completed=count)
        finally:
            count = results.frame_count - before[0]
            if stop.is_set():
                print_interruption(video, count, limit)
            of_all = "" if video.frame_count is None else f" (of {video.frame_count})"
            results.print_text(
                f"{count} frames{of_all}, {results.detection_count - before[1]} "
                "detections; a person counts once in each frame"
            )
            if file.codec:
                results.written.append(f"{output}: {file.codec}; {rate_text}")
    exit_if_interrupted(video, stop)


def choose_rate(video: Video, limit: int | None) -> tuple[float, str]:
    """Choose the frame rate of an annotated video.

    Args:
        video: The source.
        limit: Number of frames; see Video.read.

    Returns:
        Frames per second, and a text that explains the choice.
    """
    if video.is_live:
        return LIVE_RATE_HZ, f"{LIVE_RATE_HZ:g} frames/s in real time"
    if video.rate_hz is None:
        return DEFAULT_RATE_HZ, (
            f"{DEFAULT_RATE_HZ:g} frames/s, because the source states no rate"
        )
    count = video.count(limit)
    if limit is None or count is None or count == video.frame_count:
        return video.rate_hz, f"{video.rate_hz:g} frames/s as the source"
    sampled_hz = video.rate_hz * count / (video.frame_count or count)
    if sampled_hz >= MIN_RATE_HZ:
        return sampled_hz, (
            f"{sampled_hz:.3g} frames/s, so that it takes as long as the source"
        )
    return MIN_RATE_HZ, (
        f"{MIN_RATE_HZ:g} frame/s, {MIN_RATE_HZ / sampled_hz:.3g} times as fast as the "
        "source"
    )


def _read_images(
    sources: Sequence[Source], timeout_s: float, stop: Event, results: Results
) -> Iterator[Frame]:
    """Read the images and detect the people in each, until `stop` is set."""
    for source in sources:
        if stop.is_set():
            return
        try:
            pixels = source.read_image(timeout_s)
        except InvalidInputError as exc:
            print_error(str(exc))
            results.unreadable += 1
        else:
            yield Frame(source.name, pixels, detect_people(pixels))


def _summarise(paths: Sequence[Path]) -> list[str]:
    """Name each of a few files, or the number of many and their folder."""
    if len(paths) <= LISTED_FILES:
        return [str(path) for path in paths]
    folder = os.path.commonpath([path.parent for path in paths])
    return [f"{len(paths)} annotated images to {folder}"]


def _show_frames(
    client: Client,
    video: Video,
    limit: int | None,
    stop: Event,
    file: VideoFile,
    results: Results,
) -> Iterator[int]:
    """Analyse, draw and print the frames; yield how many there were so far."""
    start_s = 0.0
    written = count = 0
    frames = video.read(limit, stop)
    # each row of a live source is shown before the next frame is taken
    in_flight = 1 if video.is_live else DEFAULT_IN_FLIGHT
    pairs = _analyse_frames(client, frames, results.model, in_flight)
    with closing(pairs) as analysed:
        for count, (frame, people) in enumerate(analysed, start=1):
            repeats = 1
            if video.is_live:
                time_s = frame.time_s or 0.0
                start_s = time_s if count == 1 else start_s
                due = round((time_s - start_s) * LIVE_RATE_HZ) + 1
                repeats = max(0, due - written)
            file.write(annotate(frame.pixels, people), repeats)
            written += repeats
            if count == 1:
                results.print_text(VIDEO_HEADER)
            results.add(frame, video.source.name, people)
            if not results.as_json:
                print_frame_row(frame, people, results.console)
            yield count


def _analyse_frames(
    client: Client,
    frames: Iterable[Frame],
    model: str,
    in_flight: int = DEFAULT_IN_FLIGHT,
) -> Generator[tuple[Frame, People], None, None]:
    pending: deque[Frame] = deque()

    def requests() -> Iterator[tuple[Any, Any]]:
        for frame in frames:
            pending.append(frame)
            yield frame.pixels, frame.boxes

    stream = client.attributes_stream(
        requests(), in_flight=in_flight, model=model, crop_on="auto"
    )
    for people in stream:
        yield pending.popleft(), people
