"""The main job through the real tritonserver, against the torch reference."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import cv2
import grpc
import numpy as np
import numpy.typing as npt
import pytest

from builders.ops.torch import Reference
from builders.repository.layout import Repository
from builders.serve.processes import list_session
from builders.serve.tritonserver import TritonServer
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.tensors import ITEM_BYTES
from builders.verify.inputs import seeded_inputs
from builders.weights import stand_in_weights
from personserve import (
    Client,
    InvalidInputError,
    ModelUnavailableError,
    RequestTimeoutError,
    ServerUnavailableError,
    Tracks,
    cut_people,
)
from personserve.cli.frames import Video
from personserve.cli.sources import Kind, Source
from personserve.images.inputs import tensors_from_frame
from tests.image_corpus import Mutator
from tests.request_corpus import SERVICE, make_request

GENDER, REID = models(["person_gender", "person_reid_kd_r18"])
MAXIMUM = GENDER.batching.max_batch_size


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    return {m.name: Reference(m, stand_in_weights(m).arrays) for m in (GENDER, REID)}


def _some_boxes(count: int, seed: int = 0, size: int = 512) -> np.ndarray:
    """Return whole-pixel boxes inside an image of size x size."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, size - 140, (count, 2))
    extent = rng.integers(20, 140, (count, 2))
    return np.hstack([corner, corner + extent]).astype(np.float32)


def _expected(
    references: dict[str, Reference], frame: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut with plain OpenCV calls and run through torch."""
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


@pytest.fixture(scope="module")
def crowd(
    references: dict[str, Reference], photograph: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, probabilities and embeddings of one person more than a batch takes."""
    boxes = _some_boxes(MAXIMUM + 1)
    return boxes, *_expected(references, photograph, boxes)


@pytest.mark.parametrize("count", [1, 3, MAXIMUM, MAXIMUM + 1])
def test_served_answers_equal_the_reference(
    client: Client,
    crowd: tuple[np.ndarray, np.ndarray, np.ndarray],
    photograph: np.ndarray,
    count: int,
) -> None:
    boxes, probabilities, embeddings = (each[:count] for each in crowd)
    people = client.attributes(photograph, boxes)
    assert len(people) == count
    assert np.ptp(probabilities) > 0.01 or count == 1, "people must differ"
    np.testing.assert_allclose(people.female_probabilities, probabilities, atol=1e-4)
    np.testing.assert_allclose(people.embeddings, embeddings, atol=1e-3)
    np.testing.assert_allclose(
        np.linalg.norm(people.embeddings, axis=1), 1.0, atol=1e-5
    )
    assert people[count - 1].box == tuple(boxes[-1])


def test_public_crops_give_the_ensembles_answers(
    client: Client, photograph: np.ndarray
) -> None:
    """Users cut people for a network of their own by the same arithmetic."""
    boxes = [[10.4, 20.6, 200.2, 480.9], [-9, 100, 90, 600], [300, 5, 310, 9]]
    people = client.attributes(photograph, boxes)
    for model, output, expected in (
        ("person_gender", "female_probability", people.female_probabilities[:, None]),
        ("person_reid_kd_r18", "embedding", people.embeddings),
    ):
        shape = client.describe(model).crop_shape("crops")
        crops = cut_people(photograph, boxes, shape)
        answer = client.infer(model, {"crops": crops})
        np.testing.assert_array_equal(answer[output], expected)
        assert answer.stand_in_weights == (model,)
    assert people.source is not None
    assert (people.source.model, people.source.untrained) == (REID.name, True)
    assert people.source.weights == answer.weights
    empty = client.attributes(photograph, [])
    assert np.concatenate([empty.embeddings, people.embeddings]).shape == (3, 512)
    assert empty.source == people.source
    reordered = np.ascontiguousarray(crops[..., ::-1])
    swapped = client.infer("person_reid_kd_r18", {"crops": reordered})["embedding"]
    assert not np.allclose(swapped, people.embeddings, atol=1e-2), "order matters"


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


def test_the_exif_orientation_is_applied(
    client: Client, photograph: np.ndarray, tmp_path: Any
) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    path = tmp_path / "turned.jpg"
    Image.fromarray(photograph[:300, :, ::-1]).save(path, quality=95, exif=exif)
    shown = cv2.imread(str(path))
    assert shown.shape == (512, 300, 3)
    box = [[10, 310, 290, 500]]  # only inside the rotated image
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
    for job in range(12):
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
    """Return a PNG of a few bytes that would decode to width x height."""

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


Tensors = Mapping[str, npt.NDArray[Any]]


def _encoded(data: bytes) -> Tensors:
    return {"encoded_frame": np.frombuffer(data, np.uint8)}


def _raw(size: int, *frame_size: int) -> Tensors:
    """A raw frame of some bytes, with or without what it says of its size."""
    pixels = {"raw_frame": np.zeros(size, np.uint8)}
    return pixels | ({"frame_size": np.int32(frame_size)} if frame_size else {})


BAD = {
    "not an image": (_encoded(b"hello"), WHOLE, "5 bytes starting 68 65 .* not decode"),
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
    "BMP": (
        _encoded(cv2.imencode(".bmp", np.zeros((9, 9, 3), np.uint8))[1].tobytes()),
        WHOLE,
        "BMP is not accepted; convert to JPEG, PNG or WebP",
    ),
    "a pixel": (_raw(3, 1, 1), WHOLE + 5, "the frame of 1x1 pixels"),
    "grey": (
        _raw(50 * 50, 50, 50),
        WHOLE,
        r"frame_size \[50, 50\] takes 7500 bytes of raw_frame .*, got 2500",
    ),
    "no size": (_raw(75), WHOLE, r"expected frame_size .* with raw_frame, got none"),
    "no height": (_raw(75, 0, 5), WHOLE, r"expected frame_size .* got \[0, 5\]"),
    "negative size": (_raw(75, -5, -5), WHOLE, r"expected frame_size .*got \[-5, -5"),
    "huge size": (
        _raw(75, 2**31 - 1, 2**31 - 1),
        WHOLE,
        "2147483647x2147483647 is .* pixels, over the limit of 50,000,000",
    ),
    "both frames": (
        {**_encoded(JPEG), **_raw(75, 5, 5)},
        WHOLE,
        r"expected either encoded_frame or raw_frame, got both \(\d+ and 75 bytes\)",
    ),
    "no frame": ({}, WHOLE, "BGR pixels as raw_frame .* got neither"),
    "empty frames": (_encoded(b"") | _raw(0, 0, 0), WHOLE, "got neither"),
    "size of an encoded frame": (
        {**_encoded(JPEG), "frame_size": np.int32([99, 99])},
        WHOLE,
        r"frame_size \[99, 99\] is for raw_frame",
    ),
    "shape of a frame": (
        {"raw_frame": np.zeros((5, 5, 3), np.uint8), "frame_size": np.int32([5, 5])},
        WHOLE,
        r"unexpected shape for input 'raw_frame' .* Expected \[-1\], got \[5,5,3\]",
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
    frame: Tensors | None,
    boxes: np.ndarray,
    message: str,
) -> None:
    frame = tensors_from_frame(photograph) if frame is None else frame
    boxes = boxes.astype(np.float32)
    with pytest.raises(InvalidInputError, match=message) as caught:
        client.infer("person_attributes", {**frame, "boxes": boxes})
    assert caught.value.model == "person_attributes"
    assert caught.value.request_id
    assert len(client.attributes(photograph, WHOLE)) == 1


NEGATIVE = ([-2], [-2, -3], [-1], [-1, -1], [-4, -4], [-1, -4], [1, -4], [-2, 4])


@pytest.mark.parametrize("model", ["person_attributes", "person_preprocess"])
def test_negative_dimensions_are_refused_by_triton_and_end_no_process(
    server: TritonServer, client: Client, photograph: np.ndarray, model: str
) -> None:
    """Two negative dimensions have a positive product; Triton compares only that."""
    pids = {each.pid for each in list_session(server.pid)}
    with grpc.insecure_channel(server.grpc_address) as channel:
        infer = channel.unary_unary(SERVICE + "ModelInfer")
        assert infer(make_request(model).SerializeToString(), timeout=120)
        for name in range(3):
            for shape in (*NEGATIVE, None):
                request = make_request(model)
                tensor = request.inputs[name]
                data = request.raw_input_contents[name]
                tensor.shape[:] = shape or [-d for d in tensor.shape]
                size = abs(int(np.prod(tensor.shape))) * ITEM_BYTES[tensor.datatype]
                request.raw_input_contents[name] = (data * size)[:size]
                with pytest.raises(grpc.RpcError) as caught:
                    infer(request.SerializeToString(), timeout=120)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert re.search(
                    "unexpected shape|byte size mismatch|All input dimensions",
                    caught.value.details(),
                ), (tensor, caught.value.details())
    assert len(client.attributes(photograph, WHOLE)) == 1
    assert {each.pid for each in list_session(server.pid)} == pids


def test_mutated_images_leave_the_server_as_it_was(
    client: Client, photograph: np.ndarray
) -> None:
    """Two such images ended preprocessing for good; tests.fuzz_images makes more."""
    expected = client.attributes(photograph, WHOLE).embeddings
    mutator = Mutator(2)
    decoded = 0
    for index in range(300):
        frame = _encoded(mutator.make(index)[1])
        try:
            client.infer("person_attributes", {**frame, "boxes": WHOLE * 0.05})
        except InvalidInputError as exc:
            assert "frame" in str(exc)  # noqa: PT017
        else:
            decoded += 1
    assert 20 < decoded < 200
    answers = client.attributes(photograph, WHOLE).embeddings
    np.testing.assert_array_equal(answers, expected)


def test_a_bad_request_among_good_ones_fails_alone(
    client: Client, photograph: np.ndarray
) -> None:
    good = client.attributes(photograph, WHOLE).embeddings

    # the client itself would refuse these bytes, so they are sent as a plain tensor
    bad = {**_encoded(b"not an image"), "boxes": WHOLE}

    def call(job: int) -> Any:
        try:
            if job % 3 == 0:
                return client.infer("person_attributes", bad)
            return client.attributes(photograph, WHOLE).embeddings
        except InvalidInputError as exc:
            return exc

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, range(24)))
    for job, answer in enumerate(answers):
        if job % 3 == 0:
            assert isinstance(answer, InvalidInputError)
            assert answer.request_id, "the server has refused it"
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
    crops = seeded_inputs(model)
    served = client.infer(model.name, crops)
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
        client.infer("person_genre", {"crops": np.zeros(1, np.uint8)})
    with pytest.raises(InvalidInputError, match=r"expected inputs \['crops'\]"):
        client.infer("person_gender", {"image": np.zeros(1, np.uint8)})
    with pytest.raises(InvalidInputError, match="expected a NumPy array, got list"):
        client.infer("person_gender", {"crops": [1]})  # type: ignore[dict-item]
    with pytest.raises(RequestTimeoutError, match="timeout_s"):
        client.infer(
            "person_gender",
            {"crops": np.zeros((8, 224, 224, 3), np.uint8)},
            timeout_s=1e-3,
        )
    with (
        Client("127.0.0.1:1") as nowhere,
        pytest.raises(ServerUnavailableError, match="no Triton server answers at"),
    ):
        nowhere.infer("person_gender", {"crops": np.zeros(1, np.uint8)}, timeout_s=2)
    assert client.ready()
    assert client.ready("person_attributes")
    assert not client.ready("person_genre")


def test_video_frames_are_answered_for_every_person(
    client: Client, video: Any, repository: Repository
) -> None:

    assert repository.root.is_dir()
    with Video(Source(str(video), Kind.VIDEO, video.name)) as capture:
        frames = list(capture.read(20, Event()))
    assert len(frames) == 20
    assert sum(len(frame.boxes) for frame in frames) >= 20
    for frame in frames:
        assert len(client.attributes(frame.pixels, frame.boxes)) == len(frame.boxes)


def test_tracks_have_the_means_of_served_answers(
    client: Client, photograph: np.ndarray
) -> None:
    boxes = np.float32([[20, 5, 250, 500], [260, 30, 500, 500]])
    tracks = Tracks(client, rate_hz=1)
    for frame in (photograph, photograph[:, ::-1].copy()):
        latest = tracks.update(frame, boxes, [7, 9])
    assert (tracks.counts.people, tracks.counts.requests) == (4, 2)
    assert [track and track.gender_count for track in latest] == [2, 2]
    answers = client.attributes(photograph, boxes)
    mirrored = client.attributes(photograph[:, ::-1].copy(), boxes)
    for track, first, second in zip(latest, answers, mirrored, strict=True):
        assert track is not None
        assert track.person is not None
        assert track.person.source == answers.source
        assert track.person.stand_in_weights == answers.stand_in_weights
        assert track.person.similarity(first) > first.similarity(second)
        probabilities = [
            person.gender.female_probability
            for person in (first, track, second)
            if person.gender is not None
        ]
        assert probabilities[1] == pytest.approx(np.mean(probabilities), abs=0.05)
        low, _, high = sorted(probabilities)
        assert low - 1e-5 <= probabilities[1] <= high + 1e-5
