"""Archives in one process: items, answers, dead letters, and a run that is resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders.repository.layout import ROOT
from personserve import (
    Client,
    InvalidInputError,
    MockTransport,
    PersonServeError,
    ServerUnavailableError,
    describe_mock_models,
)
from personserve.bulk import answer_archive, read_answers, read_dead_letters, worker
from personserve.bulk.sources import find_items
from personserve.images.videos import read_span
from tests.client.conftest import Run, write_image, write_video


def answer(request: Any) -> dict[str, np.ndarray]:
    """Answer about each crop by its pixels alone, in whatever batch it is."""
    crops = request.inputs["reid_crops"].reshape(len(request.inputs["reid_crops"]), -1)
    rngs = [np.random.default_rng(int(crop.sum())) for crop in crops]
    vectors = np.float32([rng.normal(size=512) for rng in rngs])
    return {
        "female_probability": np.float32([[rng.random()] for rng in rngs]),
        "embedding": vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    }


def open_mock(stand_ins: tuple[str, ...] = ()) -> Client:
    models = describe_mock_models(stand_in_weights=stand_ins)
    return Client(transport=MockTransport(answer, models=models))


def open_other_weights() -> Client:
    models = [
        replace(each, parameters={**each.parameters, "embedding.weights": "others"})
        for each in describe_mock_models()
    ]
    return Client(transport=MockTransport(answer, models=models))


def detect_left_half(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.float32([[0, 0, width / 2, height]])


def detect_until_killed(image: np.ndarray) -> np.ndarray:
    """Detect, and end the process as `kill -9` does at the third image."""
    calls = Path(os.environ["BULK_CALLS"])
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if calls.read_text() == "xxx":
        os.kill(os.getpid(), signal.SIGKILL)
    return detect_left_half(image)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    folder = tmp_path / "crops"
    for index in range(10):
        write_image(folder / f"{index}.png", index)
    (folder / "5b.jpg").write_bytes(b"\xff\xd8\xffdamaged")
    return folder


def test_each_crop_is_a_row_and_a_damaged_one_a_dead_letter(
    crops: Path, tmp_path: Path
) -> None:
    outcome = answer_archive([str(crops)], tmp_path / "out", open_mock, batch_items=4)
    assert (outcome.items, outcome.items_done, outcome.people) == (11, 11, 10)
    assert outcome.dead_letters == 1
    table = read_answers(tmp_path / "out")
    assert sorted(table["source"].to_pylist()) == [
        str(crops / f"{index}.png") for index in range(10)
    ]
    with open_mock() as client:
        images = [cv2.imread(name) for name in table["source"].to_pylist()]
        expected = client.attributes_of_crops(images)
    embeddings = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(embeddings, expected.embeddings)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 512)
    assert table["x0"].null_count == table["frame"].null_count == 10
    assert "person_reid_kd_r18" in table["weights"][0].as_py()
    (letter,) = read_dead_letters(tmp_path / "out")
    assert letter.source == str(crops / "5b.jpg")
    assert "JPEG" in letter.reason


def test_a_second_run_adds_only_what_is_new(crops: Path, tmp_path: Path) -> None:
    run = partial(answer_archive, [str(crops)], tmp_path / "out", open_mock)
    run(batch_items=4)
    before = read_answers(tmp_path / "out")
    assert run(batch_items=4).items_done == 0
    write_image(crops / "0b.png", 77)  # moves the boundaries of all batches
    outcome = run(batch_items=4)
    assert (outcome.items_before, outcome.items_done, outcome.people) == (11, 1, 1)
    after = read_answers(tmp_path / "out")
    assert len(after) == len(before) + 1
    assert set(before["id"].to_pylist()) < set(after["id"].to_pylist())


def test_a_killed_run_is_resumed_to_the_same_rows(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    for index in range(6):
        write_image(frames / f"{index}.png", index)
    script = (
        "import sys; from tests.client.test_bulk import *; "
        "answer_archive([sys.argv[1]], sys.argv[2], open_mock, detect=True, "
        "batch_items=1, detector=detect_until_killed)"
    )
    environment = {**os.environ, "BULK_CALLS": str(tmp_path / "calls")}
    command = [sys.executable, "-c", script, str(frames), str(tmp_path / "killed")]
    codes = [
        subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        for _ in range(2)
    ]
    assert codes == [-signal.SIGKILL, 0]
    answer_archive(
        [str(frames)],
        tmp_path / "whole",
        open_mock,
        detect=True,
        batch_items=6,
        detector=detect_left_half,
    )
    killed, whole = read_answers(tmp_path / "killed"), read_answers(tmp_path / "whole")
    assert killed.equals(whole)
    assert len(whole) == 6
    assert (
        len((tmp_path / "calls").read_text()) == 7
    )  # only the killed one was repeated


def test_a_folder_belongs_to_one_model_and_one_choice_of_frames(
    crops: Path, tmp_path: Path
) -> None:
    run = partial(answer_archive, [str(crops)], tmp_path / "out")
    run(open_mock)
    with pytest.raises(InvalidInputError, match="answers of person_attributes"):
        run(open_other_weights)
    with pytest.raises(InvalidInputError, match=r'"every": 1.*"every": 2'):
        run(open_mock, every=2)
    with pytest.raises(InvalidInputError, match="expected a folder that `personserve"):
        read_answers(crops)


def test_a_server_that_fails_ends_the_run_and_keeps_what_is_complete(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "CALL_PAUSE_S", 0.0)
    calls: list[Any] = []

    def fail_later(request: Any) -> Any:
        calls.append(request)
        if len(calls) > 1:
            raise ServerUnavailableError("gone")
        return answer(request)

    def open_client() -> Client:
        return Client(transport=MockTransport(fail_later), timeout_s=0.2)

    run = partial(answer_archive, [str(crops)], tmp_path / "out", batch_items=4)
    with pytest.raises(PersonServeError, match="gone; 4 items are complete"):
        run(open_client)
    assert len(read_answers(tmp_path / "out")) == 4
    assert run(open_mock).items_before == 4


def test_a_bad_box_is_a_dead_letter_and_the_others_are_answered(tmp_path: Path) -> None:
    image = write_image(tmp_path / "street.png", 3)
    boxes = [[1, 2, 60, 100], [200, 0, 210, 9], [1, 2, 60, 100], [70, 2, 100, 100]]
    rows = [
        {
            "source": "street.png",
            **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
        }
        for box in boxes
    ]
    table = tmp_path / "boxes.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = answer_archive([str(table)], tmp_path / "out", open_mock)
    assert (outcome.people, outcome.dead_letters) == (2, 1)  # one box was given twice
    answers = read_answers(tmp_path / "out", ["source", "x0"])
    assert sorted(answers["x0"].to_pylist()) == [1, 70]
    (letter,) = read_dead_letters(tmp_path / "out")
    assert letter.reason == (
        "box (200, 0, 210, 9) is outside the frame of 128x128 pixels"
    )
    assert letter.source == str(image)


def test_a_table_of_answers_is_a_table_of_boxes(tmp_path: Path) -> None:
    video = write_video(tmp_path / "street.avi", 12, 10.0)
    run = partial(answer_archive, open_client=open_mock, every=3)
    run([str(video)], tmp_path / "one", detector=detect_left_half)
    one = read_answers(tmp_path / "one")
    assert sorted(one["frame"].to_pylist()) == [0, 3, 6, 9]
    assert max(one["time_s"].to_pylist()) == pytest.approx(0.9)
    pq.write_table(one, tmp_path / "boxes.parquet")
    run([str(tmp_path / "boxes.parquet")], tmp_path / "two")
    assert read_answers(tmp_path / "two").equals(one)


@pytest.mark.parametrize(
    "line", ["[1]", '{"source": "a.jpg"}', '{"source": "a.jpg", "x0": "left"}', "{"]
)
def test_a_row_of_boxes_that_is_wrong_is_named(line: str, tmp_path: Path) -> None:
    table = tmp_path / "boxes.jsonl"
    table.write_text(line + "\n")
    with pytest.raises(InvalidInputError, match=r"boxes\.jsonl.*expected"):
        find_items([str(table)], detect=False, every=1, span_frames=8)


def test_spans_of_a_video_are_the_frames_of_the_whole(video: Path) -> None:
    whole = {index: pixels for index, _, pixels in read_span(str(video), 0, 40)}
    for start in (0, 7, 24):
        for index, _, pixels in read_span(str(video), start, start + 5):
            np.testing.assert_array_equal(pixels, whole[index])
    with pytest.raises(InvalidInputError, match="cannot read frame"):
        list(read_span(str(video), 0, 10**6, 10**5))


def test_a_damaged_video_is_a_dead_letter(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    outcome = answer_archive(
        [str(tmp_path / "broken.mp4")], tmp_path / "out", open_mock
    )
    assert (outcome.people, outcome.dead_letters) == (0, 1)


@pytest.fixture
def bucket() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    with system.open("/bucket/a.png", "wb") as file:
        file.write(
            cv2.imencode(".png", np.full((64, 32, 3), 50, np.uint8))[1].tobytes()
        )
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def test_urls_of_fsspec_are_sources(bucket: str, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 3, 10.0)
    fsspec.filesystem("memory").put(str(video), "/bucket/clip.avi")
    run = partial(answer_archive, output=tmp_path / "out", open_client=open_mock)
    outcome = run([bucket], detector=detect_left_half)
    assert outcome.people == 4
    sources = set(read_answers(tmp_path / "out")["source"].to_pylist())
    assert sources == {"memory:///bucket/a.png", "memory:///bucket/clip.avi"}
    with pytest.raises(InvalidInputError, match="no such file or folder"):
        run(["memory://elsewhere"])
    with pytest.raises(InvalidInputError, match="cannot list nowhere://x"):
        run(["nowhere://x"])


def test_frames_without_boxes_need_a_detector(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 3, 10.0)
    with pytest.raises(PersonServeError, match="there is no detector"):
        answer_archive([str(video)], tmp_path / "out", open_mock)


def test_two_runs_do_not_write_to_one_folder(crops: Path, tmp_path: Path) -> None:
    def run_another(_outcome: Any) -> None:
        answer_archive([str(crops)], tmp_path / "out", open_mock)

    with pytest.raises(InvalidInputError, match="another run writes"):
        answer_archive(
            [str(crops)], tmp_path / "out", open_mock, on_progress=run_another
        )


def test_a_caller_ends_a_run_after_a_batch(crops: Path, tmp_path: Path) -> None:
    run = partial(
        answer_archive, [str(crops)], tmp_path / "out", open_mock, batch_items=4
    )
    outcome = run(is_stopped=lambda: True)
    assert (outcome.was_stopped, outcome.items_done) == (True, 4)
    assert run().items_before == 4


@pytest.fixture
def run_bulk(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command whose clients answer by the pixels."""

    def open_client(*_address: Any, **_arguments: Any) -> Client:
        return open_mock(("person_gender",))

    monkeypatch.setattr("personserve._client.Client", open_client)
    return run


def test_the_command_answers_and_says_what_it_could_not_read(
    run_bulk: Run, crops: Path
) -> None:
    arguments = ("bulk", crops, "--output", "out", "--workers", "0")
    done = run_bulk(*arguments)
    assert done.code == 0, done.err
    assert "wrote out: 10 people of 11 items" in done.out
    assert "stand-in weights" in done.out
    assert "1 images, frames or boxes could not be read" in done.err
    again = json.loads(run_bulk(*arguments, "--json").out)
    assert (again["items_before"], again["people"]) == (11, 0)


def test_the_command_takes_a_detector_by_name(run_bulk: Run, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", 4, 10.0)
    detector = "tests.client.test_bulk:detect_left_half"
    arguments = ("bulk", "clip.avi", "--output", "out", "--workers", "0")
    assert "4 people of 1 items" in run_bulk(*arguments, "--detector", detector).out
    done = run_bulk(*arguments, "--detector", "tests.client.test_bulk:missing")
    assert done.code == 1
    assert "expected MODULE:FUNCTION" in done.err
