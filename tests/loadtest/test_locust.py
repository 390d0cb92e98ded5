"""Locust's parts without a server: series, thresholds, shapes, capacity, the page.

Importing Locust patches the standard library for gevent, so everything here runs in a
process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from builders.repository.layout import ROOT
from builders.serve.tritonserver import Ports

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}"}
HEADLESS = ("-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "-t", "2")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


PARTS = """
from types import SimpleNamespace

from locust.env import Environment
from locust.stats import RequestStats

from loadtest.camera_series import BEHIND, DUE, EMPTY, count_due_frame, count_frame
from loadtest.thresholds import Thresholds

stats = RequestStats()
for late_s in (0.0, 0.05, 0.3, 2.0):
    count_due_frame(stats, late_s, period_s=0.1)
count_frame(stats, EMPTY, 0.05)
stats.log_request("grpc", "camera frame", 250, 2048)
rows = {name: entry.num_requests for (name, _), entry in stats.entries.items()}
assert rows == {DUE: 4, BEHIND: 2, EMPTY: 1, "camera frame": 1}, rows
total = stats.total
assert (total.num_requests, total.num_failures) == (1, 0), "requests alone"
assert total.min_response_time == total.max_response_time == 250

exceeded = lambda **limits: list(Thresholds(**limits).find_exceeded(stats))
assert exceeded() == []
assert exceeded(max_behind=0.6) == []
assert exceeded(max_behind=0.4) == ["50.0% of 4 frames behind, over 40.0%"]
assert exceeded(max_p99_ms=300) == [], "how late frames are is no response time"
assert exceeded(max_p99_ms=200) == ["camera frame: p99 250 ms, over 200"]
stats.log_error("grpc", "camera frame", "refused")
assert exceeded() == ["error rate 100.00% of 1, over 1.00%"]
assert list(Thresholds().find_exceeded(RequestStats())) == ["no request was made"]

from loadtest.locust_report import tabulate_cameras

(table,) = tabulate_cameras(stats)
assert ["frames behind", "2", "50.0%"] in table.rows, table.rows
assert tabulate_cameras(RequestStats()) == []

from loadtest.users import Camera, FrameEnsemble, GenderCrops, set_frame_model

set_frame_model([Camera, GenderCrops], "person_attributes_shared")
assert Camera.model == "person_attributes_shared"
assert FrameEnsemble.model == "person_attributes"
assert GenderCrops.model == "person_gender", "it sends no frames"

from loadtest.shapes import Ramp, Spike, Stage, StagedShape

class Half(StagedShape):
    stages = (Stage(0.5, 0.5),)

options = SimpleNamespace(run_time=10, num_users=8)
for shape, ticks in (
    (Ramp(), [(2, 8), (4, 8), (8, 8), None]),
    (Spike(), [(2, 8), (2, 8), (2, 8), None]),
    (Half(), [(4, 8), (4, 8), None, None]),
):
    shape.runner = SimpleNamespace(environment=SimpleNamespace(parsed_options=options))
    for elapsed_s, users in zip((1, 3, 9, 11), ticks, strict=True):
        shape.get_run_time = lambda: elapsed_s
        assert shape.tick() == users, (shape, elapsed_s)

from loadtest.capacity import compare_with_capacity

message, fits = compare_with_capacity(2, 2.0, 24.0)
assert fits, message
message, fits = compare_with_capacity(8, 5.0, 24.0)
assert not fits
assert "8 cameras with 5 frames/s will send 171 people/s" in message, message
assert "for example -u 1 --fps 4.5" in message, message
"""
"""A program that imports the parts one by one, without the locustfile."""


def test_users_shapes_and_thresholds_are_parts_of_their_own() -> None:
    done = _run("-c", PARTS)
    assert done.returncode == 0, done.stderr


OWN_LOCUSTFILE = """
from locust import events, task

from loadtest.thresholds import Thresholds
from loadtest.users import PersonServeUser


class Visitor(PersonServeUser):
    call_timeout_s = 1.0

    @task
    def visit(self):
        with self.measure("visit", people=1):
            self.client.models()


@events.quitting.add_listener
def judge(environment, **_):
    Thresholds(max_error_rate=0.5).judge(environment)
"""


def test_a_locustfile_of_one_s_own_takes_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "locustfile.py"
    path.write_text(OWN_LOCUSTFILE, encoding="utf-8")
    arguments = ("--headless", "-t", "3", "-u", "1", "-H", "http://127.0.0.1:9")
    done = _run("-m", "locust", "-f", str(path), *arguments)
    assert done.returncode == 1, done.stderr
    assert "threshold: error rate 100.00%" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("user", ["Camera", "GenderCrops"])
def test_no_server_ends_users_with_one_line(user: str) -> None:
    done = _run(*HEADLESS, "-H", "http://127.0.0.1:9", user)
    assert done.returncode == 1
    assert done.stdout == ""
    *log, line = done.stderr.splitlines()
    assert line.startswith("error: no Triton server answers at http://127.0.0.1:9")
    assert "python -m builders serve" in line
    assert len(log) <= 1, "Locust says that it starts"


def test_the_live_page_has_user_classes_shapes_and_our_options() -> None:
    port = Ports.free().http
    address = ("-H", "grpc://127.0.0.1:9", "--web-port", str(port))
    with subprocess.Popen(
        [sys.executable, "-m", "loadtest", "locust", *address],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            page = _fetch(f"http://127.0.0.1:{port}/")
        finally:
            process.terminate()
    match = re.search(r"templateArgs = (\{.*\})", page)
    assert match is not None
    arguments = json.loads(match.group(1))
    assert arguments["show_userclass_picker"]
    assert {"Camera", "GenderCrops"} <= set(arguments["available_user_classes"])
    shapes = ["Default", "Ramp", "Soak", "Spike", "Steady"]
    assert arguments["available_shape_classes"] == shapes
    assert set(arguments["extra_options"]) == {
        "people",
        "fps",
        "video",
        "model",
        "shared_memory",
        "call_timeout_s",
        "probe_s",
    }


def _fetch(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline_s = time.monotonic() + 60
    while True:
        try:
            with opener.open(url, timeout=60) as response:
                return str(response.read().decode())
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)
