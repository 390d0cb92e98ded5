"""The table of answers: its columns, and the ids of its rows.

A table has a row for each person, and a column for each output of the model, named by
its role. So the columns depend on the model only, and all files of an archive have the
same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from personserve import __version__
from personserve._client import Client
from personserve._errors import PersonServeError
from personserve._results import EmbeddingSource, People
from personserve.bulk.items import hash_values

CORNERS = ("x0", "y0", "x1", "y1")

METADATA_KEY = b"personserve"
"""Key of the metadata of Parquet files that has the Origin and the items' keys."""

Box = tuple[float, float, float, float]


class ChangedWeightsError(PersonServeError):
    """The server's model or weights are not those that the run began with."""


@dataclass(frozen=True)
class RowPlace:
    """Where a person was seen.

    Attributes:
        source: Path or URL of the image or video.
        frame: Index of the frame; None for an image.
        time_s: Time in the video in seconds; None for an image, or if unknown.
        box: Corners in pixels; None for a crop.
    """

    source: str
    frame: int | None
    time_s: float | None
    box: Box | None


@dataclass(frozen=True)
class Origin:
    """The model that answers, as its description states it.

    Attributes:
        model: Name of the model that was asked.
        widths: Number of values of each output, by role.
        networks: Network of each output and the origin of its weights (a file and its
            digest), by role.
        stand_in_weights: Networks that run on untrained stand-in weights.
        version: Version of personserve.
    """

    model: str
    widths: dict[str, int]
    networks: dict[str, tuple[str, str]]
    stand_in_weights: tuple[str, ...]
    version: str = __version__

    @classmethod
    def ask(cls, client: Client, model: str) -> Origin:
        """Ask a server, or a built repository, what answers.

        Args:
            client: The client.
            model: Name of a model that takes frames, or crops.

        Returns:
            The origin of the answers.

        Raises:
            PersonServeError: The model is not served.
        """
        people = client.attributes_of_crops([], model=model)
        if not people.roles:
            client.describe(model)  # raises the reason
            raise PersonServeError(f"{model}: expected a model for people")
        return cls.of_people(people, model)

    @classmethod
    def of_people(cls, people: People, model: str) -> Origin:
        """Return the origin of answers.

        Args:
            people: People, or no people, of the model.
            model: Name of the model that was asked.
        """
        sources = {name: role.source for name, role in people.roles.items()}
        return cls(
            model,
            {name: rows.shape[1] for name, rows in people.outputs.items()},
            {
                name: (source.model, source.weights)
                for name, source in sources.items()
                if source is not None
            },
            people.stand_in_weights,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Origin:
        """Read what `asdict` and JSON have made of an origin.

        Args:
            values: The fields.
        """
        networks = {role: (m, w) for role, (m, w) in values["networks"].items()}
        return cls(
            values["model"],
            dict(values["widths"]),
            networks,
            tuple(values["stand_in_weights"]),
            values["version"],
        )

    @property
    def weights(self) -> str:
        """The networks and the origin of their weights, as one text."""
        return "; ".join(
            f"{role}: {model} ({weights})"
            for role, (model, weights) in self.networks.items()
        )

    def source_of(self, role: str) -> EmbeddingSource | None:
        """Return model and weights of an embedding, as galleries take them.

        Args:
            role: The output.
        """
        if role not in self.networks:
            return None
        model, weights = self.networks[role]
        return EmbeddingSource(model, weights, model in self.stand_in_weights)

    def is_same(self, other: Origin) -> bool:
        """Return whether answers of two origins belong into one table.

        Args:
            other: Another origin. Its version of personserve may differ.
        """
        return (self.model, self.widths, self.networks) == (
            other.model,
            other.widths,
            other.networks,
        )


def schema_of(origin: Origin) -> Any:
    """Return the columns of answers.

    Args:
        origin: The model that answers.

    Returns:
        A pyarrow.Schema. An output of one value is a FLOAT column, a vector is a list
        of fixed size.
    """
    import pyarrow as pa

    fields = {
        "id": pa.string(),
        "source": pa.string(),
        "frame": pa.int64(),
        "time_s": pa.float64(),
        **dict.fromkeys(CORNERS, pa.float32()),
        "gender": pa.string(),
        **{
            role: pa.float32() if width == 1 else pa.list_(pa.float32(), width)
            for role, width in origin.widths.items()
        },
        **dict.fromkeys(("model", "weights", "stand_in_weights"), pa.string()),
        "version": pa.string(),
    }
    return pa.schema(list(fields.items()))


def build_table(
    places: Sequence[RowPlace],
    people: People | None,
    origin: Origin,
    item_keys: Sequence[str],
) -> Any:
    """Build the table of a batch; a box that is given twice is one row.

    Args:
        places: Where each person was seen.
        people: The answers, in the same order; None for no people.
        origin: The model that answered.
        item_keys: Keys of the items that the table completes, for its metadata.

    Returns:
        A pyarrow.Table.

    Raises:
        ChangedWeightsError: The answers are of another model or other weights.
    """
    import pyarrow as pa

    ids = [_id_of(place, origin) for place in places]
    first: dict[str, int] = {}
    for index, name in enumerate(ids):
        first.setdefault(name, index)
    rows = list(first.values())
    about = {**asdict(origin), "items": list(item_keys)}
    schema = schema_of(origin).with_metadata({METADATA_KEY: json.dumps(about)})
    if people is None or not rows:
        return schema.empty_table()
    if not Origin.of_people(people, origin.model).is_same(origin):
        raise ChangedWeightsError(
            f"{origin.model}: the model or its weights were replaced during the run; "
            f"it began with {origin.weights}; answer into a new folder"
        )
    chosen = [places[row] for row in rows]
    corners = zip(*(place.box or (None,) * 4 for place in chosen), strict=True)
    values: dict[str, Any] = {
        "id": [ids[row] for row in rows],
        "source": [place.source for place in chosen],
        "frame": [place.frame for place in chosen],
        "time_s": [place.time_s for place in chosen],
        **dict(zip(CORNERS, corners, strict=True)),
        "gender": [_label_of(people, row) for row in rows],
        **{
            role: _column_of(np.asarray(people.outputs[role], np.float32)[rows])
            for role in origin.widths
        },
        "model": [origin.model] * len(rows),
        "weights": [origin.weights] * len(rows),
        "stand_in_weights": [",".join(origin.stand_in_weights)] * len(rows),
        "version": [origin.version] * len(rows),
    }
    return pa.table(values, schema=schema)


def _id_of(place: RowPlace, origin: Origin) -> str:
    """Return the hash of source, time, box, model and weights."""
    when = [place.frame, place.time_s]
    return hash_values([place.source, when, place.box, origin.model, origin.weights])


def _label_of(people: People, row: int) -> str | None:
    gender = people[row].gender
    return None if gender is None else gender.label


def _column_of(rows: Any) -> Any:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(rows).reshape(-1), pa.float32())
    if rows.shape[1] == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
