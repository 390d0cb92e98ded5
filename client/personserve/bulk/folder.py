"""The folder that an archive is answered into.

    run.json              the model and the settings; another run of them resumes
    answers/<key>.parquet       the people of one batch
    dead_letters/<key>.jsonl    what could not be read in it, and why

A batch is complete when its file of answers is in place: it appears at once, after its
dead letters. Its metadata name the items that it completes. So a run that is killed
leaves nothing half-written, and a resumed one repeats no item. To try a dead letter
again, remove both files of its key.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from personserve._errors import InvalidInputError
from personserve.bulk.answers import METADATA_KEY, Origin, schema_of
from personserve.bulk.items import Batch
from personserve.internal.files import atomic_write, write_text

ANSWERS, DEAD_LETTERS, RUN_FILE = "answers", "dead_letters", "run.json"


@dataclass(frozen=True)
class DeadLetter:
    """Something that has no answer.

    Attributes:
        source: Path or URL of the image or video.
        frame: Index of the frame, or first frame of the span; None for an image.
        reason: Why; it begins with the name of the file where that is at fault.
    """

    source: str
    frame: int | None
    reason: str


class ArchiveFolder:
    """The folder of an archive's answers.

    Args:
        root: The folder, on storage that every worker sees.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @contextmanager
    def claim(self, origin: Origin, settings: dict[str, Any]) -> Iterator[None]:
        """Keep the folder for one run; create it, or check that the run resumes it.

        Args:
            origin: The model that answers.
            settings: Whatever else determines the items, for example `every`.

        Raises:
            InvalidInputError: The folder has answers of another model, other weights
                or other settings, or another run writes to it.
        """
        (self.root / ANSWERS).mkdir(parents=True, exist_ok=True)
        (self.root / DEAD_LETTERS).mkdir(exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise InvalidInputError(
                    f"{self.root}: another run writes to this folder"
                ) from exc
            self._check_run(origin, settings)
            yield

    def _check_run(self, origin: Origin, settings: dict[str, Any]) -> None:
        path = self.root / RUN_FILE
        if not path.exists():
            run = {"origin": asdict(origin), "settings": settings}
            write_text(path, json.dumps(run, indent=2) + "\n")
            return
        before = self.read_origin()
        if not before.is_same(origin):
            raise InvalidInputError(
                f"{self.root}: has answers of {before.model} ({before.weights}), and "
                f"{origin.model} ({origin.weights}) answers now; name a new folder"
            )
        settings_before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        if settings_before != settings:
            raise InvalidInputError(
                f"{self.root}: was begun with {json.dumps(settings_before)}, got "
                f"{json.dumps(settings)}; give the same options, or name a new folder"
            )

    def read_origin(self) -> Origin:
        """Return the model whose answers the folder has.

        Raises:
            InvalidInputError: The folder has no answers of personserve.
        """
        path = self.root / RUN_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Origin.from_dict(values["origin"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise InvalidInputError(
                f"{self.root}: expected a folder that `personserve bulk` wrote: {exc}"
            ) from exc

    def has(self, batch: Batch) -> bool:
        """Return whether a batch is complete.

        Args:
            batch: The batch.
        """
        return self._answers_path(batch).exists()

    def completed_items(self) -> set[str]:
        """Return the keys of the items that are complete."""
        import pyarrow.parquet as pq

        keys: set[str] = set()
        for path in self.answer_files():
            metadata = pq.read_schema(path).metadata or {}
            keys.update(json.loads(metadata[METADATA_KEY])["items"])
        return keys

    def answer_files(self) -> list[Path]:
        """Return the files of answers, sorted."""
        return sorted((self.root / ANSWERS).glob("[0-9a-f]*.parquet"))

    def write(self, batch: Batch, table: Any, letters: Sequence[DeadLetter]) -> None:
        """Write a batch, atomically; writing it again replaces it by the same.

        Args:
            batch: The batch.
            table: Its answers, a pyarrow.Table.
            letters: Its dead letters.
        """
        import pyarrow.parquet as pq

        if letters:
            lines = [json.dumps(asdict(letter)) + "\n" for letter in letters]
            write_text(self.root / DEAD_LETTERS / f"{batch.key}.jsonl", "".join(lines))
        with atomic_write(self._answers_path(batch)) as partial:
            pq.write_table(table, partial, compression="zstd")

    def _answers_path(self, batch: Batch) -> Path:
        return self.root / ANSWERS / f"{batch.key}.parquet"


def read_answers(folder: Path | str, columns: Sequence[str] | None = None) -> Any:
    """Read all answers of an archive, ordered by id.

    Args:
        folder: The folder that the archive was answered into.
        columns: Columns to read; None for all.

    Returns:
        A pyarrow.Table. Each id is there once.

    Raises:
        InvalidInputError: The folder has no answers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    archive = ArchiveFolder(Path(folder))
    schema = schema_of(archive.read_origin())
    names = list(schema.names if columns is None else dict.fromkeys(["id", *columns]))
    schema = pa.schema([schema.field(name) for name in names])
    tables = [
        pq.read_table(path, columns=names, partitioning=None).replace_schema_metadata()
        for path in archive.answer_files()
    ]
    table = pa.concat_tables([schema.empty_table(), *tables]).sort_by("id")
    ids = table["id"].to_pylist()
    first = [i for i, name in enumerate(ids) if not i or name != ids[i - 1]]
    return table if len(first) == len(ids) else table.take(first)


def read_dead_letters(folder: Path | str) -> list[DeadLetter]:
    """Read what has no answer, and why.

    Args:
        folder: The folder that the archive was answered into.

    Returns:
        The dead letters, by source and frame.
    """
    letters = [
        DeadLetter(**json.loads(line))
        for path in (Path(folder) / DEAD_LETTERS).glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return sorted(letters, key=lambda each: (each.source, each.frame or 0))
