"""Ways to answer an archive: a loop, a pool of processes, and Ray Data.

All ways run the same operator (personserve.bulk.worker.Worker).
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from loadtest.errors import LoadTestError
from loadtest.machine import MIB
from personserve.bulk import Cluster, Outcome, answer_archive, read_answers
from personserve.bulk.answers import Origin
from personserve.bulk.archive import BATCH_ITEMS
from personserve.bulk.folder import ArchiveFolder
from personserve.bulk.items import Batch, split_items
from personserve.bulk.reading import Detector
from personserve.bulk.sources import find_items
from personserve.bulk.worker import OpenClient, Worker
from personserve.images.videos import read_span

CROP_HW = (128, 64)
CROP_FRAMES = 50

BROKEN = b"\xff\xd8\xffbroken"


@dataclass(frozen=True)
class Job:
    """What all ways do.

    Attributes:
        crops: Folder of the crops.
        answers: Folder for the answers; each way has a folder in it.
        open_client: Opens the client of a worker.
        model: Name of the model to ask.
        workers: Number of workers of the pool and of Ray.
    """

    crops: Path
    answers: Path
    open_client: OpenClient
    model: str
    workers: int

    def answer(self, name: str, source: Path | None = None, **options: Any) -> Outcome:
        """Answer into the folder of a way.

        Args:
            name: Name of the way.
            source: What to answer about; None for the crops.
            options: Further arguments of answer_archive.

        Returns:
            What was done.
        """
        return answer_archive(
            [str(source or self.crops)],
            self.answers / name,
            self.open_client,
            model=self.model,
            **options,
        )

    def require_same(self, name: str, other: str = "loop") -> None:
        """Compare the rows of two ways.

        Args:
            name: Name of a way.
            other: Name of the other one.

        Raises:
            LoadTestError: They are not equal bit for bit.
        """
        rows, expected = (read_answers(self.answers / each) for each in (name, other))
        if not rows.equals(expected):
            raise LoadTestError(f"the rows of {name} are not those of {other}")


@dataclass
class Rate:
    """People per second of one way.

    Attributes:
        people: Number of people.
        whole_s: Seconds from the call to the end, with the start of the workers.
        first_s: Seconds until the first batch was complete.
    """

    people: int
    whole_s: float
    first_s: float

    @property
    def steady(self) -> float:
        """People per second after the first batch, which is not counted."""
        return (self.people - BATCH_ITEMS) / (self.whole_s - self.first_s)


@dataclass
class Watch:
    """Times and memory while a run makes progress.

    Attributes:
        start_s: When it began (time.perf_counter).
        first_s: Seconds until the first batch was complete.
        memory_mib: Number of people, and the memory of all processes then.
    """

    start_s: float = field(default_factory=time.perf_counter)
    first_s: float = 0.0
    memory_mib: list[tuple[int, float]] = field(default_factory=list)

    def note(self, outcome: Outcome) -> None:
        """Note time and memory.

        Args:
            outcome: What the run has done so far.
        """
        self.first_s = self.first_s or time.perf_counter() - self.start_s
        mib = _memory_mib() if outcome.items_done % 20 == 0 else 0.0
        if mib:
            self.memory_mib.append((outcome.people, mib))


def write_crops(video: Path, folder: Path, count: int) -> Path:
    """Cut crops out of a video's frames, and add an image that cannot be decoded.

    Args:
        video: The video.
        folder: Folder to write JPEG files to.
        count: Number of crops.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frames = [pixels for _, _, pixels in read_span(str(video), 0, CROP_FRAMES)]
    height, width = CROP_HW
    for index in range(count):
        frame = frames[index % len(frames)]
        y = int(rng.integers(0, frame.shape[0] - height))
        x = int(rng.integers(0, frame.shape[1] - width))
        crop = frame[y : y + height, x : x + width]
        cv2.imwrite(str(folder / f"{index:06}.jpg"), crop)
    (folder / f"{count // 2:06}-broken.jpg").write_bytes(BROKEN)
    return folder


def measure_ways(job: Job, people: int) -> dict[str, Rate]:
    """Measure the loop, the pool and Ray on the same crops, and compare their rows.

    Args:
        job: What to do.
        people: Number of people among the crops.

    Returns:
        The rate of each way.

    Raises:
        LoadTestError: A way has other rows than the loop.
    """
    cluster = Cluster(workers=job.workers)
    ways: dict[str, Callable[[Callable[[Outcome], None]], object]] = {
        "loop": lambda note: job.answer("loop", on_progress=note),
        "pool": lambda note: _run_pool(job, note),
        "ray": lambda note: job.answer("ray", on_progress=note, cluster=cluster),
    }
    rates = {}
    for name, run in ways.items():
        watch = Watch()
        run(watch.note)
        whole_s = time.perf_counter() - watch.start_s
        rates[name] = Rate(people, whole_s, watch.first_s)
        job.require_same(name)
    return rates


def _run_pool(job: Job, note: Callable[[Outcome], None]) -> None:
    """Answer with multiprocessing's pool of the same operator."""
    items = find_items([str(job.crops)], detect=False, every=1, span_frames=1)
    folder = ArchiveFolder(job.answers / "pool")
    with job.open_client() as client:
        origin = Origin.ask(client, job.model)
    outcome = Outcome(len(items), 0)
    start = (job.open_client, origin, folder, _detect_nothing)
    context = multiprocessing.get_context("spawn")
    with (
        folder.claim(origin, {"every": 1, "detect": False}),
        context.Pool(job.workers, _start_worker, start) as pool,
    ):
        batches = split_items(items, BATCH_ITEMS)
        for report in pool.imap_unordered(_answer_in_pool, batches):
            outcome.add(report)
            note(outcome)


_WORKERS: list[Worker] = []
"""The worker of a process of the pool."""


def _start_worker(
    open_client: Any, origin: Origin, folder: ArchiveFolder, detector: Detector
) -> None:
    _WORKERS.append(Worker(open_client, origin, folder, detector))


def _answer_in_pool(batch: Batch) -> Any:
    return _WORKERS[0].answer(batch)


def _detect_nothing(_pixels: Any) -> Any:
    return np.empty((0, 4), np.float32)


def _memory_mib() -> float:
    me = psutil.Process()
    total = me.memory_info().rss
    for child in me.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MIB
