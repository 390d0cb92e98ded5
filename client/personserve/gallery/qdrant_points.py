"""How people and filters are written as points and conditions of Qdrant."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import numpy as np

from personserve._results import EmbeddingSource, FloatArray
from personserve.gallery.filters import Filter
from personserve.gallery.matches import Entry, GalleryError, Match, PayloadValue
from personserve.gallery.payloads import CAMERA, TIME, TRACK

PAYLOAD_INDEXES = {CAMERA: "keyword", TRACK: "keyword", TIME: "float"}
"""Values that get an index in a new collection, and its type."""

OWN_VECTOR_OPTIONS = frozenset(("size", "distance"))
OWN_COLLECTION_OPTIONS = frozenset(("collection_name", "vectors_config"))


def key_of(name: str) -> str:
    """Return the path of a payload's value inside a point.

    Args:
        name: Name of the value.
    """
    return f"payload.{name}"


def point_id_from_name(name: str) -> str:
    """Return a UUID derived from a name; Qdrant's ids are UUIDs or integers.

    Args:
        name: Id of a person.
    """
    return str(uuid5(NAMESPACE_OID, name))


def points_from_people(
    models: Any,
    names: Sequence[str],
    vectors: FloatArray,
    payloads: Sequence[Mapping[str, PayloadValue]],
    source: EmbeddingSource | None,
) -> Iterator[Any]:
    """Yield the points of people.

    Args:
        models: The module qdrant_client.models.
        names: Ids.
        vectors: Embeddings [N, D].
        payloads: What is stored with each person.
        source: Model and weights of the embeddings.

    Yields:
        PointStruct.
    """
    # Qdrant does not keep the order of adding, which entries() gives back
    added_ns = time.time_ns()
    origin = {} if source is None else {"source": asdict(source)}
    people = zip(names, vectors, payloads, strict=True)
    for index, (name, vector, payload) in enumerate(people):
        values = {"payload": dict(payload)} if payload else {}
        yield models.PointStruct(
            id=point_id_from_name(name),
            vector=vector.tolist(),
            payload={"id": name, "added": added_ns + index, **origin, **values},
        )


def entry_from_point(point: Any) -> Entry:
    """Read a person from a point with its vector.

    Args:
        point: The point.
    """
    vector = np.asarray(point.vector, np.float32)
    return Entry(point.payload["id"], vector, point.payload.get("payload", {}))


def match_from_point(point: Any) -> Match:
    """Read a match from a point with its score.

    Args:
        point: The point.
    """
    source = source_of(point)
    stand_ins = (source.model,) if source is not None and source.untrained else ()
    return Match(
        point.payload["id"],
        float(point.score),
        stand_in_weights=stand_ins,
        payload=point.payload.get("payload", {}),
    )


def source_of(point: Any) -> EmbeddingSource | None:
    """Return model and weights of a point's embedding; None for arrays.

    Args:
        point: The point.
    """
    source = point.payload.get("source")
    return None if source is None else EmbeddingSource(**source)


def condition_from_filter(models: Any, where: Filter | None) -> Any:
    """Convert a filter to Qdrant's.

    Args:
        models: The module qdrant_client.models.
        where: The filter.

    Returns:
        A models.Filter, or None for no conditions.
    """
    if where is None or where == Filter():
        return None
    must = [
        models.FieldCondition(key=key_of(name), match=models.MatchAny(any=list(texts)))
        for name, texts in where.wanted.items()
    ]
    since_s, until_s = where.interval_s
    if since_s is not None or until_s is not None:
        interval = models.Range(gte=since_s, lt=until_s)
        must.append(models.FieldCondition(key=key_of(TIME), range=interval))
    must += [
        models.FieldCondition(key=key_of(name), match=models.MatchValue(value=value))
        for name, value in where.equals.items()
    ]
    cameras = list(where.unwanted_cameras)
    unwanted = [
        models.FieldCondition(key=key_of(CAMERA), match=models.MatchAny(any=cameras))
    ]
    return models.Filter(must=must, must_not=unwanted if cameras else None)


def check_options(
    name: str, options: Mapping[str, Any] | None, function: Any, own: frozenset[str]
) -> dict[str, Any]:
    """Refuse options that Qdrant's client does not know, or that a gallery decides.

    Args:
        name: What the argument is called.
        options: Values by option.
        function: What they are passed to.
        own: Parameters of it that the gallery gives itself.

    Returns:
        The options.

    Raises:
        GalleryError: An unknown option, or one of `own`.
    """
    accepted = set(inspect.signature(function).parameters) - own - {"self", "kwargs"}
    for option in options or {}:
        if option not in accepted:
            raise GalleryError(
                f"{name}: {option!r} is not an option; expected some of "
                f"{', '.join(sorted(accepted))}"
            )
    return dict(options or {})
