"""The load tests in their short forms, on the real server."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from builders.repository import ROOT
from builders.server import Ports, TritonServer
from loadtest import scenes
from loadtest.report import REPORT_FILE, Point, Run, changes, write_report

LOCUST = (sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless")


def _locust(*arguments: str, seconds: int = 4) -> tuple[int, str]:
    done = subprocess.run(
        [*LOCUST, "-t", str(seconds), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout + done.stderr


def _entries(prefix: Path) -> dict[str, dict[str, str]]:
    with Path(f"{prefix}_stats.csv").open(encoding="utf-8") as file:
        return {row["Name"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("scheme", "extra"),
    [("grpc", ()), ("http", ()), ("grpc", ("--shared-memory",))],
    ids=["grpc", "http", "shared memory"],
)
def test_all_users_are_answered(
    server: TritonServer, tmp_path: Path, scheme: str, extra: tuple[str, ...]
) -> None:
    address = server.grpc_address if scheme == "grpc" else server.http_address
    code, said = _locust(
        *("-H", f"{scheme}://{address}", "-u", "4", "--people", "2", "--fps", "1"),
        *("--csv", str(tmp_path / "load"), "--html", str(tmp_path / "load.html")),
        *extra,
        seconds=12,
    )
    assert code == 0, said
    entries = _entries(tmp_path / "load")
    assert {
        "person_gender, 2 crops",
        "person_reid_kd_r18, 2 crops",
        "frame, 2 people",
        "frames behind",  # not its answer: a crowd may take longer than this load
    } <= set(entries)
    for name, entry in entries.items():
        assert int(entry["Request Count"]) > 0
        assert name in {"frames behind", "Aggregated"} or entry["Failure Count"] == "0"
        assert entry["Type"] in {scheme, "camera", ""}
    assert "<html" in (tmp_path / "load.html").read_text(encoding="utf-8")


def test_thresholds_decide_the_exit_code(server: TritonServer) -> None:
    load = ("-H", f"grpc://{server.grpc_address}", "-u", "2", "--people", "1")
    code, said = _locust(*load, "--max-p99-ms", "1", "GenderCrops")
    assert code == 1
    assert "threshold: person_gender, 1 crops: p99" in said
    code, said = _locust("-H", "grpc://127.0.0.1:9", "-u", "1", "GenderCrops")
    assert code == 1
    assert "threshold: error rate 100.00%" in said
    # two cores do not answer thirty frames a second
    code, said = _locust(*load, "--fps", "30", "--max-behind", "0.5", "Camera")
    assert code == 1
    assert "frames behind, over 50.0%" in said


def test_shapes_change_the_number_of_users(
    server: TritonServer, tmp_path: Path
) -> None:
    code, said = _locust(
        *("-H", f"grpc://{server.grpc_address}", "-u", "8", "--people", "1"),
        *("--shape", "spike", "--csv", str(tmp_path / "load"), "--csv-full-history"),
        *("--max-error-rate", "1", "GenderCrops"),
        seconds=10,
    )
    assert code == 0, said
    with (tmp_path / "load_stats_history.csv").open(encoding="utf-8") as file:
        users = [int(row["User Count"]) for row in csv.DictReader(file)]
    assert max(users) == 8
    assert min(users[: len(users) // 3]) <= 2
    assert users[-1] <= 2


def test_load_is_spread_over_processes(server: TritonServer, tmp_path: Path) -> None:
    ports = Ports.free()
    common = ("-H", f"grpc://{server.grpc_address}", "--people", "1", "GenderCrops")
    worker = subprocess.Popen(
        [*LOCUST[:-1], "--worker", "--master-port", str(ports.http), *common],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        code, said = _locust(
            *("--master", "--expect-workers", "1", "-u", "2"),
            *("--master-bind-port", str(ports.http), "--csv", str(tmp_path / "load")),
            *common,
            seconds=5,
        )
        assert code == 0, said
        assert worker.wait(20) == 0
    finally:
        worker.kill()
    count = _entries(tmp_path / "load")["person_gender, 1 crops"]["Request Count"]
    assert int(count) > 0


def test_perf_analyzer_sweeps_and_reports(server: TritonServer, tmp_path: Path) -> None:
    def measure(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "loadtest", "perf"),
                *("--grpc", server.grpc_address, "--http", server.http_address),
                *("--metrics", f"127.0.0.1:{server.ports.metrics}"),
                *("--seconds", "0.3", "--rounds", "1", *arguments),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    grid = ("--people", "1,2", "--concurrency", "1", "--protocols", "grpc,http")
    first = tmp_path / "first"
    measure("person_gender", *grid, "--label", "short", "--output", str(first))
    run = Run.load(first / REPORT_FILE)
    assert len(run.points) == 4
    assert {point.way for point in run.points} == {"grpc, wire", "http, wire"}
    assert all(point.rate > 1 and point.compute_ms > 1 for point in run.points)
    assert run.facts["server"].startswith("Triton 2.51")
    assert "cpu_model.py, 2 instances" in run.facts["person_gender"]
    assert run.facts["label"] == "short"
    frame = ("person_attributes", "--people", "3", "--concurrency", "2")
    second = tmp_path / "second"
    against = ("--against", str(first / REPORT_FILE))
    measure("person_gender", *frame, "--output", str(second), *against)
    page = (second / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    assert "person_attributes" in (second / "report.md").read_text(encoding="utf-8")
    said = measure("person_gender", "--against", __file__, code=1)
    assert "not a load test's report" in said


def _point(rates: list[float], concurrency: int = 1) -> Point:
    return Point("m", "grpc, wire", 1, concurrency, rates, 1.0, 2.0, 0.1, 0.8, 0.1)


def test_only_what_rounds_do_not_explain_is_a_change(tmp_path: Path) -> None:
    before = Run({}, [_point([10, 11, 12]), _point([10, 11, 12], 2), _point([1], 9)])
    after = Run({}, [_point([11.5, 13, 14]), _point([13, 14, 15], 2), _point([1], 8)])
    first, second = changes(after, before)
    assert (first.exceeds, second.exceeds) == (False, True)
    assert second.ratio == pytest.approx(14 / 11)
    write_report(tmp_path, after, before)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| m, 1 people, grpc, wire, x2 | 11.0 | 14.0 | 1.27 | yes |" in text
    assert Run.load(tmp_path / REPORT_FILE).points[0] == after.points[0]


def test_people_are_drawn_as_stated() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([scenes.people_in_frame(rng) for _ in range(20_000)])
    assert np.mean(drawn == 0) == pytest.approx(scenes.EMPTY_SHARE, abs=0.01)
    assert np.mean(drawn >= scenes.CROWD[0]) == pytest.approx(
        scenes.CROWD_SHARE, abs=0.005
    )
    some = drawn[(drawn > 0) & (drawn < scenes.CROWD[0])]
    assert some.mean() == pytest.approx(scenes.USUAL_PEOPLE, abs=0.05)


def test_boxes_lie_in_the_frame(video: Path) -> None:
    frames = scenes.Scenes.of_video(video)
    assert len(frames.frames) == scenes.VIDEO_FRAMES
    assert (frames.height, frames.width) == (576, 768)
    boxes = frames.boxes(np.random.default_rng(0), 500)
    assert boxes.shape == (500, 4)
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= frames.width).all()
    assert (boxes[:, 3] <= frames.height).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
