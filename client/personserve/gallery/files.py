"""The file that galleries are saved to: a NumPy archive without pickles."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._results import EmbeddingSource
from personserve.gallery.matches import GalleryError, PayloadValue
from personserve.gallery.thresholds import Threshold
from personserve.internal.files import atomic_write

FILE_FORMAT = "personserve gallery 2"

FORMER_FORMAT = "personserve gallery 1"
"""The same without payloads; files of it are read, not written."""

FORMAT_PREFIX = "personserve gallery "


@dataclass(frozen=True)
class GalleryFile:
    """The contents of a gallery's file.

    Attributes:
        ids: Id of each person.
        embeddings: Numbers [N, D].
        payloads: What is stored with each person.
        source: Model and weights of the embeddings; None if unknown.
        threshold: The gallery's threshold, if it has one.
    """

    ids: list[str]
    embeddings: npt.NDArray[Any]
    payloads: Sequence[Mapping[str, PayloadValue]]
    source: EmbeddingSource | None = None
    threshold: Threshold | None = None

    def write(self, path: Path) -> None:
        """Write the file, atomically.

        Args:
            path: The file; its folder is created.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "format": np.array(FILE_FORMAT),
            "ids": np.array(self.ids, np.str_),
            "embeddings": np.asarray(self.embeddings, np.float32),
            "payloads": np.array(json.dumps([dict(each) for each in self.payloads])),
        }
        if self.source is not None:
            arrays["source"] = np.array(json.dumps(asdict(self.source)))
        if self.threshold is not None:
            arrays["threshold"] = np.array(json.dumps(self.threshold.to_dict()))
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def read(cls, path: Path | str) -> GalleryFile:
        """Read a file. Pickles are not loaded.

        Args:
            path: The file.

        Returns:
            Its contents.

        Raises:
            GalleryError: The file is not a gallery.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                _check_format(path, str(data["format"]))
                source = _read_json(data, "source")
                threshold = _read_json(data, "threshold")
                ids = data["ids"].tolist()
                return cls(
                    ids,
                    data["embeddings"],
                    _read_json(data, "payloads") or [{} for _ in ids],
                    None if source is None else EmbeddingSource(**source),
                    None if threshold is None else Threshold.from_dict(threshold),
                )
        except (
            *(AttributeError, KeyError, OSError, TypeError, ValueError),
            *(MemoryError, RecursionError),  # a shape or JSON text that lies
            zipfile.BadZipFile,
        ) as exc:
            if isinstance(exc, GalleryError):
                raise
            raise GalleryError(f"{path}: not a saved gallery ({exc})") from exc


def _check_format(path: Path | str, name: str) -> None:
    if name in {FILE_FORMAT, FORMER_FORMAT}:
        return
    if name.startswith(FORMAT_PREFIX):
        raise GalleryError(
            f"{path}: written by a later version of personserve ({name!r}; this one "
            f"reads up to {FILE_FORMAT!r}); update personserve"
        )
    raise GalleryError(
        f"{path}: not a gallery of this version; expected a file that `save` wrote"
    )


def _read_json(data: Any, name: str) -> Any:
    """Return an entry of a file, or None for a file without it."""
    return json.loads(str(data[name])) if name in data else None
