"""The commands about people and faces in images: attributes, kinship."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personserve._errors import InvalidInputError
from personserve.cli.options import (
    DEFAULT_MODEL,
    OPTIONS,
    SOURCES_HELP,
    ModelName,
    command,
    console,
)
from personserve.cli.output import print_json, warn_of_stand_ins
from personserve.images.formats import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from personserve.cli.frames import Frame
    from personserve.cli.sources import Source


@command
def attributes(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help=f"{SOURCES_HELP}, video files, a camera's number (0 is the first) or "
            "a stream's address (rtsp://...).",
        ),
    ],
    boxes: Annotated[
        str | None,
        typer.Option(
            help="People in an image as 'x0,y0,x1,y1 x0,y0,x1,y1 ...' in pixels. "
            "Default: OpenCV's HOG detector, which finds upright pedestrians."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write the annotated image or video to this file; for several "
            "sources, to this folder. Browsers play .webm, and .mp4 if PyAV or ffmpeg "
            "is installed."
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sample this many frames, evenly spaced over the video; of a camera, "
            "the next ones. Default: all frames.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Write one row for each detection to this file: .csv, or .parquet if "
            "PyArrow is installed."
        ),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option(
            "--embeddings",
            help="Include embeddings, such as the 512 numbers of ReID for each person, "
            "in JSON and in the table.",
        ),
    ] = False,
    model: ModelName = DEFAULT_MODEL,
    tracks: Annotated[
        bool,
        typer.Option(
            "--tracks",
            help="Follow people through videos: one result for each person and not for "
            "each detection, from a few requests (the extra `tracks`: pip install "
            "edgefirst-tracker).",
        ),
    ] = False,
    timeline: Annotated[
        Path | None,
        typer.Option(
            help="With --tracks: write an image that shows who was seen when to this "
            "file, for example timeline.png."
        ),
    ] = None,
    same_person: Annotated[
        float | None,
        typer.Option(
            min=-1.0,
            max=1.0,
            help="With --tracks: recognise people who come back, from this cosine "
            "similarity on. It depends on the network; personserve.gallery estimates "
            "it. Default: a lost person gets a new number.",
        ),
    ] = None,
) -> None:
    """Estimate gender and similarity of the people in images, videos or a camera.

    A video is shown frame by frame; with --tracks, person by person. Ctrl-C
    ends it: the annotated video, the table and the timeline are completed with
    what was analysed, and the exit code is 130 (0 for a camera or a stream,
    which has no other end).
    """
    from personserve.cli.analysis import show_image, show_images, show_video
    from personserve.cli.results import Results
    from personserve.cli.sources import Kind, resolve_sources
    from personserve.cli.tables import TableFile, TrackFile
    from personserve.cli.tracking import TrackOutputs, show_tracks

    with OPTIONS.waiting("looking for the images"):
        resolved = resolve_sources(sources, OPTIONS.timeout_s)
    outputs = choose_outputs(resolved, output)
    is_image = [source.kind is Kind.IMAGE for source in resolved]
    if boxes is not None and is_image != [True]:
        raise InvalidInputError("--boxes: expected one image, whose people they are")
    if frames is not None and all(is_image):
        raise InvalidInputError("--frames: expected a video or a camera, got images")
    _check_tracks(is_image, timeline, same_person, tracks=tracks)
    with (
        TableFile(None if tracks else table, embeddings=embeddings) as rows,
        TrackFile(table if tracks else None, embeddings=embeddings) as track_rows,
        OPTIONS.client() as client,
    ):
        results = Results(console, OPTIONS.as_json, embeddings, rows, model=model)
        try:
            if is_image == [True]:
                with results.waiting("analysing"):
                    frame = _read_frame(resolved[0], boxes)
                    show_image(client, frame, outputs[0], results)
                return
            pairs = list(zip(resolved, outputs, strict=True))
            if any(is_image):
                images = [pair for pair in pairs if pair[0].kind is Kind.IMAGE]
                show_images(client, images, OPTIONS.timeout_s, results)
            for source, path in pairs:
                if tracks:
                    to = TrackOutputs(track_rows, timeline, same_person)
                    show_tracks(client, source, frames, path, to, results)
                elif source.kind is not Kind.IMAGE:
                    show_video(client, source, frames, path, results)
        finally:
            results.print_end(client)
    if results.unreadable:
        raise InvalidInputError(
            f"{results.unreadable} of {sum(is_image)} images could not be read"
        )


@command
def kinship(
    face_a: Annotated[
        str,
        typer.Argument(
            help="Image of the first face (JPEG, PNG, WebP): a file or URL."
        ),
    ],
    face_b: Annotated[
        str, typer.Argument(help="Image of the second face: a file or URL.")
    ],
) -> None:
    """Estimate the probability that two faces are related."""
    from personserve.cli.sources import resolve_images

    with OPTIONS.waiting("comparing"), OPTIONS.client() as client:
        images = resolve_images([face_a, face_b], OPTIONS.timeout_s)
        if len(images) != 2:
            raise InvalidInputError(f"expected two images of faces, got {len(images)}")
        first, second = (image.read_image(OPTIONS.timeout_s) for image in images)
        result = client.kinship(first, second)
    if OPTIONS.as_json:
        print_json(
            {
                "related_probability": result.probability,
                "threshold": result.threshold,
                "stand_in_weights": result.stand_in_weights,
            }
        )
        return
    rule = "the server states no threshold"
    if result.related is not None:
        verdict = "related" if result.related.item() else "not related"
        rule = f"{verdict} by the server's threshold of {result.threshold:g}"
    console.print(f"related with a probability of {result.probability:.3f} ({rule})")
    warn_of_stand_ins(result.stand_in_weights, console)


def choose_outputs(sources: Sequence[Source], output: Path | None) -> list[Path | None]:
    """Choose the file for the annotated copy of each source.

    Args:
        sources: Images and videos.
        output: A file for one source; a folder for several, or if it is one already.

    Returns:
        A path for each source, or None for each if there is no output.

    Raises:
        InvalidInputError: Several sources and a file, two sources with one file, or a
            file that is a source itself.
    """
    from personserve.images.videos import VIDEO_SUFFIXES

    if output is None:
        return [None] * len(sources)
    if len(sources) == 1 and not output.is_dir():
        paths = [output]
    elif output.is_file() or output.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise InvalidInputError(
            f"{output}: expected a folder for the annotated copies of {len(sources)} "
            "sources"
        )
    else:
        paths = [output / _name_copy(source) for source in sources]
    taken: dict[Path, str] = {}
    for path, source in zip(paths, sources, strict=True):
        if path in taken:
            raise InvalidInputError(
                f"{path}: {taken[path]} and {source.name} would both be written to it"
            )
        if path.exists() and any(
            Path(each.name).exists() and path.samefile(each.name) for each in sources
        ):
            raise InvalidInputError(f"{path}: its annotated copy would replace it")
        taken[path] = source.name
    return list(paths)


def _check_tracks(
    is_image: Sequence[bool],
    timeline: Path | None,
    same_person: float | None,
    *,
    tracks: bool,
) -> None:
    """Refuse sources and options that do not fit --tracks."""
    if tracks and any(is_image):
        raise InvalidInputError("--tracks: expected videos or a camera, got images")
    for name, value in (("--timeline", timeline), ("--same-person", same_person)):
        if value is not None and not tracks:
            raise InvalidInputError(f"{name} needs --tracks")
    if timeline is not None and len(is_image) > 1:
        raise InvalidInputError(
            f"--timeline: expected one video, got {len(is_image)} sources"
        )


def _name_copy(source: Source) -> str:
    from personserve.cli.sources import Kind

    if source.kind is Kind.IMAGE:
        return source.relative
    return str(Path(source.relative).with_suffix(".webm"))


def _read_frame(source: Source, boxes: str | None) -> Frame:
    from personserve.cli.detection import detect_people, parse_boxes
    from personserve.cli.frames import Frame

    given = None if boxes is None else parse_boxes(boxes)
    pixels = source.read_image(OPTIONS.timeout_s)
    return Frame(source.name, pixels, detect_people(pixels) if given is None else given)
