"""The public API as a typed user sees it: checked by mypy and pyright, never run.

Lines that must be type errors carry `# type: ignore[code]`; both checkers report such a
comment if its line has no error.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from typing_extensions import assert_type

import personserve
from personserve import (
    AsyncClient,
    AsyncMockTransport,
    AsyncTransport,
    Boxes,
    Classification,
    ClassScore,
    Client,
    DescribeModel,
    EmbeddingSource,
    FrameInput,
    Gender,
    ImageInput,
    Infer,
    InferResult,
    Kinship,
    ListModels,
    MockTransport,
    ModelDescription,
    ModelState,
    People,
    Person,
    Ready,
    Request,
    Retry,
    Role,
    TensorDescription,
    Tls,
    Transport,
    annotate,
    cut_people,
    describe_mock_models,
)
from personserve.gallery import (
    Gallery,
    Match,
    Threshold,
    estimate_threshold,
    estimate_threshold_from_frames,
)

FRAME = np.zeros((480, 640, 3), np.uint8)
BOXES = [[0.0, 0.0, 10.0, 20.0], [5.5, 5.5, 30.0, 60.0]]


class Detections:
    """The part of supervision.Detections that is used."""

    xyxy: npt.NDArray[Any]


class Results:
    """The part of ultralytics' Results that is used."""

    boxes: Detections | None


def accepted_images(client: Client, pil: Image.Image, camera: cv2.VideoCapture) -> None:
    images: list[ImageInput] = [
        FRAME,
        "street.jpg",
        Path("street.jpg"),
        b"encoded",
        bytearray(b"encoded"),
        memoryview(b"encoded"),
        pil,
    ]
    for image in images:
        client.attributes(image, BOXES)
    read, frame = camera.read()
    assert_type(read, bool)
    client.attributes(frame, BOXES)
    client.attributes(cv2.resize(FRAME, (64, 64)), BOXES)
    client.attributes_of_crops([FRAME, "crop.jpg", pil])
    client.attributes_of_crops(np.stack([FRAME, FRAME]))


def accepted_boxes(client: Client, detections: Detections, results: Results) -> None:
    array: npt.NDArray[np.float32] = np.zeros((2, 4), np.float32)
    boxes: list[Boxes] = [
        BOXES,
        [(0, 0, 10, 20)],
        [],
        array,
        [array[0], array[1]],
        detections,
        results,
        [results],
        [detections],
    ]
    for each in boxes:
        client.attributes(FRAME, each)
        assert_type(cut_people(FRAME, each, (256, 128)), npt.NDArray[np.uint8])


def wrong_uses(client: Client, flags: npt.NDArray[np.bool_]) -> None:
    client.attributes(flags, BOXES)  # type: ignore[arg-type]
    client.attributes(3, BOXES)  # type: ignore[arg-type]
    client.attributes([FRAME], BOXES)  # type: ignore[arg-type]
    client.attributes(None, BOXES)  # type: ignore[arg-type]
    client.attributes(FRAME, "abc")  # type: ignore[arg-type]
    client.attributes(FRAME, 3)  # type: ignore[arg-type]
    client.attributes(FRAME, [["a", "b", "c", "d"]])  # type: ignore[arg-type]
    client.attributes(FRAME, BOXES, crop_on="both")  # type: ignore[arg-type]
    client.attributes(FRAME, BOXES, crops="server")  # type: ignore[call-arg]
    client.attributes_of_crops(["crop.jpg"], 5.0)  # type: ignore[call-arg, arg-type]
    client.attributes_of_crops([3])  # type: ignore[list-item]
    client.infer(3, {})  # type: ignore[arg-type]
    client.infer("m", [FRAME])  # type: ignore[arg-type]
    client.infer("m", {"x": "text"})  # type: ignore[dict-item]
    client.infer("m", {}, 5.0)  # type: ignore[call-arg]
    Client(5)  # type: ignore[arg-type]
    Client(shared_memory="disk")  # type: ignore[arg-type]
    Client(compression="zip")  # type: ignore[arg-type]
    Client(transport=AsyncMockTransport())  # type: ignore[arg-type]
    AsyncClient(transport=MockTransport())  # type: ignore[arg-type]
    Retry(first_pause_s=1.0)  # type: ignore[call-arg]
    Tls(authorities="ca.pem")  # type: ignore[call-arg]


def results(client: Client) -> None:
    people = client.attributes(FRAME, BOXES, crop_on="auto", timeout_s=1)
    assert_type(people, People)
    assert_type(people[0], Person)
    assert_type(people[:1], People)
    assert_type(people[[0, 1]], People)
    assert people.female_probabilities is not None
    assert_type(people[people.female_probabilities > 0.5], People)
    assert_type(people[0].source, EmbeddingSource | None)
    assert_type(people.to_records(embeddings=True), list[dict[str, Any]])
    assert_type(People.concatenate([people, people]), People)
    assert_type(annotate(FRAME, people, people.labels()), npt.NDArray[np.uint8])
    assert_type(people[0].gender, Gender | None)
    assert_type(people[0].embedding, npt.NDArray[np.float32] | None)
    if (gender := people[0].gender) is not None:
        assert_type(gender.label, str)
    assert_type(people.select(embedding="kinship_embedding"), People)
    assert_type(people.outputs, Mapping[str, npt.NDArray[np.float32]])
    assert_type(people.roles, Mapping[str, Role])
    assert_type(people.top_classes(3), list[Classification])
    assert_type(client.attributes("a.jpg", BOXES, model="face_attributes"), People)
    assert_type(client.attributes_of_crops([FRAME], model="person_reid"), People)
    assert_type(client.frame_models(), tuple[ModelDescription, ...])
    assert_type(client.describe("m").takes_frames, bool)
    assert_type(people[0].box, tuple[float, float, float, float] | None)
    assert_type(people.similarities(), npt.NDArray[np.float32])
    assert_type(people.nearest(people[0], 3), tuple[tuple[int, float], ...])
    assert_type(people.stand_in_weights, tuple[str, ...])
    assert_type(client.kinship("a.jpg", FRAME), Kinship)
    assert_type(client.kinship("a.jpg", FRAME).related, npt.NDArray[np.bool_] | None)
    assert_type(client.classify([FRAME], count=2), list[Classification])
    assert_type(client.classify([FRAME])[0].classes, tuple[ClassScore, ...])
    assert_type(client.infer("m", {"x": FRAME}), InferResult)
    assert_type(client.infer("m", {"x": FRAME})["y"], npt.NDArray[Any])
    assert_type(client.describe("m"), ModelDescription)
    assert_type(client.models(), tuple[ModelState, ...])
    assert_type(client.ready("m"), bool)
    assert_type(personserve.__version__, str)


def galleries(people: People, array: npt.NDArray[np.float32]) -> None:
    gallery = Gallery()
    gallery.add(["a", "b"], people)
    gallery.add("c", people[0])
    gallery.add(["d"], array)
    assert_type(gallery.search(people), list[list[Match]])
    assert_type(gallery.search(people[0], count=3), list[Match])
    assert_type(gallery.search(array), list[Match])
    assert_type(gallery.search_all(array), list[list[Match]])
    assert_type(gallery.search(array)[0].is_same_person, bool | None)
    threshold = estimate_threshold(people, ["a", "b"], false_match_rate=0.01)
    assert_type(threshold, Threshold)
    gallery.set_threshold(threshold)
    gallery.set_threshold(0.7)
    assert_type(estimate_threshold_from_frames([people]), Threshold)
    gallery.set_threshold("high")  # type: ignore[arg-type]


def frames() -> Iterator[FrameInput]:
    yield "street.jpg", BOXES
    yield FRAME, np.zeros((0, 4))


async def async_frames() -> AsyncIterator[FrameInput]:
    yield "street.jpg", BOXES


def stream(client: Client) -> None:
    for people in client.attributes_stream(frames(), in_flight=8):
        assert_type(people, People)


async def asynchronous() -> None:
    async with AsyncClient(
        ["grpc://a:8001", "https://b"],
        retry=Retry(attempts=2, initial_backoff_s=0.5, max_backoff_s=1),
        tls=Tls(ca_file="ca.pem", cert_file=Path("me.pem"), key_file="me.key"),
        headers=lambda: {"authorization": "Bearer ..."},
        shared_memory="system",
    ) as client:
        assert_type(await client.attributes(FRAME, BOXES), People)
        assert_type(await client.infer("m", {"x": FRAME}), InferResult)
        assert_type(await client.frame_models(), tuple[ModelDescription, ...])
        async for people in client.attributes_stream(frames(), model="m"):
            assert_type(people, People)
        async for people in client.attributes_stream(async_frames()):
            assert_type(people, People)


class OwnTransport:
    """A Transport of the user's own."""

    def send(self, request: Request, timeout_s: float | None) -> Any:
        assert_type(timeout_s, float | None)
        if isinstance(request, Infer):
            assert_type(request.headers, Mapping[str, str])
            return {"x": FRAME}
        if isinstance(request, DescribeModel):
            tensor = TensorDescription("x", "UINT8", (3,))
            return ModelDescription(request.model, 0, [tensor], [], {})
        if isinstance(request, ListModels):
            return ()
        if isinstance(request, Ready):
            return True
        return None

    def close(self) -> None:
        pass


def answer(request: Infer) -> dict[str, npt.NDArray[Any]]:
    return {"x": np.zeros(len(request.inputs))}


TRANSPORT: Transport = OwnTransport()
MOCK: Transport = MockTransport(answer, models=describe_mock_models(max_people=8))
CANNED: AsyncTransport = AsyncMockTransport({"m": {"x": FRAME}, "n": answer})
Client(transport=TRANSPORT)
AsyncClient(transport=CANNED)
