"""The operator: answers the items of a batch, and writes the answers.

It is the same in a worker of Ray Data and in the caller's process. The images are
decoded and cut here, so that a server gets crops, and both kinds of back end get the
same ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2

from personserve._client import Client
from personserve._errors import (
    InvalidInputError,
    OverloadedError,
    PersonServeError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from personserve._results import People
from personserve.bulk.answers import Origin, RowPlace, build_table
from personserve.bulk.folder import ArchiveFolder, DeadLetter
from personserve.bulk.items import Batch, Item
from personserve.bulk.reading import Detector, View, read_views
from personserve.images.crops import Pixels

OpenClient = Callable[[], Client]
"""Opens a client in the worker's process."""

CROPS_PER_CALL = 64
"""Crops that are collected for one call; the default models take as many."""

CALL_ATTEMPTS = 3
CALL_PAUSE_S = 2.0
"""Calls, each with the client's own retries, before a run is ended because the server
does not answer; and the pause after the first, which doubles."""

PASSING_ERRORS = (OverloadedError, RequestTimeoutError, ServerUnavailableError)


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch.

    Attributes:
        items: Number of its items.
        rows: Number of people that were answered.
        dead_letters: Number of dead letters.
        error: Why the batch could not be answered; empty if it was.
        worker: Process that answered it, as "node:process".
    """

    items: int
    rows: int = 0
    dead_letters: int = 0
    error: str = ""
    worker: str = ""


@dataclass
class _Pending:
    """People that were read and not asked about yet, and the answers so far."""

    crops: list[Pixels] = field(default_factory=list)
    places: list[RowPlace] = field(default_factory=list)
    answers: list[People] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)


class Worker:
    """Answers batches.

    Args:
        open_client: Opens the client of the back end.
        origin: The model that answers, as it was when the run began.
        folder: Where answers go.
        detector: Finds people in frames without boxes.
    """

    def __init__(
        self,
        open_client: OpenClient,
        origin: Origin,
        folder: ArchiveFolder,
        detector: Detector,
    ) -> None:
        # workers are the parallelism: two threads of OpenCV in each would compete
        cv2.setNumThreads(1)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._client = open_client()
        self._origin = origin
        self._folder = folder
        self._detector = detector

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def answer(self, batch: Batch) -> BatchReport:
        """Answer a batch and write its files, unless they are there.

        Args:
            batch: The batch.

        Returns:
            What became of it. An error of the server is in the report, because it
            ends the run and not only the batch.
        """
        if self._folder.has(batch):
            return BatchReport(len(batch.items))
        work = _Pending()
        try:
            for item in batch.items:
                self._read(item, work)
            self._ask(work)
            people = People.concatenate(work.answers) if work.answers else None
            keys = [item.key for item in batch.items]
            table = build_table(work.places, people, self._origin, keys)
        except PersonServeError as exc:
            return BatchReport(len(batch.items), error=f"{type(exc).__name__}: {exc}")
        self._folder.write(batch, table, work.letters)
        return BatchReport(len(batch.items), table.num_rows, len(work.letters))

    def _read(self, item: Item, work: _Pending) -> None:
        """Collect the people of an item, and ask about them when they are enough."""
        views = read_views(item, self._detector)
        while True:
            try:
                view = next(views, None)
            except InvalidInputError as exc:
                frame = item.start if item.kind == "video" else None
                work.letters.append(DeadLetter(item.source, frame, str(exc)))
                return
            if view is None:
                return
            self._collect(item, view, work)
            if len(work.crops) >= CROPS_PER_CALL:
                self._ask(work)

    def _collect(self, item: Item, view: View, work: _Pending) -> None:
        for row in range(1 if view.boxes is None else len(view.boxes)):
            try:
                crop = view.crop(row)
            except InvalidInputError as exc:
                letter = DeadLetter(item.source, view.frame, str(exc))
                work.letters.append(letter)
                continue
            box = None
            if view.boxes is not None:
                x0, y0, x1, y1 = view.boxes[row].tolist()
                box = (x0, y0, x1, y1)
            work.crops.append(crop)
            work.places.append(RowPlace(item.source, view.frame, view.time_s, box))

    def _ask(self, work: _Pending) -> None:
        if not work.crops:
            return
        for attempt in range(1, CALL_ATTEMPTS + 1):
            try:
                people = self._client.attributes_of_crops(
                    work.crops, model=self._origin.model
                )
                break
            except PASSING_ERRORS:
                if attempt == CALL_ATTEMPTS:
                    raise
                time.sleep(CALL_PAUSE_S * 2 ** (attempt - 1))
        work.answers.append(people)
        work.crops = []
