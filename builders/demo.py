"""The demo: find people, ask the real server about them, draw what it says.

People are found by OpenCV's HOG detector (upright pedestrians), which stands for the
detector that users bring. With no picture it shows photographs that scikit-image
carries; they are no upright pedestrians for HOG to find, so their boxes are given here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from builders.models.person_gender import FEMALE_PROBABILITY
from builders.repository import Repository, atomic_write
from builders.server import Ports, ServeError, TritonServer
from personserve import Client, People, PersonServeError

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

MODELS = ("person_gender", "person_reid_kd_r18")
ENSEMBLE = "person_attributes"
VIDEO_SUFFIXES = frozenset((".avi", ".mkv", ".mov", ".mp4", ".webm"))

PHOTOGRAPHS: Sequence[tuple[str, Box]] = (
    ("astronaut", (20, 5, 500, 512)),
    ("camera", (5, 60, 335, 512)),
)
"""scikit-image's photographs of one person each, and where that person is."""

COLOURS = dict(
    zip(FEMALE_PROBABILITY.labels or (), ((200, 120, 20), (113, 70, 230)), strict=True)
)
"""BGR by label."""

OTHER_COLOUR = (90, 90, 90)

HOG_MARGIN_WH = (0.15, 0.05)
"""HOG's windows leave this share of the person's width and height empty on each side
(its training windows did).
"""

NOTE_COLOUR = (30, 30, 200)


@dataclass(frozen=True)
class Frame:
    """A picture, or one of a video, and the people found in it."""

    name: str
    pixels: Pixels
    boxes: npt.NDArray[np.float32]


def run(
    repository: Repository,
    source: Path | None,
    output: Path | None,
    boxes: str | None,
    frames: int,
    console: Console,
) -> None:
    """The whole demo. Raises ServeError, or PersonServeError from the client."""
    given = None if boxes is None else parsed_boxes(boxes)
    video = source is not None and source.suffix.lower() in VIDEO_SUFFIXES
    if output is None:
        output = Path("demo.mp4" if video else "demo.jpg")
    looking = _video(source, frames) if video and source else [_picture(source, given)]
    server = TritonServer(repository, models=[ENSEMBLE], ports=Ports.free())
    with server, Client(server.grpc_address) as client:
        console.print(f"asking tritonserver at {server.grpc_address}")
        try:
            if video:
                _show_video(client, looking, frames, output, console)
            else:
                _show_picture(client, next(iter(looking)), output, console)
        except PersonServeError as exc:
            raise ServeError(str(exc)) from exc
    console.print(f"wrote {output}")


def parsed_boxes(text: str) -> npt.NDArray[np.float32]:
    """'x0,y0,x1,y1 x0,y0,x1,y1' as [N, 4]. Raises ServeError."""
    try:
        rows = [[float(value) for value in box.split(",")] for box in text.split()]
        boxes = np.array(rows, np.float32)
    except ValueError as exc:
        raise ServeError(f"--boxes {text!r}: {exc}") from exc
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ServeError(
            f"--boxes {text!r}: expected 'x0,y0,x1,y1', several divided by spaces"
        )
    return boxes


def find_people(frame: Pixels) -> npt.NDArray[np.float32]:
    """Boxes [N, 4] of upright people, by OpenCV's HOG detector."""
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector()))
    found, _ = hog.detectMultiScale(frame, winStride=(8, 8), padding=(8, 8), scale=1.05)
    x, y, width, height = np.array(found, np.float32).reshape(-1, 4).T
    dx, dy = HOG_MARGIN_WH[0] * width, HOG_MARGIN_WH[1] * height
    return np.stack([x + dx, y + dy, x + width - dx, y + height - dy], axis=1)


def annotated(frame: Pixels, people: People) -> Pixels:
    """A copy of `frame` with each person's box, number, label and probability."""
    picture = frame.copy()
    scale = max(0.45, min(frame.shape[:2]) / 1100)
    thickness = max(1, round(scale * 2))
    for number, person in enumerate(people, start=1):
        x0, y0, x1, y1 = (round(value) for value in person.box or ())
        colour = COLOURS.get(person.gender.label, OTHER_COLOUR)
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, thickness)
        text = f"{number} {person.gender.label} {person.gender.probability:.2f}"
        _write(picture, text, (x0, y0), scale, colour)
    if people.stand_in_weights:
        text = "stand-in weights: untrained, the answers mean nothing"
        _write(picture, text, (0, picture.shape[0]), scale, NOTE_COLOUR)
    return picture


def _write(
    picture: Pixels,
    text: str,
    bottom_left: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int],
) -> None:
    """White text on a strip of `colour`, kept inside the picture."""
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(scale * 1.5))
    (width, height), base = cv2.getTextSize(text, font, scale, thickness)
    x = max(0, min(bottom_left[0], picture.shape[1] - width - 4))
    y = max(height + base + 2, bottom_left[1])
    corner = (x + width + 4, y - height - base - 2)
    cv2.rectangle(picture, (x, y), corner, colour, cv2.FILLED)
    cv2.putText(
        picture,
        text,
        (x + 2, y - base),
        font,
        scale,
        (255, 255, 255),
        thickness,
        cv2.LINE_AA,
    )


def _picture(source: Path | None, boxes: npt.NDArray[np.float32] | None) -> Frame:
    if source is None:
        return _photographs()
    if not source.is_file():
        raise ServeError(f"{source}: no such file")
    read = cv2.imread(str(source))
    if read is None:
        raise ServeError(
            f"{source}: OpenCV cannot read it; expected a picture or video"
        )
    pixels = read.astype(np.uint8, copy=False)
    return Frame(source.name, pixels, find_people(pixels) if boxes is None else boxes)


def _photographs() -> Frame:
    import skimage.data

    pictures, boxes, left = [], [], 0
    for name, (x0, y0, x1, y1) in PHOTOGRAPHS:
        picture = getattr(skimage.data, name)()
        to_bgr = cv2.COLOR_GRAY2BGR if picture.ndim == 2 else cv2.COLOR_RGB2BGR
        pictures.append(cv2.cvtColor(picture, to_bgr))
        boxes.append((x0 + left, y0, x1 + left, y1))
        left += picture.shape[1]
    return Frame("photographs", np.hstack(pictures), np.array(boxes, np.float32))


def _video(source: Path, frames: int) -> Iterator[Frame]:
    """`frames` frames, evenly spread over the video."""
    if not source.is_file():
        raise ServeError(f"{source}: no such file")
    capture = cv2.VideoCapture(str(source))
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if not capture.isOpened() or total < 1:
            raise ServeError(f"{source}: OpenCV cannot read it as a video")
        wanted = set(np.linspace(0, total - 1, min(frames, total)).astype(int))
        for index in range(total):
            if not capture.grab():
                return
            if index in wanted:
                ok, read = capture.retrieve()
                if ok:
                    pixels = np.asarray(read, np.uint8)
                    yield Frame(f"frame {index}", pixels, find_people(pixels))
    finally:
        capture.release()


def _show_picture(client: Client, frame: Frame, output: Path, console: Console) -> None:
    people = client.attributes(frame.pixels, frame.boxes)
    ok, data = cv2.imencode(output.suffix or ".jpg", annotated(frame.pixels, people))
    if not ok:
        raise ServeError(f"{output}: OpenCV cannot write {output.suffix} pictures")
    with atomic_write(output) as partial:
        partial.write_bytes(data.tobytes())
    _print_people(people, console)


def _print_people(people: People, console: Console) -> None:
    if not people:
        console.print("nobody found; give --boxes to say where people are")
        return
    table = Table("person", "box", "gender", "probability", "nearest other")
    similarities = people.similarities()
    np.fill_diagonal(similarities, -np.inf)
    for index, person in enumerate(people):
        nearest = int(similarities[index].argmax())
        table.add_row(
            str(index + 1),
            ", ".join(f"{value:.0f}" for value in person.box or ()),
            person.gender.label,
            f"{person.gender.probability:.3f}",
            f"{nearest + 1} (cosine {similarities[index, nearest]:.3f})"
            if len(people) > 1
            else "",
        )
    console.print(table)
    _warn(people, console)


def _show_video(
    client: Client,
    looking: Iterator[Frame] | list[Frame],
    frames: int,
    output: Path,
    console: Console,
) -> None:
    table = Table("frame", "people", "genders", "ms")
    seen = answered = 0
    people: People | None = None
    with atomic_write(output) as partial:
        # OpenCV chooses the container by the file's suffix
        temporary = partial.with_suffix(output.suffix)
        writer: cv2.VideoWriter | None = None
        try:
            for frame in track(
                looking, "watching", total=frames, console=console, transient=True
            ):
                began = time.perf_counter()
                people = client.attributes(frame.pixels, frame.boxes)
                elapsed_ms = (time.perf_counter() - began) * 1e3
                if writer is None:
                    size_wh = (frame.pixels.shape[1], frame.pixels.shape[0])
                    codec = cv2.VideoWriter.fourcc(*"mp4v")
                    writer = cv2.VideoWriter(str(temporary), codec, 5.0, size_wh)
                writer.write(annotated(frame.pixels, people))
                seen, answered = seen + len(frame.boxes), answered + len(people)
                genders = ", ".join(person.gender.label for person in people)
                table.add_row(
                    frame.name, str(len(people)), genders, f"{elapsed_ms:.0f}"
                )
        finally:
            if writer is not None:
                writer.release()
            if temporary.exists():
                temporary.replace(partial)
    console.print(table)
    console.print(f"{table.row_count} frames, {seen} people found, {answered} answered")
    if people is not None:
        _warn(people, console)


def _warn(people: People, console: Console) -> None:
    if people.stand_in_weights:
        console.print(
            "[yellow]stand-in weights (untrained, the answers mean nothing): "
            f"{', '.join(people.stand_in_weights)}; "
            "python -m builders build MODEL --weights FILE[/yellow]"
        )
