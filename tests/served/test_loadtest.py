"""The load tests in their short forms, on the real server."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders.repository.layout import ROOT, Repository
from builders.serve.tritonserver import Ports, TritonServer
from loadtest import __main__ as command
from loadtest.measurements import Run
from loadtest.server import get_config
from personserve.internal.report import REPORT_FILE

LOCUST = (sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless")

PATIENCE_S = 600
"""Time for what takes seconds on an idle machine."""

ENTRIES = {
    "person_gender, 2 crops",
    "person_reid_kd_r18, 2 crops",
    "frame, 2 people",
    "frames due",  # not its answer: a crowd may take longer than this load
}
"""What a run of all users reports of each."""

END_WHEN_REPORTED = """
import gevent
from locust import events
from loadtest.locustfile import *

@events.test_start.add_listener
def end_when_all_have_reported(environment, **_):
    def watch():
        gevent.sleep(3)
        while {entries!r} - {{e.name for e in environment.stats.entries.values()}}:
            gevent.sleep(0.2)
        environment.runner.quit()

    gevent.spawn(watch)
"""
"""The configuration of Locust, with an end that a slow machine reaches later."""


def _locust(
    folder: Path, *arguments: str, until: set[str] | None = None, seconds: int = 0
) -> tuple[int, str]:
    """Run a load until it has reported the entries, or for the seconds."""
    end: tuple[str, ...] = ("-t", str(seconds))
    if until:
        file = folder / "locustfile.py"
        file.write_text(END_WHEN_REPORTED.format(entries=until), encoding="utf-8")
        end = ("-t", str(PATIENCE_S), "-f", str(file))
    done = subprocess.run(
        [*LOCUST, *end, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def server(repository: Repository) -> Iterator[TritonServer]:
    """A server of their own: the other worker has the one of all models."""
    models = ["person_attributes", "person_gender", "person_reid_kd_r18"]
    with TritonServer(
        repository, models=models, ports=Ports.free(), http=True
    ) as server:
        yield server


@pytest.fixture
def loadtest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process, and returns its exit code and its output."""
    monkeypatch.setenv("COLUMNS", "150")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["loadtest", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            command.run()
        printed = capsys.readouterr()
        return int(exit_info.value.code or 0), printed.out + printed.err

    return run


def _entries(prefix: Path) -> dict[str, dict[str, str]]:
    with Path(f"{prefix}_stats.csv").open(encoding="utf-8") as file:
        return {row["Name"]: row for row in csv.DictReader(file)}


def _run_all_users(
    server: TritonServer, folder: Path, scheme: str, *extra: str
) -> None:
    address = server.grpc_address if scheme == "grpc" else server.http_address
    code, said = _locust(
        folder,
        *("-H", f"{scheme}://{address}", "-u", "4", "--people", "2", "--fps", "1"),
        *("--csv", str(folder / "load"), "--html", str(folder / "load.html")),
        *("--probe-s", "0", *extra),
        until=ENTRIES,
    )
    assert code == 0, said


@pytest.fixture(scope="module")
def grpc_run(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results and the report of a run of all users over gRPC."""
    folder = tmp_path_factory.mktemp("grpc")
    report = (
        *("--report", str(folder / "report"), "--label", "short"),
        *("--http", server.http_address),
        *("--metrics", f"127.0.0.1:{server.ports.metrics}"),
    )
    _run_all_users(server, folder, "grpc", *report)
    return folder


def _check_users(folder: Path, scheme: str) -> None:
    entries = _entries(folder / "load")
    assert set(entries) >= ENTRIES
    total = entries.pop("Aggregated")
    for entry in entries.values():
        assert int(entry["Request Count"]) > 0
        assert entry["Failure Count"] == "0"
        assert entry["Type"] in {scheme, "camera"}
    requests = (each for each in entries.values() if each["Type"] == scheme)
    counts = [int(each["Request Count"]) for each in requests]
    assert int(total["Request Count"]) == sum(counts), "no frame behind, no empty frame"
    assert total["Failure Count"] == "0"
    assert "<html" in (folder / "load.html").read_text(encoding="utf-8")


def test_all_users_are_answered_over_grpc(grpc_run: Path) -> None:
    _check_users(grpc_run, "grpc")


@pytest.mark.parametrize(
    ("scheme", "extra"),
    [("http", ()), ("grpc", ("--shared-memory",))],
    ids=["http", "shared memory"],
)
def test_all_users_are_answered(
    server: TritonServer, tmp_path: Path, scheme: str, extra: tuple[str, ...]
) -> None:
    _run_all_users(server, tmp_path, scheme, *extra)
    _check_users(tmp_path, scheme)


def test_thresholds_decide_the_exit_code(server: TritonServer, tmp_path: Path) -> None:
    load = ("-H", f"grpc://{server.grpc_address}", "-u", "2", "--people", "1")
    limits = ("--max-p99-ms", "1", "--max-behind", "0.5")
    # two cores do not answer thirty frames a second
    code, said = _locust(
        tmp_path,
        *(*load, "--fps", "30", "--probe-s", "0.5", *limits, "Camera", "GenderCrops"),
        until={"person_gender, 1 crop", "frames due", "frames behind"},
    )
    assert code == 1
    assert "threshold: person_gender, 1 crop: p99" in said
    assert "frames behind, over 50.0%" in said
    assert "1 camera with 30 frames/s will send 128 people/s; this server" in said
    assert "Frames will be late: let all cameras together send at most" in said
    late = ("--call-timeout-s", "0.001", "GenderCrops")
    code, said = _locust(tmp_path, *load, *late, until={"person_gender, 1 crop"})
    assert code == 1
    assert "threshold: error rate 100.00%" in said


def test_an_unknown_model_ends_a_run_with_one_line(
    server: TritonServer, tmp_path: Path
) -> None:
    path = tmp_path / "locustfile.py"
    path.write_text(
        "from loadtest.locustfile import *\n"
        "class Unheard(GenderCrops):\n"
        "    model = 'unheard_of'\n",
        encoding="utf-8",
    )
    command_line = [*LOCUST[:4], str(path), "--headless", "-t", "2", "Unheard"]
    done = subprocess.run(
        [*command_line, "-H", f"grpc://{server.grpc_address}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "unheard_of" in line
    assert "Traceback" not in done.stderr


def test_shapes_change_the_number_of_users(
    server: TritonServer, tmp_path: Path
) -> None:
    code, said = _locust(
        tmp_path,
        *("-H", f"grpc://{server.grpc_address}", "-u", "8", "--people", "1"),
        *("--shape", "spike", "--csv", str(tmp_path / "load"), "--csv-full-history"),
        *("--max-error-rate", "1", "GenderCrops"),
        seconds=12,
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
            tmp_path,
            *("--master", "--expect-workers", "1", "-u", "2"),
            *("--master-bind-port", str(ports.http), "--csv", str(tmp_path / "load")),
            *common,
            until={"person_gender, 1 crop"},
        )
        assert code == 0, said
        assert worker.wait(300) == 0
    finally:
        worker.kill()
    count = _entries(tmp_path / "load")["person_gender, 1 crop"]["Request Count"]
    assert int(count) > 0


def test_perf_analyzer_sweeps_and_reports(
    server: TritonServer, loadtest: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    here = (
        *("--grpc", server.grpc_address, "--http", server.http_address),
        *("--metrics", f"127.0.0.1:{server.ports.metrics}"),
    )

    def measure(*arguments: str, code: int = 0) -> str:
        short = ("--seconds", "0.2", "--rounds", "1")
        exit_code, said = loadtest("perf", *here, *short, *arguments)
        assert exit_code == code, said
        return said

    grid = ("--people", "1,2", "--concurrency", "1", "--protocols", "grpc,http")
    first = tmp_path / "first"
    measure("person_gender", *grid, "--label", "short", "--output", str(first))
    run = Run.load(first / REPORT_FILE)
    assert len(run.points) == 4
    assert {point.transport for point in run.points} == {"gRPC", "HTTP"}
    assert {(p.runtime, p.precision) for p in run.points} == {("onnxruntime", "fp32")}
    assert all(point.rate > 0 and point.compute_ms > 1 for point in run.points)
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
    said = measure("unheard_of", code=1)
    assert said.startswith("error: ")
    assert "unheard_of" in said
    said = measure("person_gender", "--metrics", "127.0.0.1:9", code=1)
    assert said.startswith("error: no metrics at http://127.0.0.1:9")
    assert len(said.splitlines()) == 1


def test_locust_writes_the_same_report(
    server: TritonServer, grpc_run: Path, tmp_path: Path
) -> None:
    run = Run.load(grpc_run / "report" / REPORT_FILE)
    points = {point.model: point for point in run.points}
    gender = points["person_gender"]
    assert (gender.transport, gender.people, gender.concurrency) == ("gRPC", 2, 4)
    assert max(gender.people_per_s) > 0, "of a second"
    assert gender.compute_ms > 1
    assert "ensemble of person_preprocess" in run.facts["person_attributes"]
    assert run.facts["label"] == "steady load, short"
    text = (grpc_run / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Camera frames" in text
    assert "| frames due |" in text
    code, said = _locust(
        tmp_path,
        *("-H", f"grpc://{server.grpc_address}", "-u", "4", "--people", "2"),
        *("--http", server.http_address, "--report", str(tmp_path)),
        *("--metrics", f"127.0.0.1:{server.ports.metrics}"),
        *("--against", str(grpc_run / "report" / REPORT_FILE), "GenderCrops"),
        until={"person_gender, 2 crops"},
    )
    assert code == 0, said
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Compared with the earlier run, people/s" in text
    assert "| person_gender, 2 people, gRPC, x4 |" in text


def test_other_servers_do_the_same_work(
    server: TritonServer, loadtest: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    here = (
        *("--grpc", server.grpc_address, "--http", server.http_address),
        *("--repository", str(server.repository.root)),
    )
    short = ("--seconds", "0.2", "--rounds", "1", "--concurrency", "2", "--people", "2")
    other = ("--server", f"other=grpc://{server.grpc_address}/person_gender")
    other += ("--server", f"frames=http://{server.http_address}/person_attributes")
    code, said = loadtest("compare", *here, *short, *other, "--output", str(tmp_path))
    assert code == 0, said
    run = Run.load(tmp_path / REPORT_FILE)
    systems = {
        "in process",
        "personserve",
        "personserve, its SDK",
        "FastAPI",
        "LitServe",
        "mosec",
        "pytriton",
    }
    assert {point.system for point in run.points} == systems | {"other", "frames"}
    assert [p.model for p in run.points if p.system == "frames"] == ["frame of 2"]
    assert len(run.points) == 3 * len(systems) + 2 + 1
    assert f"person_gender at grpc://{server.grpc_address}" in run.facts["other"]
    assert all(point.rate > 0 and point.memory_mib > 50 for point in run.points)
    assert "frame of 2, x2" in said
    code, said = loadtest("compare", *here, "--model", "person_gender")
    assert code == 1
    assert "person_gender: expected an ensemble in which one network" in said
    code, said = loadtest("compare", "--baselines", "Flask")
    assert code == 2
    code, said = loadtest("compare", *here[:4], "--repository", str(tmp_path))
    assert code == 1
    assert "run python -m builders build" in said


def test_tuning_tries_settings_and_puts_the_declared_back(
    server: TritonServer,
    loadtest: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # each round of two candidates loads the model twice
    monkeypatch.setattr("loadtest.tuning.FINAL_ROUNDS", 1)
    arguments = (
        *("tune", "person_gender", "--instances", "1,2", "--seconds", "0.3"),
        *("--grpc", server.grpc_address, "--http", server.http_address),
        *("--rounds", "1", "--output", str(tmp_path)),
    )
    before = get_config(server.http_address, "person_gender")
    code, said = loadtest(*arguments, "--goal", "p99_ms=60000")
    assert code == 0, said
    assert "1 instance, not merged" in said
    # the faster count of instances, which a round of 0.3 s decides, is tried merged
    merged = "merged, 2000 us, preferably 4"
    assert f"1 instance, {merged}" in said or f"2 instances, {merged}" in said
    # the version that was served stays, whatever is built meanwhile
    pinned = {"version_policy": {"specific": {"versions": [1]}}}
    assert get_config(server.http_address, "person_gender") == before | pinned
    code, said = loadtest(*arguments, "--instances", "2", "--goal", "p99_ms=1")
    assert code == 1
    assert "nothing reaches 1 ms" in said
    for model, goal, words in (
        ("person_attributes", "p99_ms=5", "is an ensemble"),
        ("person_preprocess", "p99_ms=5", "does not batch"),
        ("person_gender", "fast", "expected p99_ms=LIMIT"),
        ("nobody", "p99_ms=5", "nobody"),
    ):
        code, said = loadtest("tune", model, "--goal", goal, *arguments[6:])
        assert code in {1, 2}
        assert words in said


def test_the_other_commands_write_their_reports(
    server: TritonServer, loadtest: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    here = ("--grpc", server.grpc_address, "--http", server.http_address)
    overhead = (
        *("overhead", "--repository", str(server.repository.root)),
        *("--models", "person_gender", "--people", "1", "--concurrency", "1"),
        *("--seconds", "0.2"),
    )
    for arguments, words in (
        (overhead, "checks, decode and cut, 1 caller"),
        (("transfer", "--calls", "5"), "HTTP, system shared memory"),
        (("soak", "--minutes", "0.1"), "mappings of /dev/shm"),
    ):
        code, said = loadtest(*arguments, *here, "--output", str(tmp_path))
        assert code == 0, said
        assert words in said
        assert words in (tmp_path / "report.md").read_text(encoding="utf-8")
        assert "client" in json.loads((tmp_path / REPORT_FILE).read_bytes())["facts"]
