"""Where the results of an analysis go: the terminal, JSON, and a table."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import Progress

from personserve._client import Client
from personserve._defaults import FRAME_MODEL
from personserve._results import People
from personserve.cli.answers import print_gender_rule
from personserve.cli.frames import Frame
from personserve.cli.output import (
    print_json,
    print_plain,
    show_spinner,
    warn_of_stand_ins,
)
from personserve.cli.tables import TableFile


@dataclass
class Results:
    """Where and how results are shown.

    Attributes:
        console: Where text is printed.
        as_json: Print one line of JSON for each image or frame instead of text.
        embeddings: Whether JSON and the table include embeddings.
        table: A file that receives one row for each detection.
        frame_count: Number of images or frames so far.
        detection_count: Number of detections so far.
        stand_ins: Names of the models that answered with untrained weights.
        unreadable: Number of images that could not be read.
        written: A line about each annotated image or video that was written.
        model: Name of the model that answers about people.
    """

    console: Console
    as_json: bool = False
    embeddings: bool = False
    table: TableFile = field(default_factory=lambda: TableFile(None))
    frame_count: int = 0
    detection_count: int = 0
    stand_ins: tuple[str, ...] = ()
    unreadable: int = 0
    written: list[str] = field(default_factory=list)
    model: str = FRAME_MODEL

    def add(self, frame: Frame, source: str, people: People) -> None:
        """Count the people of a frame, and write them to the table or as JSON.

        Args:
            frame: The frame.
            source: The file, address or camera that it comes from.
            people: Its people.
        """
        self.frame_count += 1
        self.detection_count += len(people)
        names = (*self.stand_ins, *people.stand_in_weights)
        self.stand_ins = tuple(dict.fromkeys(names))
        self.table.write(frame, source, people)
        if self.as_json:
            values: dict[str, Any] = {"frame": frame.name}
            if frame.index is not None:
                values |= {"source": source, "time_s": frame.time_s}
            print_json({**values, **people.to_dict(embeddings=self.embeddings)})

    def waiting(self, doing: str) -> AbstractContextManager[object]:
        """Show a spinner on a terminal while a block runs.

        Args:
            doing: What the command does, for example "opening street.mp4".

        Returns:
            A context manager.
        """
        return show_spinner(doing, self.console, as_json=self.as_json)

    def progress(self) -> Progress:
        """Return a bar that is shown on a terminal, below the lines of text."""
        return Progress(
            *Progress.get_default_columns(),
            console=self.console,
            transient=True,
            disable=self.as_json or not self.console.is_terminal,
        )

    def print_text(self, text: str) -> None:
        """Print a line unless the output is JSON.

        Args:
            text: The line.
        """
        if not self.as_json:
            print_plain(text, self.console)

    def print_end(self, client: Client) -> None:
        """Print what holds for all results: thresholds, warnings and files.

        Args:
            client: The client whose server answered.
        """
        if self.as_json:
            return
        if self.detection_count:
            print_gender_rule(client, self.model, self.console)
        warn_of_stand_ins(self.stand_ins, self.console)
        for line in self.written:
            print_plain(f"wrote {line}", self.console)
        if self.table.path is not None and self.frame_count:
            print_plain(
                f"wrote {self.table.path}: {self.detection_count} rows", self.console
            )
