"""`personserve attributes VIDEO --tracks`: rows, tables, the timeline, and Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from personserve import Infer, InvalidInputError, MockTransport, Track
from personserve.cli import tracking
from personserve.cli.timeline import MAX_ROWS, Timeline
from personserve.cli.trackers import ByteTracker
from tests.client.conftest import Run, answer, write_image, write_video

FRAMES = 40
RATE_HZ = 10


class Numbering:
    """A tracker that numbers boxes by position, and renames the second one."""

    def update(self, boxes: np.ndarray, time_s: float) -> list[int]:
        assert len(boxes) == 2
        return [5, 6 if time_s < 2 else 7]


@pytest.fixture(autouse=True)
def tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "ByteTracker", Numbering)


@pytest.fixture(autouse=True)
def person_in_each_box(transport: MockTransport) -> None:
    """Answer alike for one box, whichever others are asked about with it."""

    def answer_boxes(request: Infer) -> dict[str, np.ndarray]:
        boxes = np.asarray(request.inputs["boxes"])
        rows = [np.random.default_rng(int(box[0])).normal(size=512) for box in boxes]
        return answer(request) | {
            "embedding": np.float32([row / np.linalg.norm(row) for row in rows])
        }

    transport._answers = answer_boxes


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "v.avi", FRAMES, RATE_HZ)


@pytest.mark.usefixtures("video")
def test_tracks_are_shown_as_rows(run: Run) -> None:
    outcome = run("attributes", "v.avi", "--tracks")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["track", "from", "to", "frames", "answers", "gender"]
    rows = [line.split() for line in lines[1:4]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [(row[1], row[3]) for row in rows] == [
        ("0.00", "3.90"),
        ("0.00", "1.90"),
        ("2.00", "3.90"),
    ]
    assert [row[5] for row in rows] == ["40", "20", "20"]
    assert "40 frames (of 40), 80 detections, 3 tracks; the server was" in outcome.out
    assert "stand-in weights" in outcome.out


@pytest.mark.usefixtures("video")
def test_people_who_come_back_are_recognised(run: Run) -> None:
    options = ("--tracks", "--json", "--same-person", "0.9")
    outcome = run("attributes", "v.avi", *options)
    tracks = [json.loads(line) for line in outcome.out.splitlines()]
    assert [track["track"] for track in tracks] == [1, 2]
    assert [track["rejoined_count"] for track in tracks] == [0, 1]
    assert tracks[1]["tracker_id"] == 7
    assert tracks[1]["spans"] == [[0.0, 3.9]]
    assert tracks[0]["source"] == "v.avi"
    assert "embedding" not in tracks[0]


@pytest.mark.usefixtures("video")
def test_tracks_are_written_to_tables(run: Run, tmp_path: Path) -> None:
    options = ("--tracks", "--table", "t.csv", "--embeddings")
    outcome = run("attributes", "v.avi", *options)
    assert "wrote t.csv: 3 rows" in outcome.out
    with (tmp_path / "t.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["track"] for row in rows] == ["1", "2", "3"]
    assert [row["tracker_id"] for row in rows] == ["5", "6", "7"]
    assert rows[0]["gender"] in {"male", "female"}
    assert 0 <= float(rows[0]["female_probability"]) <= 1
    assert int(rows[0]["gender_count"]) == int(rows[0]["embedding_count"]) >= 3
    assert json.loads(rows[1]["spans"]) == [[0.0, 1.9]]
    assert len(json.loads(rows[0]["embedding"])) == 512
    assert rows[0]["stand_in_weights"] == "person_gender,person_reid_kd_r18"


@pytest.mark.usefixtures("video")
def test_tracks_are_written_to_parquet(run: Run, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    run("attributes", "v.avi", "--tracks", "--table", "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["track"] for row in table] == [1, 2, 3]
    assert table[0]["tracker_id"] == "5"


@pytest.mark.usefixtures("video")
def test_the_annotated_video_and_the_timeline_are_written(
    run: Run, tmp_path: Path
) -> None:
    options = ("--tracks", "--output", "o.webm", "--timeline", "t.png")
    outcome = run("attributes", "v.avi", *options)
    assert "wrote t.png" in outcome.out
    assert "wrote o.webm: VP8; 10 frames/s as the source" in outcome.out
    image = cv2.imread(str(tmp_path / "t.png"))
    assert image is not None
    assert image.shape[1] > 1000
    capture = cv2.VideoCapture(str(tmp_path / "o.webm"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES


@pytest.mark.usefixtures("video")
def test_ctrl_c_keeps_what_was_followed(
    run: Run, transport: MockTransport, tmp_path: Path
) -> None:
    def interrupt(request: Infer) -> dict[str, np.ndarray]:
        os.kill(os.getpid(), signal.SIGINT)
        return answer(request)

    transport._answers = interrupt
    options = ("--tracks", "--table", "t.csv", "--timeline", "t.png")
    outcome = run("attributes", "v.avi", *options)
    assert outcome.code == 130
    assert "interrupted after 1 of " in outcome.err
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3
    assert (tmp_path / "t.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("i.png", "--tracks"), "--tracks: expected videos or a camera, got images"),
        (("v.avi", "--timeline", "t.png"), "--timeline needs --tracks"),
        (("v.avi", "--same-person", "0.5"), "--same-person needs --tracks"),
        (
            ("v.avi", "v.avi", "--tracks", "--timeline", "t.png"),
            "--timeline: expected one video, got 2",
        ),
        (("v.avi", "--tracks", "--frames", "5"), "--frames: frames that are sampled"),
    ],
)
@pytest.mark.usefixtures("video")
def test_options_that_do_not_fit_are_refused(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    write_image(tmp_path / "i.png")
    outcome = run("attributes", *arguments)
    assert outcome.code == 1
    assert message in outcome.err


def test_a_missing_tracker_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "edgefirst.tracker", None)
    with pytest.raises(InvalidInputError, match="pip install edgefirst-tracker"):
        ByteTracker()


def test_byte_track_follows_boxes() -> None:
    pytest.importorskip("edgefirst.tracker", reason="needs the extra `tracks`")
    tracker = ByteTracker()
    right = np.float32([100, 100, 150, 220])
    left = np.float32([500, 120, 550, 240])
    numbers = []
    for step in range(30):
        move = np.float32([4 * step, 0, 4 * step, 0])
        boxes = np.stack([left - move, right + move][:: 1 if step % 2 else -1])
        if step in {10, 11}:
            boxes = boxes[:0]  # not detected
        result = tracker.update(boxes, step / 10)
        numbers.append(result[:: 1 if step % 2 else -1])
    assert numbers[0] == [2, 1] == numbers[9] == numbers[15]
    assert numbers[10] == []
    assert len(tracker._numbers) == 2


def test_a_timeline_shows_the_longest_tracks(run: Run, video: Path) -> None:
    tracks: list[Track] = []
    outcome = run("attributes", video.name, "--tracks", "--timeline", "t.png")
    assert outcome.code == 0
    track = Track(1, 1, None, (0, 0, 9, 9), 0, 0, 1, 0, 1, None, ((0, 1),))
    timeline = Timeline("v")
    for index in range(200):
        tracks.append(replace(track, id=index, frame_count=index))
        timeline.add(tracks[-1])
    assert len(timeline._tracks) <= 2 * MAX_ROWS
    image = timeline.draw()
    kept = sorted(each.id for each in timeline._tracks)[-MAX_ROWS:]
    assert kept == list(range(200 - MAX_ROWS, 200))
    assert image.shape[0] > 56 * MAX_ROWS
    assert Timeline("nothing").draw().shape[0] < 200
