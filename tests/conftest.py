"""Fixtures of all tests, and which of them share a worker or run alone.

With two workers (`make test`, pytest-xdist) the tests that use the shared server stay
in one of them, so that it is started once. Built models and batch-norm statistics are
shared between workers by files. Tests that a second busy worker would disturb run while
the other one waits.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from builders.build.build import build
from builders.build.source import BuildOptions
from builders.repository.layout import ROOT, Repository
from builders.repository.render import render_repository
from builders.repository.versions import FIRST_VERSION
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.verify import reference
from builders.weights import StandIn, standin
from personserve import Client
from tests import statistics_cache
from tests.material import write_street_video

VIDEO = ROOT.parent / "shared" / "data" / "vtest.avi"
WORKER = os.environ.get("PYTEST_XDIST_WORKER")

# as the command does: OpenCV reads it once, at the first video of this process
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

if WORKER is not None:
    torch.set_num_threads(1)  # two workers would spin against each other

SHARED_SERVER = (
    "tests/builders/evaluation/test_evaluate.py",
    "tests/builders/test_plans.py::test_the_doctor_finds_nothing_wrong",
    "tests/served/test_access.py",
    "tests/served/test_attributes.py",
    "tests/served/test_bulk.py",
    "tests/served/test_cli.py",
    "tests/served/test_clients.py",
    "tests/served/test_examples.py",
    "tests/served/test_logs.py",
    "tests/served/test_numpy_2.py",
    "tests/served/test_overload.py",
    "tests/served/test_readme.py",
)
"""Tests that use the fixture `server`: prefixes of their names."""

ALONE = (
    "tests/client/test_shared_memory.py",  # counts files in /dev/shm
)
"""Tests that a second busy worker would disturb, so that it waits."""

FIRST = (
    "tests/served/test_kinship.py",
    "tests/test_project.py::test_lint_and_types",
)
"""Long tests, which start early, so that no worker waits for them at the end."""

REPEATED = (
    *SHARED_SERVER,
    "tests/builders/test_bounded_work.py",
    "tests/builders/test_draining.py",
    "tests/builders/test_health.py",
    "tests/builders/test_pause_watchdog.py",
    "tests/builders/test_supervisor.py",
    "tests/client/test_shared_memory.py",
    "tests/loadtest/test_endpoints.py",
    "tests/loadtest/test_locust.py",
    "tests/served/",
)
"""Tests of processes, which are repeated once if they fail, and then listed as RERUN.

A machine may pause a server for longer than a client waits. All other tests are decided
by their input alone, so that a failure of theirs is never repeated.
"""


MAX_REPETITIONS = 5
"""Repetitions in one run. More failures are no pause of the machine, and each may wait
for a server that does not start."""


def pytest_configure(config: pytest.Config) -> None:
    """Limit repetitions, where pytest-rerunfailures is there."""
    if config.pluginmanager.hasplugin("rerunfailures"):
        config.option.max_suite_reruns = MAX_REPETITIONS


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Function]
) -> None:
    """Refuse tests that use the server and are not among SHARED_SERVER.

    Those of REPEATED get the mark of pytest-rerunfailures.
    """
    strangers = [
        item.nodeid
        for item in items
        for name, fixtures in item._fixtureinfo.name2fixturedefs.items()
        if name == "server"
        and fixtures[-1].baseid == "tests"
        and not item.nodeid.startswith(SHARED_SERVER)
    ]
    if strangers:
        raise pytest.UsageError(
            "these tests use the fixture `server`, which exists in one worker only: "
            "add their files to SHARED_SERVER in tests/conftest.py, or let them start "
            "a TritonServer of their own on the fixture `repository`: "
            f"{', '.join(strangers)}"
        )
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if item.nodeid.startswith(REPEATED):
                item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give SHARED_SERVER to one worker, and all else to whichever is free.

    Files with servers of their own stay together, because their fixtures start them.
    pytest-xdist's own marks for this (3.8, `--dist loadgroup`) have no effect in pytest
    9.2, whose items keep their name elsewhere.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(SHARED_SERVER):
                return "shared server"
            if nodeid.startswith("tests/served"):
                return nodeid.partition("::")[0]
            return nodeid

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def turn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Let tests of ALONE run alone: the other worker waits before its next test."""
    if WORKER is None:
        yield
        return
    folder = tmp_path_factory.getbasetemp().parent  # one for both workers
    is_alone = request.node.nodeid.startswith(ALONE)
    with (folder / "room.lock").open("w") as room:
        # the door is held while waiting, so that no other test overtakes this one
        with (folder / "door.lock").open("w") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        yield


@pytest.fixture(scope="session", autouse=True)
def _statistics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measure the statistics of stand-in weights and of references once in a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if WORKER is None else base.parent) / "statistics"
    folder.mkdir(exist_ok=True)
    statistics_cache.folder = folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standin, "_set_statistics", statistics_cache.set_statistics_once)
        yield


@contextmanager
def _lock(repository: Repository, name: str, flags: int = 0) -> Iterator[None]:
    with (repository.root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | flags)
        yield


def _build_first_version(model: Model, repository: Repository) -> None:
    """Build a model as its first version, whatever an earlier run has left.

    The build compares a file with torch on one photograph instead of five, because the
    comparisons of all models take longer than everything else that the tests build.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "PHOTOGRAPHS", reference.PHOTOGRAPHS[:1])
        _build(model, repository)


def _build(model: Model, repository: Repository) -> None:
    result = build("cpu", model, StandIn(), repository, BuildOptions())
    if result.path.parent.name != str(FIRST_VERSION):
        shutil.rmtree(repository.folder(model.name))
        render_repository(repository)
        build("cpu", model, StandIn(), repository, BuildOptions())


@pytest.fixture(scope="session")
def repository(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Repository:
    """A repository of its own, built for the CPU from stand-in weights.

    Built files stay in pytest's cache, so that the next run builds only what changed;
    `pytest --cache-clear` removes them. Each run works on a copy.
    """
    cached = Repository(pytestconfig.cache.mkdir("repository"))
    repository = Repository(tmp_path_factory.mktemp("repository"))
    with _lock(cached, "render"):
        render_repository(cached)
    pending = models()
    while pending:  # the other worker, or another run, builds what is locked
        for model in list(pending):
            with suppress(BlockingIOError), _lock(cached, model.name, fcntl.LOCK_NB):
                _build_first_version(model, cached)
                folder = cached.folder(model.name)
                shutil.copytree(folder, repository.folder(model.name))
                pending.remove(model)
        time.sleep(0.1 * bool(pending))
    render_repository(repository)
    return repository


@pytest.fixture(scope="session")
def server(repository: Repository) -> Iterator[TritonServer]:
    """The real tritonserver on it."""
    with TritonServer(repository, ports=Ports.free(), http=True) as server:
        yield server


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    with Client(server.grpc_address, timeout_s=120) as client:
        yield client


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real picture, UINT8 [512, 512, 3] BGR."""
    return cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with people: OpenCV's vtest.avi beside the checkout, or one made here."""
    if VIDEO.is_file():
        return VIDEO
    return write_street_video(tmp_path_factory.mktemp("video") / "street.avi")
