"""Identities among an archive's answers: galleries, duplicates and clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve._results import People, Person
from personserve._results.roles import EMBEDDING_ROLE, kind_of_role
from personserve.bulk.answers import CORNERS, Origin
from personserve.bulk.folder import ArchiveFolder, read_answers
from personserve.gallery import BaseGallery

GALLERY_BATCH = 1024
"""People that are added to a gallery at once."""

MAX_CLUSTER_PEOPLE = 50_000
"""Largest number of people to cluster: the neighbours of all are in memory at once."""

PLACE_COLUMNS = ("source", "frame", "time_s", *CORNERS)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Identities:
    """People of an archive, by identity.

    Attributes:
        table: A pyarrow.Table with a row for each person: `identity` (0 is the
            largest), `count` (people of that identity), `is_representative` (the one
            that is most like the mean), `similarity` to the representative, and `id`,
            source, frame, time and box.
        similarity: The cosine similarity from which on two people were joined.
    """

    table: Any
    similarity: float

    @property
    def representatives(self) -> Any:
        """The row of the representative of each identity, the largest first."""
        import pyarrow.compute as pc

        chosen = self.table.filter(pc.field("is_representative"))
        return chosen.sort_by("identity")


def build_gallery(
    folder: Path | str,
    gallery: BaseGallery,
    *,
    role: str = EMBEDDING_ROLE,
    same_person: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add the people of an archive to a gallery, in batches.

    Args:
        folder: The folder that the archive was answered into.
        gallery: The gallery. People with the same ids are replaced, so that a second
            call adds nothing twice.
        role: The embedding to add.
        same_person: Add one person of each identity only (see find_identities). None
            adds everyone.
        on_progress: Called with the number of people added and of all.

    Returns:
        The number of people added.

    Raises:
        InvalidInputError: The folder has no such embeddings.
        GalleryError: The gallery has people of another model or other weights.
    """
    origin = _origin_with(folder, role)
    table = read_answers(folder, [*PLACE_COLUMNS, role])
    if same_person is not None and len(table):
        kept = find_identities(folder, same_person, role=role).representatives["id"]
        wanted = set(kept.to_pylist())
        mask = [name in wanted for name in table["id"].to_pylist()]
        table = table.filter(mask)
    added = 0
    for batch in table.to_batches(max_chunksize=GALLERY_BATCH):
        ids = batch["id"].to_pylist()
        people = _people_of(batch, role, origin)
        gallery.add(ids, people, list(_payloads_of(batch)), replace=True)
        added += len(ids)
        if on_progress is not None:
            on_progress(added, len(table))
    return added


def find_identities(
    folder: Path | str, same_person: float, *, role: str = EMBEDDING_ROLE
) -> Identities:
    """Group the rows of an archive by person, from their embeddings.

    Two people of at least the similarity are joined, and so are all that are connected
    by such pairs: scikit-learn's DBSCAN (Ester et al., KDD 1996) with `min_samples` 1.

    Args:
        folder: The folder that the archive was answered into.
        same_person: Cosine similarity from which on two people are the same. It depends
            on the network; personserve.gallery.estimate_threshold estimates it.
        role: The embedding to compare.

    Returns:
        The identities; the same for the same answers, in whatever order they came.

    Raises:
        InvalidInputError: The folder has no such embeddings or too many people, the
            similarity is not between -1 and 1, or scikit-learn is missing.
    """
    import pyarrow as pa

    _origin_with(folder, role)
    if not -1 < same_person < 1:
        raise InvalidInputError(
            f"same_person {same_person}: expected a cosine similarity above -1 and "
            "below 1"
        )
    table = read_answers(folder, [*PLACE_COLUMNS, role])
    if len(table) > MAX_CLUSTER_PEOPLE:
        raise InvalidInputError(
            f"{folder}: expected up to {MAX_CLUSTER_PEOPLE:,} people to cluster, got "
            f"{len(table):,}; look at fewer frames (--every)"
        )
    vectors = _vectors_of(table, role)
    labels = _cluster_vectors(vectors, same_person)
    identities, counts, best, similarities = _describe_clusters(vectors, labels)
    columns = {
        "identity": identities,
        "count": counts,
        "is_representative": best,
        "similarity": similarities,
    }
    places = table.drop_columns([role])
    table = pa.table(
        {**columns, **{name: places[name] for name in places.column_names}}
    )
    order = [("identity", "ascending"), ("similarity", "descending")]
    return Identities(table.sort_by(order), same_person)


def _cluster_vectors(vectors: FloatArray, same_person: float) -> npt.NDArray[np.int64]:
    try:
        from sklearn.cluster import DBSCAN
    except ImportError as exc:
        raise InvalidInputError(
            "identities need scikit-learn: pip install scikit-learn (the extra `bulk` "
            "of personserve)"
        ) from exc
    if not len(vectors):
        return np.empty(0, np.int64)
    # of unit vectors, the squared distance is 2 - 2 * cosine
    distance = float(np.sqrt(2 - 2 * same_person))
    clusters = DBSCAN(eps=distance, min_samples=1, algorithm="brute").fit(vectors)
    return np.asarray(clusters.labels_, np.int64)


def _describe_clusters(
    vectors: FloatArray, labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[Any], ...]:
    """Return number, size, representative and similarity to it, for each person."""
    sizes = np.bincount(labels)
    # of equal sizes, the one of the first person comes first
    order = np.argsort(-sizes, kind="stable")
    number_of = np.empty(len(order), np.int64)
    number_of[order] = np.arange(len(order))
    best = np.zeros(len(labels), bool)
    similarities = np.zeros(len(labels), np.float32)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    for rows in members if len(labels) else ():
        mean = vectors[rows].mean(axis=0)
        representative = rows[int(np.argmax(vectors[rows] @ mean))]
        best[representative] = True
        similarities[rows] = vectors[rows] @ vectors[representative]
    return number_of[labels], sizes[labels], best, similarities


def _origin_with(folder: Path | str, role: str) -> Origin:
    origin = ArchiveFolder(Path(folder)).read_origin()
    if role not in origin.widths or kind_of_role(role) != "embedding":
        raise InvalidInputError(
            f"{folder}: expected answers with the embedding {role!r}, got "
            f"{', '.join(origin.widths)} of {origin.model}"
        )
    return origin


def _vectors_of(rows: Any, role: str) -> FloatArray:
    import pyarrow as pa

    column = rows[role]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
    return values.reshape(len(rows), -1)


def _people_of(rows: Any, role: str, origin: Origin) -> People:
    vectors, source = _vectors_of(rows, role), origin.source_of(role)
    stand_ins = origin.stand_in_weights
    persons = [Person(None, v, None, source, stand_ins) for v in vectors]
    return People(tuple(persons), None, vectors, stand_ins, source)


def _payloads_of(rows: Any) -> Iterator[dict[str, Any]]:
    for row in rows.select(list(PLACE_COLUMNS)).to_pylist():
        camera = None if row["frame"] is None else row["source"]
        yield {**row, "camera": camera}
