"""Tables of boxes: which people are in which image, or in which frame of a video.

A table is Parquet (`.parquet`) or JSON lines (`.jsonl`) with a row for each person:
`source`, `x0`, `y0`, `x1`, `y1` in pixels, and `frame` for a video. These are columns
of `personserve attributes --table` and of the answers of an archive, too. A relative
source is relative to the table's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import fsspec

from personserve._errors import InvalidInputError
from personserve.bulk.items import BoxRow, Item
from personserve.images.videos import VIDEO_SUFFIXES

TABLE_SUFFIXES = frozenset((".jsonl", ".parquet"))
CORNERS = ("x0", "y0", "x1", "y1")
MAX_LINE_BYTES = 1 << 16
"""Longest line of a JSON lines file; a row has about 100 bytes."""


def read_box_items(table: str, every: int, span_frames: int) -> list[Item]:
    """Read the items of a table of boxes.

    Args:
        table: Path or URL of the table.
        every: Distance of the frames of a video that are looked at; boxes of other
            frames are left out.
        span_frames: Frames of a video in one item, as for a detector.

    Returns:
        An item for each image, and for each span of a video that has boxes, in the
        order of the table.

    Raises:
        InvalidInputError: The table cannot be read, or a row is not as expected.
    """
    boxes: dict[tuple[str, int], list[BoxRow]] = {}
    rows = _parquet_rows(table) if table.endswith(".parquet") else _json_rows(table)
    for number, row in enumerate(rows, start=1):
        source, box = _read_row(row, f"{table}: row {number}")
        name = _resolve(source, table)
        is_video = PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES
        if is_video and box[0] % every:
            continue
        span = int(box[0]) // (span_frames * every) if is_video else -1
        boxes.setdefault((name, span), []).append(box)
    return [
        _build_item(*key, tuple(rows), every, span_frames)
        for key, rows in boxes.items()
    ]


def _build_item(
    source: str, span: int, boxes: tuple[BoxRow, ...], every: int, span_frames: int
) -> Item:
    if span < 0:
        return Item(source, "frame", boxes=boxes)
    start = span * span_frames * every
    ordered = tuple(sorted(boxes))
    # the span ends at its last box, so that a short video is no error
    return Item(source, "video", start, int(ordered[-1][0]) + 1, every, ordered)


def _read_row(row: Any, where: str) -> tuple[str, BoxRow]:
    expected = "expected source, x0, y0, x1, y1, and frame for a video"
    if not isinstance(row, Mapping) or not isinstance(row.get("source"), str):
        raise InvalidInputError(f"{where}: {expected}")
    frame = row.get("frame")
    try:
        number = 0 if frame is None else int(frame)
        x0, y0, x1, y1 = (float(row[name]) for name in CORNERS)
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidInputError(f"{where}: {expected}: {exc!r}") from exc
    if number < 0 or not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise InvalidInputError(f"{where}: {expected}, as finite numbers")
    return str(row["source"]), (number, x0, y0, x1, y1)


def _resolve(source: str, table: str) -> str:
    if "://" in source or source.startswith("/"):
        return source
    return f"{table.rpartition('/')[0]}/{source}"


def _json_rows(table: str) -> Iterator[Any]:
    try:
        with fsspec.open(table, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise InvalidInputError(
                        f"{table}: expected lines of up to {MAX_LINE_BYTES:,} bytes"
                    )
                if line.strip():
                    yield json.loads(line)
    except (OSError, ValueError) as exc:
        raise InvalidInputError(f"{table}: expected JSON lines: {exc}") from exc


def _parquet_rows(table: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with fsspec.open(table, "rb") as file:
            parquet = pq.ParquetFile(file)
            wanted = {"source", "frame", *CORNERS}
            columns = [n for n in parquet.schema_arrow.names if n in wanted]
            for batch in parquet.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as exc:
        raise InvalidInputError(f"{table}: expected a Parquet table: {exc}") from exc
