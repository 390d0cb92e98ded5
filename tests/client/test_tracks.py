"""People over time: which requests are made, what is averaged, and who is who."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from personserve import (
    AsyncClient,
    AsyncMockTransport,
    AsyncTracks,
    Client,
    Infer,
    InvalidInputError,
    MockTransport,
    RequestPolicy,
    Retry,
    ServerUnavailableError,
    Track,
    Tracks,
    describe_mock_models,
)
from personserve.gallery import BaseGallery, MemoryGallery
from personserve.tracks.means import EmbeddingMean, GenderMean
from personserve.tracks.policy import View
from personserve.tracks.quality import LoadedFrame, rate_boxes
from personserve.tracks.results import read_result
from personserve.tracks.state import MAX_SPANS, extend_spans

RATE_HZ = 10
SIZE_WH = (640, 480)

RED, GREEN, BLUE = range(3)
"""People, whose boxes have one colour each."""

COLOURS = np.uint8([[40, 40, 220], [40, 220, 40], [220, 40, 40]])
FEMALE = np.float32([0.9, 0.2, 0.55])


def _embedding(person: int, noise: int = 0) -> np.ndarray:
    """Return an embedding near the person's own, at a cosine of about 0.8."""
    own = np.random.default_rng(person).normal(size=512)
    other = np.random.default_rng(1000 + noise).normal(size=512)
    vector = own + 0.75 * other * (noise > 0)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@dataclass
class Street:
    """People of one colour each, the server that knows them, and its requests."""

    genders: np.ndarray = field(default_factory=FEMALE.copy)
    wrong: dict[int, int] = field(default_factory=dict)
    """Number of an answer (from 1) and the person that it takes the box for."""

    answered: list[int] = field(default_factory=list)

    def answer(self, request: Infer) -> dict[str, np.ndarray]:
        probabilities, embeddings = [], []
        for crop in np.asarray(request.inputs["reid_crops"]):
            bgr = crop[100:280, 40:90].mean(axis=(0, 1))[::-1]
            person = int(np.linalg.norm(COLOURS - bgr, axis=1).argmin())
            self.answered.append(person)
            person = self.wrong.get(len(self.answered), person)
            probabilities.append([self.genders[person]])
            embeddings.append(_embedding(person, len(self.answered)))
        return {
            "female_probability": np.float32(probabilities),
            "embedding": np.float32(embeddings),
        }

    def tracks(self, *, abstain_below: float = 0.0, **options: Any) -> Tracks:
        client = Client(
            transport=MockTransport(self.answer), abstain_below=abstain_below
        )
        options = {"rate_hz": RATE_HZ, "crop_on": "client"} | options
        return Tracks(client, **options)


def _box(x: float, height: float = 200, y: float = 150) -> list[float]:
    return [x, y, x + height / 2.5, y + height]


def _draw(boxes: Sequence[Sequence[float]], people: Sequence[int]) -> np.ndarray:
    width, height = SIZE_WH
    frame = np.full((height, width, 3), 128, np.uint8)
    for (x0, y0, x1, y1), person in zip(np.int_(boxes), people, strict=True):
        frame[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = COLOURS[person]
    # stripes, so that the boxes have edges
    frame[::8] //= 2
    return frame


def _gallery() -> BaseGallery:
    gallery = MemoryGallery()
    gallery.set_threshold(0.4)
    return gallery


def _walk(
    tracks: Tracks,
    frames: int,
    people: Sequence[int],
    ids: Sequence[Any],
    x: float = 50,
) -> list[Track]:
    """Let people walk side by side, and return their tracks at the last frame."""
    latest: list[Track | None] = []
    for step in range(frames):
        boxes = [_box(x + 150 * i + step) for i in range(len(people))]
        latest = tracks.update(_draw(boxes, people), boxes, ids)
    assert None not in latest
    return [track for track in latest if track is not None]


# ---- which people are asked about --------------------------------------------------


def test_a_person_is_asked_about_at_intervals_that_double() -> None:
    street = Street()
    tracks = street.tracks()
    asked = []
    for step in range(400):
        before = len(street.answered)
        boxes = [_box(50 + step / 10)]
        tracks.update(_draw(boxes, [RED]), boxes, [7])
        asked += [step] * (len(street.answered) - before)
    assert asked == [0, 10, 30, 70, 150, 310]
    counts = tracks.counts
    assert (counts.frames, counts.boxes, counts.people) == (400, 400, 6)
    assert counts.reasons == {"new": 1, "interval": 5}


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View(0.0), None),
        (View(0.1), "new"),
        (View(0.5, 0.5, 1, waited_s=0.9), None),
        (View(0.5, 0.5, 1, waited_s=1.0), "interval"),
        (View(0.5, 0.5, 2, waited_s=1.0), None),
        (View(0.5, 0.5, 99, waited_s=29.9), None),
        (View(0.5, 0.5, 99, waited_s=30.0), "interval"),
        (View(0.74, 0.5, 1, waited_s=0.1), None),
        (View(0.75, 0.5, 1, waited_s=0.1), "better"),
        (View(0.2, 0.5, 1, waited_s=1.9), None),  # it waits for a better view
        (View(0.2, 0.5, 1, waited_s=2.0), "interval"),
        (View(0.5, 0.5, 1, waited_s=0.1, in_doubt=True), "doubt"),
        (View(0.5, 0.5, 8, waited_s=1.0, is_settled=False), "interval"),
        (View(0.5, 0.5, 8, waited_s=0.9, is_settled=False), None),
        (View(0.5, 0.5, 10, waited_s=3.9, is_settled=False), None),
    ],
)
def test_the_policy_weighs_view_and_time(view: View, reason: str | None) -> None:
    assert RequestPolicy().choose_reason(view) == reason


def test_a_person_who_comes_nearer_is_asked_about_again() -> None:
    street = Street()
    tracks = street.tracks()
    for height in range(60, 300, 4):  # 6 s
        boxes = [_box(50, height, 100)]
        tracks.update(_draw(boxes, [RED]), boxes, [7])
    assert tracks.counts.reasons["better"] == 3  # 60 to 300 is 1.5 ** 3.97
    assert tracks.counts.people <= 5


def test_no_person_is_asked_about_outside_the_frame() -> None:
    street = Street()
    tracks = street.tracks()
    nan = float("nan")
    boxes = [[-300, 0, -200, 200], [700, 0, 800, 200], [nan, 0, 90, 200], [9, 9, 9, 9]]
    latest = tracks.update(np.zeros((480, 640, 3), np.uint8), boxes, [1, 2, 3, 4])
    assert not street.answered
    assert [track and track.person for track in latest] == [None] * 4
    assert [track and track.label() for track in latest] == ["1", "2", "3", "4"]


def test_a_failed_request_is_repeated_at_the_next_frame() -> None:
    street = Street()
    failures = iter([True, False])

    def answer(request: Infer) -> dict[str, np.ndarray]:
        if next(failures):
            raise ServerUnavailableError("gone")
        return street.answer(request)

    client = Client(transport=MockTransport(answer), retry=Retry(attempts=1))
    tracks = Tracks(client, rate_hz=RATE_HZ, crop_on="client")
    boxes = [_box(50)]
    frame = _draw(boxes, [RED])
    with pytest.raises(ServerUnavailableError):
        tracks.update(frame, boxes, [7])
    (track,) = tracks.update(frame, boxes, [7])
    assert track is not None
    assert (track.gender_count, track.frame_count) == (1, 2)
    assert tracks.counts.requests == 1


def test_the_quality_of_a_box_is_size_visibility_and_sharpness() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    blurred = np.full_like(noise, 128)
    front, behind = _box(100, 300, 100), _box(140, 200, 120)
    small, cut = _box(400, 100), _box(600, 200)
    boxes = np.float32([front, behind, small, cut])
    near, hidden, far, partial = rate_boxes(LoadedFrame.from_image(noise), boxes)
    assert near.value > 0.7
    assert hidden.value == 0.0  # over 80 % behind the person in front
    assert hidden.overlap == near.overlap > 0.3
    assert far.value == pytest.approx(near.value / 3, rel=0.1)
    assert partial.value == pytest.approx(near.value / 3, rel=0.1)  # half outside
    (flat, *_) = rate_boxes(LoadedFrame.from_image(blurred), boxes)
    assert flat.value == pytest.approx(0.1 * 300 / 384)  # it may be dark
    encoded = LoadedFrame((640, 480), None)
    assert rate_boxes(encoded, boxes)[0].value == pytest.approx(300 / 384)


# ---- the means ---------------------------------------------------------------------


def test_the_gender_is_the_weighted_mean_of_log_odds() -> None:
    mean = GenderMean()
    mean.add(0.9, 1.0)
    mean.add(0.2, 0.5)
    log_odds = (np.log(9) + 0.5 * np.log(0.25)) / 1.5
    assert mean.female_probability == pytest.approx(1 / (1 + np.exp(-log_odds)))
    certain = GenderMean()
    nearly = GenderMean()
    for probability in (1.0, 0.1, 0.1, 0.1, 0.1):  # one certain answer is no majority
        certain.add(probability, 1.0)
        nearly.add(min(probability, 1 - 1e-9), 1.0)
    assert nearly == certain
    assert certain.female_probability == pytest.approx(0.407, abs=0.001)
    assert GenderMean().female_probability is None


def test_a_gender_is_settled_if_the_threshold_is_not_near() -> None:
    mean = GenderMean()
    mean.add(0.52, 1.0)
    assert mean.is_settled(0.5), "one answer tells nothing about the error"
    mean.add(0.52, 1.0)
    assert mean.is_settled(0.5), "equal answers have no error"
    mean.add(0.4, 1.0)
    assert not mean.is_settled(0.5)
    assert mean.is_settled(0.9)
    values = np.random.default_rng(0).normal(0.3, 1.0, 100)  # error of the mean: 0.1
    many = GenderMean()
    for value in values:
        many.add(1 / (1 + np.exp(-value)), 0.5)
    center, error = values.mean(), values.std(ddof=1) / 10
    for distance in (1.9, 2.1):
        threshold = 1 / (1 + np.exp(-(center - distance * error)))
        assert many.is_settled(threshold) == (distance > 2)


def test_an_undecided_person_is_asked_about_more_often() -> None:
    people = []
    for abstain_below in (0.0, 0.95):
        tracks = Street().tracks(abstain_below=abstain_below)
        _walk(tracks, 60, [RED], [1])
        people.append(tracks.counts.people)
    assert people == [3, 6]


def test_the_embedding_is_the_normalised_mean() -> None:
    mean = EmbeddingMean()
    mean.add(np.float32([1, 0]), 1.0)
    mean.add(np.float32([0, 1]), 0.5)
    assert mean.embedding == pytest.approx(np.float32([2, 1]) / np.sqrt(5))
    opposite = EmbeddingMean()
    opposite.add(np.float32([1, 0]), 1.0)
    opposite.add(np.float32([-1, 0]), 1.0)
    assert opposite.embedding is None


def test_a_track_has_the_means_of_its_answers() -> None:
    street = Street()
    tracks = street.tracks()
    red, green = _walk(tracks, 31, [RED, GREEN], [7, 9])
    assert (red.id, red.tracker_id, green.id, green.tracker_id) == (1, 7, 2, 9)
    assert red.gender is not None
    assert red.gender.label == "female"
    assert red.gender.female_probability == pytest.approx(0.9, abs=1e-5)
    assert (red.gender_count, red.embedding_count, red.frame_count) == (3, 3, 31)
    assert (red.first_s, red.last_s, red.answered_s, red.age_s) == (0, 3, 3, 0)
    assert red.embedding is not None
    assert np.linalg.norm(red.embedding) == pytest.approx(1)
    own = red.embedding @ _embedding(RED)
    assert own > max(_embedding(RED, n) @ _embedding(RED) for n in range(1, 7))
    assert red.person is not None
    assert green.person is not None
    assert red.person.similarity(green.person) < 0.2
    assert red.person.box == red.box == (80, 150, 160, 350)


def test_an_undecided_mean_abstains() -> None:
    street = Street(genders=np.float32([0.7, 0.2, 0.55]))
    tracks = street.tracks(abstain_below=0.75)
    red, green = _walk(tracks, 2, [RED, GREEN], [1, 2])
    assert red.gender is not None
    assert green.gender is not None
    assert (red.gender.abstained, green.gender.abstained) == (True, False)
    assert red.label().startswith("1: undecided 0.70")


def test_embeddings_of_replaced_weights_are_not_mixed() -> None:
    street = Street()
    tracks = street.tracks()
    models = describe_mock_models()
    parameters = {**models[1].parameters, "embedding.weights": "others"}
    _walk(tracks, 11, [RED], [1])
    changed = [replace(model, parameters=parameters) for model in models]
    tracks._client = Client(transport=MockTransport(street.answer, models=changed))
    (track,) = _walk(tracks, 20, [RED], [1], x=60)
    assert (track.gender_count, track.embedding_count) == (3, 1)
    assert track.person is not None
    assert track.person.source is not None
    assert track.person.source.weights == "others"


# ---- whose id is whose -------------------------------------------------------------


def test_a_person_with_a_new_id_is_recognised() -> None:
    street = Street()
    tracks = street.tracks(gallery=_gallery())
    _walk(tracks, 12, [RED, GREEN], [1, 2])
    _walk(tracks, 20, [], [])
    green, blue = _walk(tracks, 12, [GREEN, BLUE], [8, 9])
    assert (green.id, green.tracker_id, green.rejoined_count) == (2, 8, 1)
    assert (blue.id, blue.rejoined_count) == (4, 0)
    assert green.spans == pytest.approx(np.array([(0, 1.1), (3.2, 4.3)]))
    assert green.frame_count == 24
    assert [track.id for track in tracks] == [1, 2, 4]


def test_without_a_gallery_a_new_id_is_another_person() -> None:
    tracks = Street().tracks()
    _walk(tracks, 5, [RED], [1])
    (track,) = _walk(tracks, 5, [RED], [2])
    assert track.id == 2


def test_a_person_is_forgotten_after_the_time_limit() -> None:
    ended: list[Track] = []
    gallery = _gallery()
    tracks = Street().tracks(gallery=gallery, lost_s=2, on_end=ended.append)
    _walk(tracks, 5, [RED], [1])
    _walk(tracks, 10, [GREEN], [2])
    assert not ended
    assert list(gallery) == ["1"]
    _walk(tracks, 12, [GREEN], [2])
    assert [track.id for track in ended] == [1]
    assert not list(gallery)
    (track,) = _walk(tracks, 5, [RED], [3])
    assert track.id == 3
    assert [track.id for track in tracks.end()] == [2, 3]
    assert [track.id for track in ended] == [1, 2, 3]
    assert len(tracks) == 0


def test_only_absent_people_are_in_the_gallery() -> None:
    gallery = _gallery()
    tracks = Street().tracks(gallery=gallery)
    _walk(tracks, 5, [RED], [1])
    _walk(tracks, 5, [GREEN], [2])
    assert [(each.id, each.payload["track"]) for each in gallery.entries()] == [
        ("1", "1")
    ]
    _walk(tracks, 5, [RED, BLUE], [1, 3])  # the tracker itself has kept the id
    assert list(gallery) == ["2"]


def test_people_who_were_in_one_frame_are_two() -> None:
    street = Street()
    tracks = street.tracks(gallery=_gallery())
    _walk(tracks, 3, [RED, RED], [1, 2])  # twins
    first, third = _walk(tracks, 12, [RED, RED], [1, 3])
    assert (first.id, third.id) == (1, 2)  # the second one has come back
    assert len(tracks) == 2


def _cross(tracks: Tracks) -> list[tuple[Track, Track]]:
    """Let two people cross, with a tracker that confuses them while they do."""
    pairs = []
    for step in range(60):
        red, green = _box(20 + 8 * step), _box(500 - 8 * step, 200, 140)
        ids = [1, 2] if step < 30 else [2, 1]
        frame = _draw([green, red], [GREEN, RED])
        first, second = tracks.update(frame, [red, green], ids)
        assert first is not None
        assert second is not None
        pairs.append((first, second))
    return pairs


def test_people_whom_the_tracker_confuses_keep_their_numbers() -> None:
    tracks = Street().tracks(gallery=_gallery())
    pairs = _cross(tracks)
    red, green = pairs[-1]
    assert (red.id, red.tracker_id) == (1, 2)
    assert (green.id, green.tracker_id) == (2, 1)
    assert len(tracks) == 2
    assert red.gender is not None
    assert red.gender.female_probability == pytest.approx(0.9, abs=0.001)
    assert 2 <= tracks.counts.reasons["doubt"] <= 4  # a second look at each
    assert tracks.counts.people < 20
    wrong = sum((a.id, b.id) != (1, 2) for a, b in pairs)
    assert wrong <= 12, "the switch is noticed when the two are apart"


def test_without_a_gallery_a_confused_tracker_mixes_people() -> None:
    tracks = Street().tracks()
    red, _ = _cross(tracks)[-1]
    assert red.id == 2
    assert "doubt" not in tracks.counts.reasons


def test_one_odd_answer_does_not_split_a_track() -> None:
    street = Street(wrong={2: GREEN})
    tracks = street.tracks(gallery=_gallery())
    (track,) = _walk(tracks, 12, [RED], [1])
    assert track.id == 1
    assert len(street.answered) == 3
    assert track.gender_count == 2  # without the odd one
    assert track.gender is not None
    assert track.gender.female_probability == pytest.approx(0.9, abs=1e-5)


def test_odd_answers_that_do_not_agree_do_not_split_a_track() -> None:
    street = Street(wrong={2: GREEN, 3: BLUE, 4: GREEN})
    gallery = _gallery()
    gallery.set_threshold(0.3)
    tracks = street.tracks(gallery=gallery)
    (track,) = _walk(tracks, 60, [RED], [1])
    assert len(street.answered) >= 5
    assert (track.id, len(tracks)) == (1, 1)


def test_ids_are_random_and_people_are_not() -> None:
    """A tracker that renames each person every 15 frames."""
    street = Street()
    tracks = street.tracks(gallery=_gallery())
    for part in range(8):
        red, green, blue = _walk(
            tracks, 15, [RED, GREEN, BLUE], [f"{part}-{i}" for i in (2, 0, 1)]
        )
        assert (red.id, green.id, blue.id) == (1, 2, 3)
    assert red.rejoined_count == 7
    assert len(tracks) == 3


# ---- limits ------------------------------------------------------------------------


def test_memory_is_bounded() -> None:
    ended: list[int] = []
    gallery = _gallery()
    gallery.set_threshold(0.99)  # no person looks like another
    tracks = Street().tracks(
        gallery=gallery,
        max_tracks=5,
        lost_s=1e6,
        on_end=lambda track: ended.append(track.id),
    )
    boxes = [_box(50)]
    frame = _draw(boxes, [RED])
    for index in range(60):
        tracks.update(frame, boxes, [index])
    assert len(tracks) == 5
    assert len(gallery) <= 5
    assert len(tracks._table._by_tracker) <= 5
    assert ended == list(range(1, 56))
    with pytest.raises(
        InvalidInputError, match="6 people in a frame; expected at most"
    ):
        tracks.update(frame, boxes * 6, list(range(6)))


def test_spans_are_bounded() -> None:
    spans: list[tuple[float, float]] = []
    for start in range(0, 4 * MAX_SPANS, 2):
        spans = extend_spans(spans, (float(start), start + 0.5))
    assert len(spans) == MAX_SPANS
    assert (spans[0][0], spans[-1][1]) == (0.0, 4 * MAX_SPANS - 2 + 0.5)
    assert extend_spans([(0.0, 1.0)], (1.9, 2.0)) == [(0.0, 2.0)]


def test_thumbnails_are_small_copies() -> None:
    (track,) = _walk(Street().tracks(), 2, [RED], [1])
    assert track.thumbnail is not None
    assert track.thumbnail.shape == (96, 38, 3)
    assert track.thumbnail.base is None or track.thumbnail.base.nbytes < 20000
    assert "data:image/jpeg" in track._repr_html_()


def _run_scene(tracks: Tracks) -> list[str]:
    rng = np.random.default_rng(3)
    texts = []
    for part in range(4):
        people = rng.permutation(3)
        for track in _walk(tracks, 9, people, [f"{part}{p}" for p in people]):
            values = track.to_dict(embedding=True)
            texts.append(json.dumps(values))
    return texts


def test_the_same_frames_give_the_same_tracks() -> None:
    first = _run_scene(Street().tracks(gallery=_gallery()))
    assert first == _run_scene(Street().tracks(gallery=_gallery()))


def test_the_asynchronous_client_gives_the_same_tracks() -> None:
    street = Street()
    client = AsyncClient(transport=AsyncMockTransport(street.answer))
    tracks = AsyncTracks(client, rate_hz=RATE_HZ, crop_on="client")

    class Waiting:
        def update(self, *arguments: Any) -> list[Track | None]:
            return asyncio.run(tracks.update(*arguments))

    expected = _run_scene(Street().tracks())
    assert _run_scene(Waiting()) == expected  # type: ignore[arg-type]


def test_threads_may_share_tracks() -> None:
    street = Street()
    tracks = street.tracks(gallery=_gallery(), lost_s=1e6)
    frame = _draw([_box(50), _box(300)], [RED, GREEN])
    start = threading.Barrier(4)

    def follow(thread: int) -> None:
        start.wait()
        for _ in range(25):
            boxes = [_box(50), _box(300)]
            names = [f"{thread}a", f"{thread}b"]
            latest = tracks.update(frame, boxes, names, time_s=0)
            assert [each and each.tracker_id for each in latest] == names
            assert list(tracks)

    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(follow, range(4)))
    finally:
        sys.setswitchinterval(switch_s)
    counts = tracks.counts
    assert (counts.frames, counts.boxes) == (100, 200)
    assert (counts.people, len(street.answered)) == (8, 8), "each was asked about once"
    assert sorted(track.frame_count for track in tracks) == [25] * 8


def test_a_person_is_not_asked_about_twice_at_once() -> None:
    street = Street()
    asked, release = threading.Event(), threading.Event()

    def answer(request: Infer) -> dict[str, np.ndarray]:
        asked.set()
        assert release.wait(60)
        return street.answer(request)

    tracks = Tracks(Client(transport=MockTransport(answer)), crop_on="client")
    boxes = [_box(50)]
    frame = _draw(boxes, [RED])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(tracks.update, frame, boxes, [1])
        assert asked.wait(60)
        (track,) = tracks.update(frame, boxes, [1])
        assert track is not None
        assert track.person is None
        release.set()
        first.result(60)
    assert len(street.answered) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_hz": 0}, "rate_hz over 0"),
        ({"max_tracks": 0}, "max_tracks of at least 1"),
        ({"gallery": MemoryGallery()}, "has no threshold"),
    ],
)
def test_unusable_arguments_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Street().tracks(**options)
    with pytest.raises(InvalidInputError, match="first_interval_s <= refresh_s"):
        RequestPolicy(first_interval_s=31)


def test_time_does_not_go_back() -> None:
    tracks = Street().tracks()
    boxes = [_box(50)]
    frame = _draw(boxes, [RED])
    tracks.update(frame, boxes, [1], time_s=5)
    for time_s in (4.9, None, float("nan")):
        with pytest.raises(
            InvalidInputError, match="not before the previous frame's 5"
        ):
            tracks.update(frame, boxes, [1], time_s=time_s)
    assert len(next(iter(tracks)).spans) == 1


# ---- the results of trackers -------------------------------------------------------

BOXES = [[1.0, 2, 3, 4], [5, 6, 7, 8]]


def _deepsort(id_: str, *, confirmed: bool = True, age: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        track_id=id_,
        to_ltrb=lambda: np.float64(BOXES[int(id_) % 2]),
        is_confirmed=lambda: confirmed,
        time_since_update=age,
    )


def _results() -> Iterator[tuple[Any, Any, list[Any]]]:
    xyxy = np.float32(BOXES)
    detections = SimpleNamespace(
        xyxy=xyxy, class_id=np.zeros(2, int), data={}, tracker_id=np.array([4, -1])
    )
    yield "supervision", detections, [4, None]
    boxes = SimpleNamespace(xyxy=xyxy, cls=np.zeros(2), id=np.float32([3, 8]))
    yield "ultralytics", [SimpleNamespace(boxes=boxes, names={0: "person"})], [3, 8]
    new = SimpleNamespace(xyxy=xyxy, cls=np.zeros(2), id=None)
    yield "new", SimpleNamespace(boxes=new, names={0: "person"}), [None, None]
    tracks = [_deepsort("2"), _deepsort("3"), _deepsort("4", confirmed=False)]
    yield "deepsort", [*tracks, _deepsort("6", age=3)], ["2", "3"]
    boxmot = np.float32([[*BOXES[0], 5, 0.9, 0, 0], [*BOXES[1], 6, 0.8, 0, 1]])
    yield "boxmot", boxmot, [5, 6]
    yield "sort", boxmot[:, :5].astype(np.float64), [5, 6]


@pytest.mark.parametrize(("name", "result", "ids"), list(_results()))
def test_results_of_trackers_are_read(name: str, result: Any, ids: list[Any]) -> None:
    tracked = read_result(result)
    assert tracked.boxes == pytest.approx(np.float32(BOXES)), name
    assert list(tracked.ids) == ids


@pytest.mark.parametrize(
    "result",
    [
        np.empty((0, 8)),
        [],
        SimpleNamespace(xyxy=np.empty((0, 4)), class_id=None, data={}, tracker_id=None),
        SimpleNamespace(boxes=SimpleNamespace(xyxy=np.empty((0, 4)), id=None)),
    ],
)
def test_results_without_people_are_read(result: Any) -> None:
    assert read_result(result).ids == ()
    assert read_result(result).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "ids", "message"),
    [
        (BOXES, None, "boxes without track ids: pass ids="),
        (BOXES, [1], "1 track ids for 2 boxes"),
        (BOXES, [1, 1], "track id 1 has two boxes"),
        (BOXES, [1, 2.5], "track id 2.5: expected an integer or text"),
        (BOXES, [True, 2], "track id True"),
        (
            SimpleNamespace(xyxy=np.float32(BOXES), class_id=None, tracker_id=None),
            None,
            "have no tracker_id: pass them through a tracker",
        ),
    ],
)
def test_results_without_ids_are_refused(boxes: Any, ids: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_result(boxes, ids)


def test_real_detections_of_supervision_are_read() -> None:
    sv = pytest.importorskip("supervision")
    detections = sv.Detections(xyxy=np.float32(BOXES), tracker_id=np.array([7, 9]))
    assert read_result(detections).ids == (7, 9)


def test_tracks_describe_themselves() -> None:
    models = describe_mock_models(stand_in_weights=["person_gender"])
    street = Street()
    client = Client(transport=MockTransport(street.answer, models=models))
    tracks = Tracks(client, rate_hz=RATE_HZ, crop_on="client")
    (track,) = _walk(tracks, 12, [RED], [1])
    assert repr(track) == (
        "<Track 1: female 0.90, 2 answers for 12 frames, 0.0 to 1.1 s; UNTRAINED "
        "weights: person_gender>"
    )
    assert repr(tracks) == (
        "<Tracks: 1; asked about 2 of 12 boxes, in 2 requests for 12 frames; UNTRAINED "
        "weights: person_gender>"
    )
    assert "Untrained stand-in weights" in tracks._repr_html_()
    values = json.loads(json.dumps(track.to_dict()))
    assert values["gender"]["label"] == "female"
    assert values["spans"] == [[0.0, 1.1]]
    assert "embedding" not in values
    assert len(track.to_dict(embedding=True)["embedding"]) == 512
