"""The run of an archive: find the items, leave out finished ones, answer the rest."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from personserve._defaults import FRAME_MODEL
from personserve._errors import PersonServeError
from personserve.bulk.answers import Origin
from personserve.bulk.cluster import Cluster
from personserve.bulk.folder import ArchiveFolder
from personserve.bulk.items import Batch, Item, split_items
from personserve.bulk.reading import Detector
from personserve.bulk.sources import find_items
from personserve.bulk.worker import BatchReport, OpenClient, Worker

SPAN_FRAMES = 64
"""Frames of a video in one item; seeking to a span costs less than reading one."""

BATCH_ITEMS = 64
"""Images in one batch, and in one file of answers."""


@dataclass
class Outcome:
    """Result of a run.

    Attributes:
        items: Number of items of the sources.
        items_before: Number of items that an earlier run completed.
        items_done: Number of items that this run completed.
        people: Number of people that this run answered.
        dead_letters: Number of dead letters of this run.
        stand_in_weights: Networks that run on untrained stand-in weights.
        by_worker: Batches by worker, "node:process"; one of "" is this process.
        was_stopped: Whether the caller ended the run before its end.
    """

    items: int
    items_before: int
    items_done: int = 0
    people: int = 0
    dead_letters: int = 0
    stand_in_weights: tuple[str, ...] = ()
    by_worker: dict[str, int] = field(default_factory=dict)
    was_stopped: bool = False

    def add(self, report: BatchReport) -> None:
        """Count a batch.

        Args:
            report: What became of it.
        """
        self.items_done += report.items
        self.people += report.rows
        self.dead_letters += report.dead_letters
        self.by_worker[report.worker] = self.by_worker.get(report.worker, 0) + 1


def answer_archive(
    sources: Sequence[str],
    output: Path | str,
    open_client: OpenClient,
    *,
    model: str = FRAME_MODEL,
    detector: Detector | None = None,
    detect: bool = False,
    every: int = 1,
    cluster: Cluster | None = None,
    batch_items: int = BATCH_ITEMS,
    on_progress: Callable[[Outcome], None] | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Answer about all people of an archive, and write the answers as Parquet.

    A run with the same folder resumes: completed items are left out. What cannot be
    read is a dead letter and ends nothing. Errors of the server end the run after the
    retries; what is complete is kept.

    Args:
        sources: Images, videos, folders, patterns and tables of boxes
            (`source`, `frame`, `x0`, `y0`, `x1`, `y1`; .parquet or .jsonl), as paths
            or fsspec URLs. An image of a folder is of one person unless `detect`.
        output: Folder for the answers, on storage that every worker sees.
        open_client: Opens the client in each worker: partial(Client, addresses), or
            partial(open_deployed_client, repository) for no server.
        model: Name of the model to ask, see Client.attributes_of_crops.
        detector: Finds the people in frames and videos without boxes; a function that
            workers can import. None refuses such sources.
        detect: Whether the detector finds the people in images, too.
        every: Look at each frame of a video whose number is a multiple of this.
        cluster: Workers on Ray. None answers in this process, one batch at a time.
        batch_items: Images in one batch and in one file.
        on_progress: Called after each batch.
        is_stopped: Asked after each batch; True ends the run.

    Returns:
        What the run has done.

    Raises:
        InvalidInputError: A source is missing or is not understood, or the folder has
            answers of another model or of other options.
        PersonServeError: The server does not answer, or a worker fails.
    """
    folder = ArchiveFolder(Path(output))
    items = find_items(sources, detect=detect, every=every, span_frames=SPAN_FRAMES)
    finder = detector or _refuse_to_detect
    with closing(open_client()) as client:
        origin = Origin.ask(client, model)
    with folder.claim(origin, {"every": every, "detect": detect}):
        batches, items_before = _plan(items, folder, batch_items)
        outcome = Outcome(
            len(items), items_before, stand_in_weights=origin.stand_in_weights
        )
        build_worker = partial(Worker, open_client, origin, folder, finder)
        answer = cluster.answer if cluster and batches else _answer_here
        reports = answer(batches, build_worker)
        with closing(reports):
            for report in reports:
                if report.error:
                    raise PersonServeError(
                        f"{report.error}; {outcome.items_done} items are complete, and "
                        "the same command resumes"
                    )
                outcome.add(report)
                if on_progress is not None:
                    on_progress(outcome)
                if is_stopped():
                    outcome.was_stopped = True
                    break
    return outcome


def _plan(
    items: Sequence[Item], folder: ArchiveFolder, batch_items: int
) -> tuple[list[Batch], int]:
    """Return the batches that are not complete, and the number of completed items.

    Items that are new since the last run change the boundaries of batches. The batches
    of unchanged items keep their keys, so that a worker of a killed run that has not
    ended yet writes the same files.
    """
    completed = folder.completed_items()
    remaining: list[Item] = []
    batches: list[Batch] = []
    for batch in split_items(items, batch_items):
        missing = [item for item in batch.items if item.key not in completed]
        if len(missing) == len(batch.items):
            batches.append(batch)
        else:
            remaining += missing
    batches += split_items(remaining, batch_items)
    return batches, len(items) - sum(len(batch.items) for batch in batches)


def _answer_here(
    batches: Sequence[Batch], build_worker: Callable[[], Worker]
) -> Generator[BatchReport, None, None]:
    with closing(build_worker()) as worker:
        for batch in batches:
            yield worker.answer(batch)


def _refuse_to_detect(_pixels: Any) -> Any:
    raise PersonServeError(
        "a frame has no boxes and there is no detector; pass detector=, or a table of "
        "boxes as the source"
    )
