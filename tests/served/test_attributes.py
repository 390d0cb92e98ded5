"""The main job through the real tritonserver, against the torch reference."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest

from builders.catalogue import models
from builders.ops.torch import Reference
from builders.parity import parity_inputs
from builders.repository import Repository
from builders.spec import Model
from builders.weights import stand_in_weights
from personserve import (
    Client,
    InvalidInputError,
    ModelUnavailableError,
    RequestTimeoutError,
    ServerUnavailableError,
    _looking,
)

GENDER, REID = models(["person_gender", "person_reid_kd_r18"])
MAXIMUM = GENDER.batching.maximum


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    return {m.name: Reference(m, stand_in_weights(m).arrays) for m in (GENDER, REID)}


def _some_boxes(count: int, seed: int = 0, size: int = 512) -> np.ndarray:
    """Whole-pixel boxes inside a picture of size x size."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, size - 140, (count, 2))
    extent = rng.integers(20, 140, (count, 2))
    return np.hstack([corner, corner + extent]).astype(np.float32)


def _expected(
    references: dict[str, Reference], frame: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut in the plainest way and run through torch."""
    cut: dict[str, list[np.ndarray]] = {"person_gender": [], "person_reid_kd_r18": []}
    for x0, y0, x1, y1 in boxes.astype(int):
        person = frame[y0:y1, x0:x1, ::-1].copy()
        cut["person_gender"].append(
            cv2.resize(person, (224, 224), interpolation=cv2.INTER_LINEAR)
        )
        cut["person_reid_kd_r18"].append(
            cv2.resize(person, (128, 384), interpolation=cv2.INTER_CUBIC)
        )
    outputs: dict[str, np.ndarray] = {}
    for name, crops in cut.items():
        outputs |= references[name](crops=np.stack(crops))
    return outputs["female_probability"][:, 0], outputs["embedding"]


@pytest.mark.parametrize("count", [1, 3, MAXIMUM, MAXIMUM + 1])
def test_served_answers_equal_the_reference(
    client: Client,
    references: dict[str, Reference],
    photograph: np.ndarray,
    count: int,
) -> None:
    boxes = _some_boxes(count)
    people = client.attributes(photograph, boxes)
    probabilities, embeddings = _expected(references, photograph, boxes)
    assert len(people) == count
    assert np.ptp(probabilities) > 0.01 or count == 1, "people must differ"
    np.testing.assert_allclose(people.female_probabilities, probabilities, atol=1e-4)
    np.testing.assert_allclose(people.embeddings, embeddings, atol=1e-3)
    np.testing.assert_allclose(
        np.linalg.norm(people.embeddings, axis=1), 1.0, atol=1e-5
    )
    assert people[count - 1].box == tuple(boxes[-1])


def test_crops_and_frames_give_the_same(client: Client, photograph: np.ndarray) -> None:
    boxes = _some_boxes(5)
    crops = [photograph[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes.astype(int)]
    of_crops, of_frame = (
        client.attributes_of_crops(crops),
        client.attributes(photograph, boxes),
    )
    np.testing.assert_array_equal(of_crops.embeddings, of_frame.embeddings)
    np.testing.assert_array_equal(
        of_crops.female_probabilities, of_frame.female_probabilities
    )


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_encoded_frames(
    client: Client, photograph: np.ndarray, suffix: str, tmp_path: Any
) -> None:
    parameters = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    path = tmp_path / f"frame{suffix}"
    cv2.imwrite(str(path), photograph, parameters)
    decoded = cv2.imread(str(path))
    boxes = _some_boxes(3)
    raw = client.attributes(decoded, boxes)
    for frame in (path, str(path), path.read_bytes()):
        people = client.attributes(frame, boxes)
        # libjpeg-turbo's versions may differ by a grey level
        np.testing.assert_allclose(people.embeddings, raw.embeddings, atol=1e-2)


def test_turned_pictures_are_seen_as_their_exif_says(
    client: Client, photograph: np.ndarray, tmp_path: Any
) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    path = tmp_path / "turned.jpg"
    Image.fromarray(photograph[:300, :, ::-1]).save(path, quality=95, exif=exif)
    shown = cv2.imread(str(path))
    assert shown.shape == (512, 300, 3)
    box = [[10, 310, 290, 500]]  # only inside the turned picture
    np.testing.assert_allclose(
        client.attributes(path, box).embeddings,
        client.attributes(shown, box).embeddings,
        atol=1e-2,
    )


def test_boxes_are_clipped_to_the_frame_and_grown_to_pixels(
    client: Client, photograph: np.ndarray
) -> None:
    clipped = client.attributes(photograph, [[-30, -9.5, 100.2, 1e9]])
    inside = client.attributes(photograph, [[0, 0, 101, 512]])
    np.testing.assert_array_equal(clipped.embeddings, inside.embeddings)


def test_nobody_makes_no_call(photograph: np.ndarray) -> None:
    with Client("127.0.0.1:1") as nowhere:
        assert len(nowhere.attributes(photograph, [])) == 0
        assert len(nowhere.attributes_of_crops([])) == 0


def test_concurrent_frames_get_their_own_answers(
    client: Client, references: dict[str, Reference], photograph: np.ndarray
) -> None:
    jobs = []
    for job in range(24):
        frame = np.roll(photograph, 37 * job, axis=1) if job % 2 else photograph
        jobs.append((np.ascontiguousarray(frame), _some_boxes(1 + job % 4, seed=job)))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: client.attributes(*job), jobs))
    for (frame, boxes), people in zip(jobs, answers, strict=True):
        probabilities, embeddings = _expected(references, frame, boxes)
        np.testing.assert_allclose(people.embeddings, embeddings, atol=1e-3)
        np.testing.assert_allclose(
            people.female_probabilities, probabilities, atol=1e-4
        )


def _png_header_of(width: int, height: int) -> bytes:
    """A PNG of a few bytes that would decode to width x height."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


WHOLE = np.array([[0, 0, 100, 100]], np.float32)
JPEG = cv2.imencode(".jpg", np.zeros((99, 99, 3), np.uint8))[1].tobytes()


def _encoded(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(1, 1, -1)


BAD = {
    "no picture": (_encoded(b"hello"), WHOLE, "5 bytes starting 68 65 .* not decode"),
    "cut JPEG": (_encoded(JPEG[: len(JPEG) // 2]), WHOLE, "do not decode"),
    "JPEG head": (_encoded(b"\xff\xd8\xff\xe0" * 9), WHOLE, "do not decode"),
    "bomb": (
        _encoded(_png_header_of(60_000, 60_000)),
        WHOLE,
        "60000x60000 is 3,600,000,000 pixels, over the limit of 50,000,000",
    ),
    "large": (
        _encoded(_png_header_of(10_000, 5_001)),
        WHOLE,
        "50,010,000 pixels, over the limit",
    ),
    "grey": (
        np.zeros((50, 50, 1), np.uint8),
        WHOLE,
        r"expected raw BGR .* \[50, 50, 1",
    ),
    "nobody": (None, np.empty((0, 4), np.float32), "0 boxes; expected 1 to 64"),
    "crowd": (None, np.repeat(WHOLE, MAXIMUM + 1, 0), "65 boxes; expected 1 to 64"),
    "NaN": (None, np.vstack([WHOLE, WHOLE * np.nan]), "box 1 .nan, .* is not finite"),
    "infinity": (None, WHOLE * [1, 1, np.inf, 1], "is not finite"),
    "outside": (None, WHOLE + 600, r"box 0 .* outside the frame of 512x512"),
    "no area": (None, np.vstack([WHOLE, WHOLE, WHOLE * 0]), "box 2 .* has no area"),
    "inverted": (None, WHOLE[:, [2, 1, 0, 3]], "has no area"),
}


@pytest.mark.parametrize(("frame", "boxes", "message"), BAD.values(), ids=BAD)
def test_bad_input_says_why_and_harms_nothing(
    client: Client,
    photograph: np.ndarray,
    frame: np.ndarray | None,
    boxes: np.ndarray,
    message: str,
) -> None:
    frame = photograph if frame is None else frame
    boxes = boxes.astype(np.float32)
    with pytest.raises(InvalidInputError, match=message) as caught:
        client.infer("person_attributes", frame=frame, boxes=boxes)
    assert caught.value.model == "person_attributes"
    assert caught.value.request_id
    assert len(client.attributes(photograph, WHOLE)) == 1


def test_a_bad_request_among_good_ones_fails_alone(
    client: Client, photograph: np.ndarray
) -> None:
    good = client.attributes(photograph, WHOLE).embeddings

    def ask(job: int) -> Any:
        try:
            frame = b"not a picture" if job % 3 == 0 else photograph
            return client.attributes(frame, WHOLE).embeddings
        except InvalidInputError as exc:
            return exc

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    for job, answer in enumerate(answers):
        if job % 3 == 0:
            assert isinstance(answer, InvalidInputError)
        else:
            np.testing.assert_array_equal(answer, good)


def test_a_bad_box_after_a_split_is_named_with_its_part(
    client: Client, photograph: np.ndarray
) -> None:
    boxes = np.repeat(WHOLE, MAXIMUM + 10, 0)
    boxes[-1] += 9999
    data = cv2.imencode(".png", photograph)[1].tobytes()
    with pytest.raises(InvalidInputError, match=r"after box 36: .*box 36 .* outside"):
        client.attributes(data, boxes)


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_every_network_is_served(client: Client, model: Model) -> None:
    crops = parity_inputs(model)
    served = client.infer(model.name, **crops)
    expected = Reference(model, stand_in_weights(model).arrays)(**crops)
    assert set(served) == set(expected)
    for name, answer in expected.items():
        np.testing.assert_allclose(served[name], answer, rtol=1e-3, atol=1e-4)


def test_results_say_that_weights_are_stand_ins(
    client: Client, photograph: np.ndarray
) -> None:
    people = client.attributes(photograph, WHOLE)
    assert people.stand_in_weights == ("person_gender", "person_reid_kd_r18")
    assert "untrained" in client.describe("person_gender").parameters["weights"]


def test_errors_by_kind(client: Client) -> None:
    with pytest.raises(ModelUnavailableError, match="person_genre"):
        client.infer("person_genre", crops=np.zeros(1, np.uint8))
    with pytest.raises(InvalidInputError, match=r"expected inputs \['crops'\]"):
        client.infer("person_gender", image=np.zeros(1, np.uint8))
    with pytest.raises(InvalidInputError, match="expected a NumPy array, got list"):
        client.infer("person_gender", crops=[1])  # type: ignore[arg-type]
    with pytest.raises(RequestTimeoutError, match="timeout_s"):
        client.infer(
            "person_gender", timeout_s=1e-3, crops=np.zeros((8, 224, 224, 3), np.uint8)
        )
    with (
        Client("127.0.0.1:1") as nowhere,
        pytest.raises(ServerUnavailableError, match="no Triton server answers at"),
    ):
        nowhere.infer("person_gender", timeout_s=2, crops=np.zeros(1, np.uint8))
    assert client.ready()
    assert client.ready("person_attributes")
    assert not client.ready("person_genre")


def test_video_frames_are_answered_for_every_person(
    client: Client, video: Any, repository: Repository
) -> None:

    assert repository.root.is_dir()
    frames = list(_looking.frames_of(str(video), 20))
    assert len(frames) == 20
    assert sum(len(frame.boxes) for frame in frames) >= 20
    for frame in frames:
        assert len(client.attributes(frame.pixels, frame.boxes)) == len(frame.boxes)
