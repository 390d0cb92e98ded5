"""Payloads, filters and expiry, by one contract for every back end of a gallery.

A plain Python model says what each call has to answer; random calls are compared with
it for each back end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from personserve import EmbeddingSource, Gender, People, Person
from personserve.gallery import (
    BaseGallery,
    Filter,
    Gallery,
    GalleryError,
    MemoryGallery,
    QdrantGallery,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

DIMENSION = 16
BACK_ENDS = (MemoryGallery, Gallery, QdrantGallery)
CAMERAS = ("entrance", "yard", "roof", None)


@pytest.fixture(params=BACK_ENDS)
def gallery(request: pytest.FixtureRequest) -> BaseGallery:
    return request.param()


def _vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Model:
    """A gallery of dicts and loops, which the back ends are compared with."""

    def __init__(self) -> None:
        self.people: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}

    def add(self, name: str, vector: np.ndarray, payload: dict[str, Any]) -> None:
        self.people.pop(name, None)
        values = {key: value for key, value in payload.items() if value is not None}
        if "track" in values:
            values["track"] = str(values["track"])
        self.people[name] = (vector, values)

    def search(
        self, query: np.ndarray, count: int, meets: Callable[[dict[str, Any]], bool]
    ) -> list[tuple[str, float, dict[str, Any]]]:
        rows = [
            (name, float(vector @ query), payload)
            for name, (vector, payload) in self.people.items()
            if meets(payload)
        ]
        return sorted(rows, key=lambda row: -row[1])[:count]


CONDITIONS: dict[str, tuple[Filter, Callable[[dict[str, Any]], bool]]] = {
    "none": (Filter(), lambda _: True),
    "camera": (Filter(cameras="yard"), lambda p: p.get("camera") == "yard"),
    "cameras": (
        Filter(cameras=["yard", "roof", "elsewhere"]),
        lambda p: p.get("camera") in {"yard", "roof"},
    ),
    "unknown camera": (Filter(cameras=["elsewhere"]), lambda _: False),
    "other cameras": (
        Filter(other_than_cameras="yard"),
        lambda p: p.get("camera") != "yard",
    ),
    "since": (Filter(since=50), lambda p: p.get("time_s", -1) >= 50),
    "until": (Filter(until=50), lambda p: p.get("time_s", 99) < 50),
    "interval": (Filter(since=20, until=70), lambda p: 20 <= p.get("time_s", 0) < 70),
    "track": (Filter(tracks=[3, "4"]), lambda p: p.get("track") in {"3", "4"}),
    "text": (Filter(equals={"coat": "red"}), lambda p: p.get("coat") == "red"),
    "number": (Filter(equals={"floor": 2}), lambda p: p.get("floor") == 2),
    "boolean": (Filter(equals={"staff": True}), lambda p: p.get("staff") is True),
    "all": (
        Filter("yard", since=10, until=90, equals={"floor": 1, "coat": "blue"}),
        lambda p: (
            p.get("camera") == "yard"
            and 10 <= p.get("time_s", 0) < 90
            and (p.get("floor"), p.get("coat")) == (1, "blue")
        ),
    ),
}


def _random_payload(dice: random.Random) -> dict[str, Any]:
    return {
        "camera": dice.choice(CAMERAS),
        "track": dice.choice((None, 3, 4, 5)),
        "time_s": dice.choice((None, dice.randrange(100))),
        "coat": dice.choice(("red", "blue")),
        "floor": dice.randrange(3),
        "staff": dice.choice((True, False)),
        "score": dice.random(),
    }


def _compare(gallery: BaseGallery, model: Model, seed: int) -> None:
    """Search with all conditions in one call, and compare every match."""
    queries = _vectors(len(CONDITIONS), seed)
    wheres = [where for where, _ in CONDITIONS.values()]
    batch = gallery.search_all(queries, 7, where=wheres)
    for query, matches, (where, meets) in zip(
        queries, batch, CONDITIONS.values(), strict=True
    ):
        expected = model.search(query, 7, meets)
        assert [(m.id, m.payload) for m in matches] == [(n, p) for n, _, p in expected]
        np.testing.assert_allclose(
            [m.similarity for m in matches], [s for _, s, _ in expected], atol=1e-5
        )
        alone = gallery.search(query, 7, where=where)
        assert [match.id for match in alone] == [match.id for match in matches]


@pytest.mark.parametrize("seed", range(2))
def test_random_calls_answer_as_a_plain_model_does(
    gallery: BaseGallery, seed: int, tmp_path: Path
) -> None:
    dice = random.Random(seed)  # noqa: S311 - test data
    model = Model()
    for step in range(12):
        names = [f"person {dice.randrange(60)}" for _ in range(12)]
        names = list(dict.fromkeys(names))
        vectors = _vectors(len(names), 100 * seed + step)
        payloads = [_random_payload(dice) for _ in names]
        gallery.add(names, vectors, payloads, replace=True)
        for name, vector, payload in zip(names, vectors, payloads, strict=True):
            model.add(name, vector, payload)
        if step % 3 == 1:
            gone = dice.sample(list(model.people), 4)
            gallery.remove(gone)
            for name in gone:
                del model.people[name]
        if step % 4 == 3:
            where, meets = dice.choice(list(CONDITIONS.values()))
            old = [
                name
                for name, (_, payload) in model.people.items()
                if meets(payload) and payload.get("time_s", 99) < 40
            ]
            assert gallery.expire(40, where=where) == len(old)
            for name in old:
                del model.people[name]
        assert list(gallery) == list(model.people)
        assert len(gallery) == len(model.people)
    _compare(gallery, model, 7 + seed)
    gallery.save(tmp_path / "people.npz")
    for back_end in BACK_ENDS:
        _compare(back_end().add_from(tmp_path / "people.npz"), model, 9 + seed)


NOON = datetime(2026, 5, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))


def test_times_may_have_a_time_zone(gallery: BaseGallery) -> None:
    gallery.add("a", _vectors(1), {"camera": "yard", "time_s": NOON})
    gallery.add("b", _vectors(1), {"time_s": NOON.timestamp() + 60})
    (match,) = gallery.search(_vectors(1)[0], where=Filter(until=NOON.timestamp() + 1))
    assert match.id == "a"
    assert match.payload == {"camera": "yard", "time_s": NOON.timestamp()}
    assert f"no threshold, camera yard, time_s {NOON.timestamp()}" in repr(match)
    later = Filter(since=NOON.astimezone(timezone.utc) + timedelta(seconds=1))
    assert [m.id for m in gallery.search(_vectors(1)[0], where=later)] == ["b"]
    assert gallery.expire(NOON) == 0, "people of exactly this time stay"
    assert gallery.expire(NOON + timedelta(seconds=1)) == 1
    assert list(gallery) == ["b"]


def test_nobody_expires_from_an_empty_gallery(gallery: BaseGallery) -> None:
    assert gallery.expire(1e9) == 0
    assert gallery.search(_vectors(1)[0], where=Filter(cameras="yard")) == []


WRONG: dict[str, tuple[Callable[[BaseGallery], object], str]] = {
    "list": (lambda g: g.add("b", _vectors(1), {"x": [1]}), "payload 'x': expected"),
    "nan": (lambda g: g.add("b", _vectors(1), {"x": float("nan")}), "finite number"),
    "large": (lambda g: g.add("b", _vectors(1), {"x": 2**63}), "64 bits"),
    "name": (lambda g: g.add("b", _vectors(1), {"x.y": 1}), "got 'x.y'"),
    "camera": (lambda g: g.add("b", _vectors(1), {"camera": 0.5}), "camera: expected"),
    "time": (lambda g: g.add("b", _vectors(1), {"time_s": "noon"}), "time_s: expected"),
    "zone": (
        lambda g: g.add("b", _vectors(1), {"time_s": datetime(2026, 5, 1)}),  # noqa: DTZ001
        "no time zone",
    ),
    "count": (lambda g: g.add("b", _vectors(1), [{}, {}]), "2 payloads for 1 people"),
    "text": (lambda g: g.add("b", _vectors(1), "yard"), "expected a mapping"),
    "filters": (
        lambda g: g.search_all(_vectors(2), where=[Filter()]),
        "1 filters for 2 embeddings",
    ),
    "no cameras": (lambda _: Filter(cameras=[]), "cameras: expected at least one"),
    "equals": (lambda _: Filter(equals={"score": 0.5}), "expected text, a whole"),
    "equal time": (lambda _: Filter(equals={"time_s": 5}), "`since` and `until`"),
    "since": (lambda _: Filter(since="today"), "since: expected seconds"),
    "expire": (lambda g: g.expire("today"), "before: expected seconds"),
}


@pytest.mark.parametrize(("do", "message"), WRONG.values(), ids=WRONG)
def test_what_is_refused_changes_nothing(
    gallery: BaseGallery, do: Callable[[BaseGallery], object], message: str
) -> None:
    gallery.add("a", _vectors(1), {"floor": 1})
    with pytest.raises(GalleryError, match=message):
        do(gallery)
    assert [(e.id, e.payload) for e in gallery.entries()] == [("a", {"floor": 1})]


def test_numpy_values_are_taken_and_none_is_left_out(gallery: BaseGallery) -> None:
    values = {"camera": np.int64(3), "floor": np.int32(2), "coat": None}
    gallery.add("a", _vectors(1), {**values, "time_s": np.float32(0.5)})
    (entry,) = gallery.entries()
    assert entry.payload == {"camera": "3", "floor": 2, "time_s": 0.5}
    assert (
        len(gallery.search(_vectors(1)[0], where=Filter(3, equals={"floor": 2}))) == 1
    )


def _people(count: int, weights: str, seed: int = 0) -> People:
    source = EmbeddingSource("person_reid_kd_r18", weights)
    vectors = _vectors(count, seed)
    persons = tuple(Person(Gender(0.5, "x"), each, None, source) for each in vectors)
    scores = np.full(count, 0.5, np.float32)
    return People(persons, scores, vectors, (), source=source)


def _open_qdrant() -> QdrantClient:
    from qdrant_client import QdrantClient  # two seconds, for the worker that needs it

    return QdrantClient(":memory:")


class RecordingClient:
    """A Qdrant client that notes the name and the arguments of each call."""

    def __init__(self, client: QdrantClient | None = None) -> None:
        self.client = client or _open_qdrant()
        self.calls: list[tuple[str, dict[str, Any]]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, kwargs))
            return getattr(self.client, name)(*args, **kwargs)

        return call


@pytest.mark.parametrize("people", [_people(40, "a"), _vectors(40)], ids=type)
def test_searches_on_qdrant_ask_for_nothing_twice(people: Any) -> None:
    client = RecordingClient()
    writer = QdrantGallery(client)
    writer.add([f"person {i}" for i in range(40)], people)
    assert client.names.count("upsert") == 1
    client.calls.clear()
    writer.add("person 40", people[3:4])
    assert client.names == ["retrieve", "scroll", "upsert"]
    gallery = QdrantGallery(client)
    gallery.search_all(people)
    client.calls.clear()
    wheres = [Filter(other_than_cameras=i) for i in range(40)]
    assert len(gallery.search_all(people, where=wheres)) == 40
    gallery.search(people[0])
    assert client.names == ["query_batch_points"] * 2


def test_what_another_process_changed_on_qdrant_is_seen() -> None:
    client = _open_qdrant()
    one, other = QdrantGallery(client), QdrantGallery(client)
    one.add("a", _people(1, "old"))
    assert other.search(_people(1, "old"))[0][0].id == "a"
    # the same collection with people of other weights
    one.remove(["a"])
    one.add("b", _people(1, "new"))
    with pytest.raises(GalleryError, match="cannot be compared"):
        other.search(_people(1, "old"))
    with pytest.raises(GalleryError, match="cannot be compared"):
        other.add("c", _people(1, "old"))
    assert other.search(_people(1, "new"))[0][0].id == "b"
    # a new collection with embeddings of another size
    client.delete_collection("people")
    QdrantGallery(client).add("c", np.eye(3)[0])
    assert other.search(np.eye(3)[0])[0].id == "c"


@pytest.mark.filterwarnings("ignore:Local mode")
def test_options_of_large_collections_reach_qdrant() -> None:
    from qdrant_client import models as qdrant

    client = RecordingClient()
    quantisation = qdrant.ScalarQuantization(
        scalar=qdrant.ScalarQuantizationConfig(type=qdrant.ScalarType.INT8)
    )
    gallery = QdrantGallery(
        client,
        vector_options={"on_disk": True},
        collection_options={"shard_number": 4, "quantization_config": quantisation},
        search_options={"hnsw_ef": 256},
    )
    gallery.add("a", _vectors(1))
    gallery.search(_vectors(1)[0])
    calls = dict(client.calls)
    created = calls["create_collection"]
    assert created["vectors_config"].on_disk is True
    assert created["vectors_config"].size == DIMENSION
    assert (created["shard_number"], created["quantization_config"]) == (
        4,
        quantisation,
    )
    indexed = [kw for name, kw in client.calls if name == "create_payload_index"]
    assert {kw["field_schema"] for kw in indexed} == {"keyword", "float"}
    for options, message in (
        ({"vector_options": {"size": 3}}, "vector_options: 'size' is not"),
        ({"collection_options": {"shards": 3}}, "'shards' is not an option"),
        ({"search_options": {"ef": 3}}, "expected some of .*exact, hnsw_ef"),
    ):
        with pytest.raises(GalleryError, match=message):
            QdrantGallery(client, **options)


def test_a_file_of_a_later_version_is_refused_by_its_version(tmp_path: Path) -> None:
    path = tmp_path / "people.npz"
    np.savez(path, format=np.array("personserve gallery 3"), ids=np.array(["a"]))
    with pytest.raises(GalleryError, match="written by a later version"):
        MemoryGallery.load(path)


def test_tracks_that_expired_take_no_memory() -> None:
    gallery = MemoryGallery()
    for track in range(500):
        gallery.add(str(track), _vectors(1), {"track": track, "time_s": track})
        gallery.expire(track - 9)
    assert len(gallery) == 10
    assert len(gallery._people._columns["track"]._numbers) < 60
    assert len(gallery._vectors._memory) < 60
    assert [m.id for m in gallery.search(_vectors(1)[0], where=Filter(tracks=495))] == [
        "495"
    ]
