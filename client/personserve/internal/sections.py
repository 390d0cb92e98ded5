"""Sections of a report: tables, texts, charts and sheets of photographs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from personserve.internal.figures import mark_figure, mark_pixels
from personserve.internal.markdown import format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

DOTS_PER_INCH = 130

NUMBER = re.compile(r"[-+±<>x]?\d")
"""Beginning of a cell that is aligned to the right."""


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: Its heading.
        head: Column titles.
        rows: Cells, one list for each row.
        note: Explanation, in front of the table.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def print_to(self, console: Console) -> None:
        """Print the table to a terminal.

        Args:
            console: The terminal.
        """
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as TerminalTable
        from rich.text import Text

        console.print(Text(self.title, "bold"))
        if self.note:
            console.print(self.note, markup=False, highlight=False)
        table = TerminalTable(box=SIMPLE_HEAD)
        for title, is_number in zip(self.head, self._number_columns(), strict=True):
            table.add_column(Text(title), justify="right" if is_number else "left")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)

    def to_markdown(self) -> str:
        """Return the note and the table."""
        table = format_table(self.head, self.rows)
        return f"{self.note}\n\n{table}" if self.note else table

    def to_html(self) -> str:
        """Return the note and the table."""
        classes = [
            ' class="number"' if is_number else ""
            for is_number in self._number_columns()
        ]

        def format_row(tag: str, cells: Sequence[str]) -> str:
            texts = zip(classes, cells, strict=True)
            row = "".join(f"<{tag}{c}>{escape(cell)}</{tag}>" for c, cell in texts)
            return f"<tr>{row}</tr>"

        rows = "\n".join(format_row("td", row) for row in self.rows)
        note = f"<p>{escape(self.note)}</p>\n" if self.note else ""
        head = format_row("th", self.head)
        return f'{note}<div class="wide"><table>{head}\n{rows}</table></div>'

    def _number_columns(self) -> list[bool]:
        """Return for each column whether its cells are numbers."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.head))]
        return [
            any(map(NUMBER.match, cells))
            and all(NUMBER.match(cell) or cell in {"", "-"} for cell in cells)
            for cells in columns
        ]


@dataclass(frozen=True)
class Listing:
    """Preformatted text of a report, for example code to paste.

    Attributes:
        title: Its heading.
        text: The text.
        language: Name of the language for syntax highlighting.
    """

    title: str
    text: str
    language: str = ""

    def print_to(self, console: Console) -> None:
        """Print the text to a terminal.

        Args:
            console: The terminal.
        """
        _print_titled(console, self.title, self.text)

    def to_markdown(self) -> str:
        """Return the text as a code block."""
        return f"```{self.language}\n{self.text}\n```"

    def to_html(self) -> str:
        """Return the text, preformatted."""
        return f"<pre>{escape(self.text)}</pre>"


@dataclass(frozen=True)
class Paragraph:
    """Text of a report.

    Attributes:
        title: Its heading.
        text: The text, without markup.
    """

    title: str
    text: str

    def print_to(self, console: Console) -> None:
        """Print the text to a terminal.

        Args:
            console: The terminal.
        """
        _print_titled(console, self.title, self.text)

    def to_markdown(self) -> str:
        """Return the text."""
        return self.text

    def to_html(self) -> str:
        """Return the text."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Plot:
    """A chart of a report. The terminal does not show it.

    Attributes:
        title: Its heading.
        figure: The chart.
        stem: Name of its file, without suffix; derived from the title if empty.
    """

    title: str
    figure: Figure
    stem: str = ""

    @property
    def file_name(self) -> str:
        """Name of the PNG file."""
        stem = self.stem or re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
        return f"{stem}.png"

    def encode(self, mark: str, *, is_warning: bool) -> bytes:
        """Return the chart as a PNG file.

        Args:
            mark: Text below the chart, for example whose weights it shows.
            is_warning: Whether the text is a warning.
        """
        mark_figure(self.figure, mark, is_warning=is_warning)
        data = BytesIO()
        self.figure.savefig(data, format="png", dpi=DOTS_PER_INCH)
        return data.getvalue()


@dataclass(frozen=True)
class Sheet:
    """A sheet of photographs. The terminal does not show it.

    Attributes:
        title: Its heading.
        pixels: BGR pixels, UINT8 [height, width, 3].
        stem: Name of its file, without suffix.
    """

    title: str
    pixels: npt.NDArray[np.uint8]
    stem: str

    @property
    def file_name(self) -> str:
        """Name of the JPEG file."""
        return f"{self.stem}.jpg"

    def encode(self, mark: str, *, is_warning: bool) -> bytes:
        """Return the sheet as a JPEG file.

        Args:
            mark: Text below the sheet, for example whose weights it shows.
            is_warning: Whether the text is a warning.
        """
        import cv2

        marked = mark_pixels(self.pixels, mark, is_warning=is_warning)
        return bytes(cv2.imencode(".jpg", marked)[1].tobytes())


Section = Table | Listing | Paragraph | Plot | Sheet


def _print_titled(console: Console, title: str, text: str) -> None:
    from rich.text import Text

    console.print(Text(title, "bold"))
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print()
