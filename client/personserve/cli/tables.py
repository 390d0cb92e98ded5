"""Tables of people as files: CSV, or Parquet where PyArrow is installed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from personserve._errors import InvalidInputError
from personserve._results import People
from personserve._results.records import RECORD_COLUMNS, columns_of_people
from personserve._results.roles import EMBEDDING_ROLE
from personserve.cli.frames import Frame
from personserve.internal.files import atomic_write
from personserve.tracks import Track

if TYPE_CHECKING:
    from typing_extensions import Self

FRAME_COLUMNS = ("source", "frame", "time_s")
"""Columns before those of People.to_records: the file, address or camera; the number
of the frame, and its time in seconds, both empty for an image."""

TRACK_COLUMNS = {
    "source": "object",
    "track": "int64",
    "tracker_id": "object",
    "gender": "object",
    **dict.fromkeys(("gender_probability", "female_probability"), "float64"),
    "abstained": "bool",
    **dict.fromkeys(("gender_count", "embedding_count", "frame_count"), "int64"),
    **dict.fromkeys(("first_s", "last_s", "answered_s"), "float64"),
    "spans": "object",
    "rejoined_count": "int64",
    "stand_in_weights": "object",
}
"""Columns of a table of tracks: those of Track, and of its gender. Spans are JSON."""

ROWS_PER_GROUP = 1000
"""Rows that a Parquet file collects before it writes them."""

PARQUET_TYPES = {
    "source": "string",
    "frame": "int64",
    "person": "int64",
    "gender": "string",
    "abstained": "bool",
    "stand_in_weights": "string",
    "tracker_id": "string",
    "spans": "string",
    **dict.fromkeys(("track", "rejoined_count"), "int64"),
    **dict.fromkeys(("gender_count", "embedding_count", "frame_count"), "int64"),
}
"""Arrow's types of columns; the others are numbers of 64 bits, or lists of numbers."""


class TableWriter(Protocol):
    """Writes rows to an open file."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows, each with a value for every column."""

    def close(self) -> None:
        """Complete the file."""


class RowFile:
    """A file of rows, which is in place when complete.

    The rows before an error of the block are kept.

    Args:
        path: File to write, .csv or .parquet. With None, rows are discarded.
        columns: Columns of a file without rows, with their pandas types.

    Raises:
        InvalidInputError: Another suffix, or PyArrow is missing for .parquet.
    """

    def __init__(self, path: Path | None, columns: Mapping[str, str]) -> None:
        self._path = path
        self._columns = columns
        self._stack = ExitStack()
        self._writer: TableWriter | None = None
        self._is_complete = False
        if path is None:
            return
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            _require_pyarrow(path)
        elif suffix != ".csv":
            raise InvalidInputError(f"{path}: expected a table as .csv or .parquet")
        self._kind = _ParquetWriter if suffix == ".parquet" else _CsvWriter
        self._partial = self._stack.enter_context(atomic_write(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._path is not None:
            self._open().close()
        if self._is_complete:
            self._stack.close()
        else:
            self._stack.__exit__(kind, error, trace)

    @property
    def path(self) -> Path | None:
        """The file, or None."""
        return self._path

    def keep(self) -> None:
        """Keep the file even if the block fails: something was analysed."""
        self._is_complete = True

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows. The first ones determine the columns that follow.

        Args:
            rows: Rows, each with a value for every column.
        """
        if self._path is not None:
            self.keep()
            self._open().write(rows)

    def _open(self) -> TableWriter:
        if self._writer is None:
            self._writer = self._kind(self._partial, self._columns)
        return self._writer


class TableFile(RowFile):
    """A file with one row for each detection, which is in place when complete.

    The first people determine the columns, which depend on what their model answers.

    Args:
        path: See RowFile.
        embeddings: Whether there are columns of embeddings and other vectors. In a CSV
            file they hold JSON lists.

    Raises:
        InvalidInputError: See RowFile.
    """

    def __init__(self, path: Path | None, *, embeddings: bool = False) -> None:
        self._embeddings = embeddings
        vectors = {EMBEDDING_ROLE: "object"} if embeddings else {}
        super().__init__(path, _with_frame(RECORD_COLUMNS | vectors))

    def write(self, frame: Frame, source: str, people: People) -> None:
        """Append the people of a frame.

        Args:
            frame: The frame.
            source: The file, address or camera that it comes from.
            people: Its people.

        Raises:
            InvalidInputError: If their model answers something else than that of the
                people before.
        """
        if self._path is None:
            return
        self.keep()
        if not people and not people.roles:
            return  # no people, of a server that does not say what it answers
        columns = _with_frame(columns_of_people(people, embeddings=self._embeddings))
        if self._writer is None:
            self._columns = columns
        if columns != self._columns:
            raise InvalidInputError(
                f"{self._path}: expected people with the columns "
                f"{', '.join(self._columns)}, got {', '.join(columns)}; was the model "
                "replaced by another?"
            )
        values = (source, frame.index, frame.time_s)
        about_frame = dict(zip(FRAME_COLUMNS, values, strict=True))
        records = people.to_records(embeddings=self._embeddings)
        self.append([{**about_frame, **record} for record in records])


class TrackFile(RowFile):
    """A file with one row for each track, which is in place when complete.

    Args:
        path: See RowFile.
        embeddings: Whether there is a column of embeddings.

    Raises:
        InvalidInputError: See RowFile.
    """

    def __init__(self, path: Path | None, *, embeddings: bool = False) -> None:
        self._embeddings = embeddings
        vectors = {EMBEDDING_ROLE: "object"} if embeddings else {}
        super().__init__(path, TRACK_COLUMNS | vectors)

    def write(self, source: str, track: Track) -> None:
        """Append a track.

        Args:
            source: The file, address or camera that it comes from.
            track: The track.
        """
        values = {"source": source, **track.to_dict(embedding=self._embeddings)}
        if track.gender is not None:
            values |= {
                "gender": track.gender.label,
                "gender_probability": track.gender.probability,
                "female_probability": track.gender.female_probability,
                "abstained": track.gender.abstained,
            }
        values |= {
            "tracker_id": None if track.tracker_id is None else str(track.tracker_id),
            "spans": json.dumps(track.spans),
            "stand_in_weights": ",".join(values["stand_in_weights"]),
        }
        self.append([{name: values.get(name) for name in self._columns}])


def _with_frame(columns: Mapping[str, str]) -> dict[str, str]:
    return dict.fromkeys(FRAME_COLUMNS, "float64") | dict(columns)


class _CsvWriter:
    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._rows = csv.DictWriter(self._file, list(columns), lineterminator="\n")
        self._rows.writeheader()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            texts = {
                name: json.dumps(value) if isinstance(value, list) else value
                for name, value in row.items()
            }
            self._rows.writerow(texts)

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        import pyarrow as pa  # type: ignore[import-not-found, unused-ignore]
        import pyarrow.parquet as pq  # type: ignore[import-not-found, unused-ignore]

        types = {
            "string": pa.string(),
            "int64": pa.int64(),
            "bool": pa.bool_(),
            "float64": pa.float64(),
            "list<float>": pa.list_(pa.float32()),
        }
        self._table = pa.Table
        self._schema = pa.schema(
            [
                (name, types[_arrow_type(name, pandas_type)])
                for name, pandas_type in columns.items()
            ]
        )
        self._file = pq.ParquetWriter(path, self._schema)
        self._rows: list[Mapping[str, Any]] = []

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows.extend(rows)
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            table = self._table.from_pylist(self._rows, self._schema)
            self._file.write_table(table)
            self._rows = []


def _arrow_type(name: str, pandas_type: str) -> str:
    vector = "list<float>" if pandas_type == "object" else "float64"
    return PARQUET_TYPES.get(name, vector)


def _require_pyarrow(path: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401 - whether it is there
    except ImportError as exc:
        raise InvalidInputError(
            f"{path}: Parquet needs PyArrow (pip install pyarrow); write .csv, or "
            f"install it: {exc}"
        ) from exc
