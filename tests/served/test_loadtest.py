"""The load tests in their short forms, on the real server."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from builders.catalogue import catalogue
from builders.repository import ROOT
from builders.server import Ports, TritonServer
from builders.spec import Model
from loadtest import scenes, tune
from loadtest.declaration import batching_diff
from loadtest.report import REPORT_FILE, Point, Run, changes, write_report
from loadtest.server import got
from loadtest.settings import Settings
from loadtest.tune import Measured

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
    assert run.facts["person_gender"].endswith("onnxruntime, fp32")
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


def test_locust_writes_the_same_report(server: TritonServer, tmp_path: Path) -> None:
    load = (
        *("-H", f"grpc://{server.grpc_address}", "-u", "4", "--people", "2"),
        *("--http", server.http_address, "--label", "short"),
        *("--metrics", f"127.0.0.1:{server.ports.metrics}"),
    )
    code, said = _locust(*load, "--report", str(tmp_path / "a"), seconds=12)
    assert code == 0, said
    run = Run.load(tmp_path / "a" / REPORT_FILE)
    points = {point.model: point for point in run.points}
    gender = points["person_gender"]
    assert (gender.way, gender.people, gender.concurrency) == ("grpc, wire", 2, 4)
    assert gender.rate > 1
    assert gender.compute_ms > 1
    assert "ensemble of person_preprocess" in run.facts["person_attributes"]
    assert run.facts["label"] == "steady load, short"
    against = ("--against", str(tmp_path / "a" / REPORT_FILE))
    report = ("--report", str(tmp_path / "b"))
    code, said = _locust(*load, *report, *against, "GenderCrops", seconds=6)
    assert code == 0, said
    text = (tmp_path / "b" / "report.md").read_text(encoding="utf-8")
    assert "## Against the other run" in text
    assert "| person_gender, 2 people, grpc, wire, x4 |" in text


def _loadtest(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "COLUMNS": "150"},
    )
    return done.returncode, done.stdout + done.stderr


def test_other_servers_do_the_same_work(server: TritonServer, tmp_path: Path) -> None:
    here = (
        *("--grpc", server.grpc_address, "--http", server.http_address),
        *("--repository", str(server.repository.root)),
    )
    short = ("--seconds", "0.2", "--rounds", "1", "--concurrency", "2", "--people", "2")
    code, said = _loadtest("beside", *here, *short, "--output", str(tmp_path))
    assert code == 0, said
    run = Run.load(tmp_path / REPORT_FILE)
    ways = {
        "in process",
        "personserve",
        "personserve, its SDK",
        "FastAPI",
        "LitServe",
        "mosec",
        "pytriton",
    }
    assert {point.way for point in run.points} == ways
    assert len(run.points) == 3 * len(ways)
    assert all(point.rate > 0 and point.memory_mib > 50 for point in run.points)
    assert "frame of 2, x2" in said
    code, said = _loadtest("beside", "--rivals", "Flask")
    assert code == 2
    code, said = _loadtest("beside", *here[:4], "--repository", str(tmp_path))
    assert code == 1
    assert "run python -m builders build" in said


def test_tuning_tries_settings_and_puts_the_declared_back(
    server: TritonServer, tmp_path: Path
) -> None:
    arguments = (
        *("tune", "person_gender", "--instances", "1,2", "--seconds", "0.3"),
        *("--grpc", server.grpc_address, "--http", server.http_address),
        *("--rounds", "1", "--output", str(tmp_path)),
    )
    before = got(server.http_address, "v2/models/person_gender/config")
    code, said = _loadtest(*arguments, "--goal", "p99_ms=60000")
    assert code == 0, said
    assert "1 instance, not merged" in said
    assert "2 instances, merged, 2000 us, preferably 4" in said
    assert got(server.http_address, "v2/models/person_gender/config") == before
    code, said = _loadtest(*arguments, "--goal", "p99_ms=1")
    assert code == 1
    assert "nothing reaches 1 ms" in said
    for model, goal, words in (
        ("person_attributes", "p99_ms=5", "is an ensemble"),
        ("person_preprocess", "p99_ms=5", "does not batch"),
        ("person_gender", "fast", "expected p99_ms=LIMIT"),
        ("nobody", "p99_ms=5", "nobody"),
    ):
        code, said = _loadtest("tune", model, "--goal", goal, *arguments[6:])
        assert code in {1, 2}
        assert words in said


def _tuned(
    rates: dict[Settings, list[float]], limit_ms: float, folder: Path
) -> tuple[bool, str, Path]:
    """What tuning concludes where settings give these people/s (and 1000 / people/s
    as p99).
    """
    console = Console(file=StringIO(), width=200)

    def measure(candidates: Any, rounds: int) -> dict[Settings, Measured]:
        del rounds
        slow = [1.0, 1.0]
        return {
            each: Measured(
                rates.get(each, slow), [1000 / v for v in rates.get(each, slow)]
            )
            for each in candidates
        }

    declared = Settings(2, None)
    found = tune._found(declared, [1, 2, 4], (8,), measure, 2, limit_ms, console)
    reached = tune._concluded(
        "person_gender", declared, found, limit_ms, True, folder, console
    )
    return reached, console.file.getvalue(), folder / "person_gender.diff"


def test_a_better_setting_becomes_a_diff(tmp_path: Path) -> None:
    two, four, merged = Settings(2, None), Settings(4, None), Settings(4, 2000, (8,))
    rates = {two: [10, 11], four: [12, 13], merged: [20, 21]}
    reached, said, diff = _tuned(rates, 1000, tmp_path)
    assert reached
    assert "+    batching=Batching(cpu_instances=4, cpu_queue_delay_us=2000" in (
        diff.read_text(encoding="utf-8")
    )
    assert "1.95 of the people/s" in said
    diff.unlink()
    reached, said, diff = _tuned({two: [10, 13], four: [12, 14]}, 1000, tmp_path)
    assert reached
    assert not diff.exists(), "the rounds overlap"
    assert "keeps its declared settings" in said
    reached, said, diff = _tuned({two: [10, 11], four: [40, 50]}, 30, tmp_path)
    assert reached, "four reach what two do not"
    assert diff.exists()
    reached, said, _ = _tuned({two: [10, 11]}, 10, tmp_path)
    assert not reached
    assert "nothing reaches 10 ms" in said


NETWORKS = {n: each for n, each in catalogue().items() if isinstance(each, Model)}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_declaration_takes_a_tuned_batching(name: str, tmp_path: Path) -> None:
    source = ROOT / "builders" / "models" / f"{name}.py"
    fields = {"cpu_instances": 3, "cpu_queue_delay_us": 500, "preferred": (8, 16)}
    copy = tmp_path / "builders" / "models" / source.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(source.read_bytes())
    diff = tmp_path / "tuned.diff"
    diff.write_text(batching_diff(name, fields), encoding="utf-8")
    subprocess.run(["git", "apply", diff.name], cwd=tmp_path, check=True)
    own: dict[str, Any] = {"__name__": name, "__file__": str(copy)}
    exec(compile(copy.read_text(encoding="utf-8"), copy, "exec"), own)  # noqa: S102
    before, after = NETWORKS[name].batching, own["MODEL"].batching
    assert after == replace(before, **fields)


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
