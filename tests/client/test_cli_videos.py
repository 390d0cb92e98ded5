"""Videos, cameras and streams: rates, codecs, rows as they come, and Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from personserve import Infer, MockTransport, ServerUnavailableError
from personserve.cli import frames, videos
from personserve.cli.analysis import choose_rate
from personserve.cli.frames import Video
from personserve.cli.sources import Kind, Source
from personserve.cli.videos import VideoFile
from tests.client.conftest import Run, answer, write_image, write_video


def _read(path: Path) -> tuple[float, int, str]:
    """Return frame rate, number of frames and codec of a video file."""
    capture = cv2.VideoCapture(str(path))
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return rate_hz, count, codec


def _leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def interrupt_after(transport: MockTransport) -> Callable[[int], None]:
    """Send Ctrl-C to this process when the given number of frames were answered."""

    def arrange(count: int) -> None:
        answered = 0

        def interrupting(request: Infer) -> dict[str, np.ndarray]:
            nonlocal answered
            answered += 1
            if answered == count:
                os.kill(os.getpid(), signal.SIGINT)
            return answer(request)

        transport._answers = interrupting

    return arrange


# ---- files -----------------------------------------------------------------------


def test_annotated_videos_keep_the_rate(run: Run, tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 12, 24)
    outcome = run("attributes", "v.avi", "--output", "out.webm")
    assert outcome.code == 0
    assert "wrote out.webm: VP8; 24 frames/s as the source" in outcome.out
    assert _read(tmp_path / "out.webm") == (24.0, 12, "VP80")
    assert not _leftovers(tmp_path)


def test_sampled_frames_keep_the_duration(run: Run, tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 20, 10)
    outcome = run("attributes", "v.avi", "--frames", "5", "--output", "out.webm")
    assert "5 frames (of 20), 10 detections; a person counts once" in outcome.out
    assert "2.5 frames/s, so that it takes as long as the source" in outcome.out
    assert _read(tmp_path / "out.webm") == (2.5, 5, "VP80")
    lines = [line.split() for line in outcome.out.splitlines()[1:6]]
    assert [line[0] for line in lines] == ["0", "4", "9", "14", "19"]
    assert [line[1] for line in lines] == ["0.00", "0.40", "0.90", "1.40", "1.90"]


def test_few_frames_of_a_long_video_say_how_fast_they_are(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", 100, 10)
    with Video(Source(str(path), Kind.VIDEO, "v.avi")) as video:
        assert choose_rate(video, 4) == (
            1.0,
            "1 frame/s, 2.5 times as fast as the source",
        )
        assert choose_rate(video, 1000) == (10.0, "10 frames/s as the source")
        video.rate_hz = None
        assert choose_rate(video, None)[0] == 25
        assert "states no rate" in choose_rate(video, None)[1]


def test_mp4_says_what_does_not_play(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.avi", 3, 10)
    monkeypatch.setattr(videos, "_has_pyav", lambda: False)
    monkeypatch.setenv("PATH", "")
    outcome = run("attributes", "v.avi", "--output", "out.mp4")
    assert outcome.code == 0
    assert outcome.err == ""  # OpenCV's own lines about the tag are hidden
    assert "which browsers do not play; for them write .webm" in outcome.out
    assert _read(tmp_path / "out.mp4")[:2] == (10.0, 3)


def test_ffmpeg_encodes_mp4_where_it_is_installed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.avi", 3, 10)
    monkeypatch.setattr(videos, "_has_pyav", lambda: False)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ffmpeg"  # it copies its input to its output
    script = "import sys; open(sys.argv[-1], 'wb').write(sys.stdin.buffer.read())"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{script}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    outcome = run("attributes", "v.avi", "--output", "out.mp4")
    assert "wrote out.mp4: H.264; 10 frames/s" in outcome.out
    assert (tmp_path / "out.mp4").stat().st_size == 3 * 128 * 128 * 3
    program.write_text("#!/bin/sh\necho no codec >&2\nexit 3\n")
    outcome = run("attributes", "v.avi", "--output", "failed.mp4")
    assert outcome.code == 1
    assert "ffmpeg failed: no codec" in outcome.err
    assert not (tmp_path / "failed.mp4").exists()
    assert not _leftovers(tmp_path)


def test_pyav_encodes_mp4_where_it_is_installed(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("av")
    write_video(tmp_path / "v.avi", 6, 12.5)
    run("attributes", "v.avi", "--output", "out.mp4")
    assert _read(tmp_path / "out.mp4") == (12.5, 6, "h264")


def test_frames_of_odd_and_other_sizes_are_written(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "o.webm", 10) as file:
        file.write(np.zeros((63, 101, 3), np.uint8))
        file.write(np.zeros((40, 40, 3), np.uint8), repeats=2)
    assert _read(tmp_path / "o.webm")[1] == 3


def test_no_frames_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "o.webm").write_text("the previous one", encoding="utf-8")
    with VideoFile(tmp_path / "o.webm", 10):
        pass
    assert (tmp_path / "o.webm").read_text(encoding="utf-8") == "the previous one"
    assert not _leftovers(tmp_path)


def test_json_is_one_line_for_each_frame(run: Run, tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 5, 10)
    outcome = run("attributes", "v.avi", "--json", "--frames", "2")
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["frame"] for line in lines] == ["frame 0", "frame 4"]
    assert [line["time_s"] for line in lines] == [0, 0.4]
    assert {line["source"] for line in lines} == {"v.avi"}
    assert outcome.err == ""


# ---- the end comes early ---------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_keeps_what_was_done(
    run: Run,
    tmp_path: Path,
    interrupt_after: Callable[[int], None],
    as_json: bool,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    write_video(tmp_path / "v.avi", 60, 30)
    interrupt_after(4)
    outcome = run(
        *("attributes", "v.avi", "--output", "out.webm", "--table", "t.csv"),
        *(("--json",) if as_json else ()),
    )
    assert outcome.code == 130
    rate_hz, count, codec = _read(tmp_path / "out.webm")
    assert (rate_hz, codec) == (30.0, "VP80")
    assert 4 <= count <= 9  # frames in flight are completed
    assert outcome.err == f"interrupted after {count} of 60 frames\n"
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * count
    if as_json:
        assert len(outcome.out.splitlines()) == count
    else:
        assert f"{count} frames (of 60), {2 * count} detections" in outcome.out
    assert not _leftovers(tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_ends_images_too(
    run: Run, tmp_path: Path, interrupt_after: Callable[[int], None]
) -> None:
    for number in range(30):
        write_image(tmp_path / "s" / f"{number:02}.png", number)
    interrupt_after(4)
    outcome = run("attributes", "s", "--output", "drawn", "--table", "t.csv")
    assert outcome.code == 130
    count = len(list((tmp_path / "drawn").iterdir()))
    assert 4 <= count <= 9
    assert outcome.err == f"interrupted after {count} of 30 images\n"
    assert f"wrote t.csv: {2 * count} rows" in outcome.out


def test_an_error_keeps_what_was_done(
    run: Run, tmp_path: Path, transport: MockTransport
) -> None:
    write_video(tmp_path / "v.avi", 60, 30)
    answered = 0

    def fail(request: Infer) -> Any:
        nonlocal answered
        answered += 1
        if answered > 10:
            raise ServerUnavailableError("the server has left")
        return answer(request)

    transport._answers = fail
    outcome = run("attributes", "v.avi", "--output", "out.webm", "--timeout-s", "20")
    assert outcome.code == 1
    assert "error: the server has left" in outcome.err
    assert "10 frames (of 60), 20 detections" in outcome.out
    assert _read(tmp_path / "out.webm")[1] == 10


def test_the_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    script = (
        "import time\n"
        "from personserve.cli.interrupts import deferred_interrupt\n"
        "with deferred_interrupt() as stop:\n"
        "    print('ready', flush=True)\n"
        "    stop.wait()\n"
        "    print('stopped', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    for line in ("ready", "stopped"):
        assert process.stdout.readline().strip() == line
        process.send_signal(signal.SIGINT)
    assert process.wait(300) == -signal.SIGINT
    process.stdout.close()


# ---- cameras and streams ---------------------------------------------------------


class _Camera:
    """cv2.VideoCapture of a camera with 100 frames a second, or fewer in all."""

    def __init__(self, count: int) -> None:
        self._remaining = count
        self.released = threading.Event()

    def get(self, _property: int) -> float:
        return 0.0

    def grab(self) -> bool:
        time.sleep(0.01)
        self._remaining -= 1
        return self._remaining >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((128, 128, 3), np.uint8)

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> _Camera:
    camera = _Camera(100_000)
    monkeypatch.setattr(frames, "_open_capture", lambda _source: camera)
    return camera


def test_a_camera_shows_rows_as_they_come(
    run: Run, camera: _Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_before_frames = []
    from personserve.cli import analysis

    shown: list[int] = []
    monkeypatch.setattr(
        analysis, "print_frame_row", lambda frame, *_: shown.append(frame.index)
    )

    def detect(_frame: np.ndarray) -> np.ndarray:
        rows_before_frames.append(len(shown))
        return np.zeros((0, 4), np.float32)

    monkeypatch.setattr(frames, "detect_people", detect)
    outcome = run("attributes", "0", "--frames", "5")
    assert outcome.code == 0
    # each row was printed before the next frame was taken
    assert rows_before_frames == [0, 1, 2, 3, 4]
    assert "5 frames, 0 detections" in outcome.out
    assert camera.released.wait(60)


def test_a_slow_analysis_skips_frames_of_a_camera(
    run: Run, camera: _Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detect(_frame: np.ndarray) -> np.ndarray:
        time.sleep(0.1)
        return np.zeros((0, 4), np.float32)

    monkeypatch.setattr(frames, "detect_people", detect)
    outcome = run("attributes", "0", "--frames", "4", "--json")
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    indices = [int(line["frame"].removeprefix("frame ")) for line in lines]
    assert indices[-1] > 9
    assert lines[-1]["time_s"] > 0.25
    assert camera.released.wait(60)


def test_ctrl_c_ends_a_camera_cleanly(
    run: Run,
    tmp_path: Path,
    camera: _Camera,
    interrupt_after: Callable[[int], None],
) -> None:
    interrupt_after(6)
    outcome = run("attributes", "0", "--output", "out.webm")
    assert outcome.code == 0
    assert outcome.err.startswith("stopped after ")
    assert "10 frames/s in real time" in outcome.out
    assert _read(tmp_path / "out.webm")[0] == pytest.approx(10.0)
    assert camera.released.wait(60)


def test_a_stream_that_ends_is_the_end(run: Run, camera: _Camera) -> None:
    camera._remaining = 3
    outcome = run("attributes", "rtsp://camera.example/1")
    assert outcome.code == 0
    assert outcome.err == ""
    assert "frames, " in outcome.out


def test_a_stalled_stream_can_be_interrupted(
    run: Run, camera: _Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(camera, "grab", lambda: release.wait(600) and False)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    start_s = time.monotonic()
    outcome = run("attributes", "rtsp://camera.example/1")
    release.set()
    assert time.monotonic() - start_s < 300
    assert outcome.err == "stopped after 0 frames\n"
    assert outcome.code == 0
