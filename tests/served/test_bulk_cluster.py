"""Archives on a Ray cluster of two nodes: the rows of one process, also after kills."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from builders.repository.layout import ROOT
from personserve import InvalidInputError
from personserve.bulk import (
    Cluster,
    Outcome,
    answer_archive,
    read_answers,
    read_dead_letters,
)
from tests.client.conftest import write_image
from tests.client.test_bulk import detect_left_half, open_mock

PATIENCE_S = 300.0
IMAGES = 12
STORE_BYTES = 80 << 20

# Ray 2.60 sets options of its own that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

DRIVER = """
import sys
from personserve.bulk import Cluster, answer_archive
from tests.client.test_bulk import open_mock
from tests.served.test_bulk_cluster import detect_a_few

answer_archive([sys.argv[1]], sys.argv[2], open_mock, detect=True,
    detector=detect_a_few, batch_items=1, cluster=Cluster(sys.argv[3], workers=1))
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def marks(pattern: str) -> list[Path]:
    """Return the files with which processes tell that they have been somewhere."""
    return list(Path(os.environ["BULK_MARKS"]).glob(pattern))


def mark(name: str) -> bool:
    """Leave a file; return whether this process was the first to do so."""
    try:
        (Path(os.environ["BULK_MARKS"]) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def detect_with_another(image: np.ndarray) -> np.ndarray:
    """Detect when two workers are there; one of them ends as `kill -9` does, once."""
    mark(f"worker-{os.getpid()}")
    wait_until(lambda: len(marks("worker-*")) >= 2)
    if mark("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return detect_left_half(image)


def detect_a_few(image: np.ndarray) -> np.ndarray:
    """Detect in four images, and wait in the fifth for the end of the process."""
    if not any(mark(f"call-{call}") for call in range(4)):
        time.sleep(PATIENCE_S)
    return detect_left_half(image)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with one CPU each, which take seconds to start."""
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    head = {**node, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        # workers inherit the environment of their node
        patch.setenv("BULK_MARKS", str(tmp_path_factory.mktemp("marks")))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = RayCluster(initialize_head=True, head_node_args=head)
        try:
            nodes.add_node(**node)
            ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR)
            yield Cluster(nodes.address)
        finally:
            ray.shutdown()
            nodes.shutdown()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for index in range(IMAGES):
        write_image(folder / f"{index:02}.png", index)
    (folder / "03b.jpg").write_bytes(b"\xff\xd8\xffdamaged")
    return folder


@pytest.fixture(scope="module")
def whole(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The answers of one process."""
    folder = tmp_path_factory.mktemp("whole")
    answer_archive(
        [str(frames)],
        folder,
        open_mock,
        detect=True,
        detector=detect_left_half,
        batch_items=2,
    )
    return folder


def require_same(folder: Path, whole: Path) -> None:
    assert read_answers(folder).equals(read_answers(whole))
    assert len(read_answers(folder)) == IMAGES
    assert read_dead_letters(folder) == read_dead_letters(whole)
    assert len(read_dead_letters(whole)) == 1


def test_two_nodes_write_the_rows_of_one_process_also_if_a_worker_is_killed(
    cluster: Cluster, frames: Path, whole: Path, tmp_path: Path
) -> None:
    progress: list[int] = []

    def note(outcome: Outcome) -> None:
        progress.append(outcome.items_done)

    outcome = answer_archive(
        [str(frames)],
        tmp_path,
        open_mock,
        detect=True,
        detector=detect_with_another,
        batch_items=2,
        cluster=cluster,
        on_progress=note,
    )
    assert len(marks("worker-*")) == 3, "the killed one was started again"
    assert outcome.items_done == outcome.items == progress[-1] == IMAGES + 1
    assert len(progress) == sum(outcome.by_worker.values()) == 7
    assert len({name.split(":")[0] for name in outcome.by_worker}) == 2
    require_same(tmp_path, whole)


def test_a_run_whose_driver_is_killed_is_resumed_to_the_same_rows(
    cluster: Cluster, frames: Path, whole: Path, tmp_path: Path
) -> None:
    arguments = [str(frames), str(tmp_path), str(cluster.address)]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments], cwd=ROOT, stdout=log, stderr=log
        ) as driver,
    ):
        try:
            wait_until(
                lambda: (
                    driver.poll() is not None
                    or len(list(tmp_path.glob("answers/*.parquet"))) >= 3
                )
            )
            assert driver.poll() is None, (tmp_path / "log").read_text()
        finally:
            driver.kill()
    outcome = answer_archive(
        [str(frames)],
        tmp_path,
        open_mock,
        detect=True,
        detector=detect_left_half,
        batch_items=2,
        cluster=cluster,
    )
    assert outcome.items_before >= 3
    assert outcome.items_done == IMAGES + 1 - outcome.items_before > 0
    require_same(tmp_path, whole)


def test_gpus_that_the_cluster_lacks_are_refused(
    cluster: Cluster, frames: Path, tmp_path: Path
) -> None:
    lacking = Cluster(cluster.address, gpus_per_worker=0.5)
    with pytest.raises(InvalidInputError, match="has no GPU"):
        answer_archive([str(frames)], tmp_path, open_mock, cluster=lacking)
