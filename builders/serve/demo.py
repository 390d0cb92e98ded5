"""The demo: start a server, analyse an image or a video, draw the results.

Without an image it shows photographs of scikit-image. HOG finds upright pedestrians
only, so the boxes of the people in them are given here.

The networks of bodies have stand-in weights on a fresh clone, and the gender network of
faces is trained. So an image shows both, and says of each box which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from builders.models import face_gender
from builders.progress import Progress
from builders.repository.layout import Repository
from builders.serve.tritonserver import Ports, TritonServer
from personserve import Client, InvalidInputError, People
from personserve.cli.analysis import show_video
from personserve.cli.answers import print_people
from personserve.cli.detection import FloatBoxes, detect_faces, detect_people
from personserve.cli.detection import parse_boxes as parse_boxes_text
from personserve.cli.drawing import write_image
from personserve.cli.frames import Frame
from personserve.cli.output import print_plain
from personserve.cli.results import Results
from personserve.cli.sources import Kind, Source, resolve_sources
from personserve.images.crops import Pixels
from personserve.images.cutting import cut_people
from personserve.images.drawing import LabelledBox, draw_labelled_boxes

Box = tuple[float, float, float, float]

DEMO_MODELS = ("person_gender", "person_reid_kd_r18")
ENSEMBLES = ("person_attributes", "person_attributes_crops")
FACE_MODEL = face_gender.MODEL

DOWNLOAD_TIMEOUT_S = 30.0

PHOTOGRAPHS: Sequence[tuple[str, Box]] = (
    ("astronaut", (20, 5, 500, 512)),
    ("camera", (5, 60, 335, 512)),
)
"""Photographs of scikit-image with one person each, and that person's box."""

BODY_COLOUR, FACE_COLOUR = (90, 90, 90), (40, 130, 20)
"""BGR colours of boxes: gray for bodies, green for faces."""


@dataclass(frozen=True)
class Faces:
    """The answers of the gender network of faces.

    Attributes:
        boxes: FP32 [N, 4] in pixels.
        labels: The gender of each face, with its probability.
        weights: Origin of the network's weights; empty without a face.
        is_untrained: Whether these are stand-in weights.
    """

    boxes: FloatBoxes
    labels: tuple[str, ...]
    weights: str = ""
    is_untrained: bool = False


def run_demo(
    repository: Repository,
    source: str | None,
    output: Path | None,
    boxes: str | None,
    frames: int,
    console: Console,
    show_progress: Callable[[], AbstractContextManager[Progress]],
) -> None:
    """Start a server, ask it about people, and draw the results.

    Args:
        repository: The model repository, with DEMO_MODELS built for the CPU. Faces are
            analysed if FACE_MODEL is built, too.
        source: Image or video file; None for the photographs of scikit-image.
        output: File for the annotated result; None for demo.jpg or demo.webm.
        boxes: People in the image as "x0,y0,x1,y1 ..." in pixels; None for HOG.
        frames: Number of frames of a video to sample.
        console: Where the results are printed.
        show_progress: Opens the display of progress while the server starts.

    Raises:
        ServeError: The server cannot be started.
        PersonServeError: A request failed.
    """
    subject = _photographs() if source is None else _read_subject(source, boxes)
    has_faces = repository.is_built(FACE_MODEL, "cpu")
    models = (*ENSEMBLES, FACE_MODEL.name) if has_faces else ENSEMBLES
    server = TritonServer(repository, models=models, ports=Ports.free())
    with ExitStack() as stack:
        stack.callback(server.stop)
        with show_progress() as progress:
            server.start(progress=progress)
        client = stack.enter_context(Client(server.grpc_address))
        console.print(f"asking tritonserver at {server.grpc_address}")
        results = Results(console)
        try:
            if isinstance(subject, Frame):
                faces = _ask_about_faces(client, subject.pixels) if has_faces else None
                _show_image(client, subject, faces, output, results)
            else:
                video = output or Path("demo.webm")
                show_video(client, subject, frames, video, results)
        finally:
            results.print_end(client)


def _read_subject(argument: str, boxes: str | None) -> Frame | Source:
    """Return an image with its boxes, or the video, that an argument names."""
    sources = resolve_sources([argument], DOWNLOAD_TIMEOUT_S)
    if len(sources) != 1:
        raise InvalidInputError(f"{argument}: expected one image, got {len(sources)}")
    if sources[0].kind is not Kind.IMAGE:
        return sources[0]
    pixels = sources[0].read_image(DOWNLOAD_TIMEOUT_S)
    people = detect_people(pixels) if boxes is None else parse_boxes_text(boxes)
    return Frame(argument, pixels, people)


def _photographs() -> Frame:
    """Return the photographs side by side, with their boxes."""
    import skimage.data

    images, boxes, left = [], [], 0
    for name, (x0, y0, x1, y1) in PHOTOGRAPHS:
        image = getattr(skimage.data, name)()
        to_bgr = cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR
        images.append(cv2.cvtColor(image, to_bgr))
        boxes.append((x0 + left, y0, x1 + left, y1))
        left += image.shape[1]
    return Frame("photographs", np.hstack(images), np.array(boxes, np.float32))


def _ask_about_faces(client: Client, pixels: Pixels) -> Faces:
    """Detect the faces of an image, and ask the network about them."""
    boxes = detect_faces(pixels)
    if not len(boxes):
        return Faces(boxes, ())
    (image,), (output,) = FACE_MODEL.images, FACE_MODEL.outputs
    crops = cut_people(pixels, boxes, image.crop_shape)
    answer = client.infer(FACE_MODEL.name, {image.name: crops})
    labels = tuple(_gender_text(p) for p in answer[output.name][:, 0].tolist())
    return Faces(boxes, labels, answer.weights, bool(answer.stand_in_weights))


def _gender_text(female_probability: float) -> str:
    (output,) = FACE_MODEL.outputs
    label = dict(enumerate(output.labels or ()))[
        int(female_probability >= output.threshold)
    ]
    return f"{label} {max(female_probability, 1.0 - female_probability):.4f}"


def _show_image(
    client: Client,
    frame: Frame,
    faces: Faces | None,
    output: Path | None,
    results: Results,
) -> None:
    """Ask about the people in an image; print and draw them and the faces."""
    people = client.attributes(frame.pixels, frame.boxes, crop_on="auto")
    path = output or Path("demo.jpg")
    write_image(path, _draw(frame.pixels, people, faces))
    results.written.append(str(path))
    results.add(frame, frame.name, people)
    print_people(people, results.console)
    if faces is not None:
        _print_faces(faces, results.console)


def _draw(pixels: Pixels, people: People, faces: Faces | None) -> Pixels:
    """Draw bodies and faces, each with the kind of its weights, into a copy."""
    image = pixels.copy()
    untrained = people.stand_in_weights
    kind = "body, untrained" if untrained else "body"
    boxes = [
        LabelledBox(person.box, f"{kind}: {text}", BODY_COLOUR)
        for person, text in zip(people, people.labels(), strict=True)
        if person.box is not None
    ]
    if faces is not None:
        kind = "face, untrained" if faces.is_untrained else "face, trained"
        boxes += [
            LabelledBox((*map(float, box),), f"{kind}: {label}", FACE_COLOUR)  # type: ignore[arg-type]
            for box, label in zip(faces.boxes, faces.labels, strict=True)
        ]
    note = ""
    if untrained:
        note = "gray: stand-in weights, untrained, the answers mean nothing"
        if faces is not None and faces.labels and not faces.is_untrained:
            note += "; green: trained weights"
    draw_labelled_boxes(image, boxes, note)
    return image


def _print_faces(faces: Faces, console: Console) -> None:
    if not faces.labels:
        print_plain("faces: OpenCV's Haar detector finds no frontal face", console)
        return
    weights = "stand-in weights" if faces.is_untrained else "trained weights"
    print_plain(
        f"faces: {FACE_MODEL.name}, {weights} ({faces.weights}; {FACE_MODEL.source})",
        console,
    )
    for box, label in zip(faces.boxes, faces.labels, strict=True):
        corners = " ".join(f"{value:.0f}" for value in box)
        print_plain(f"  {label} at {corners}", console)
