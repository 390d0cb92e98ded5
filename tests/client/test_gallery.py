"""Both galleries by the same tests: FAISS, and Qdrant's server inside the process."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from personserve import EmbeddingSource, Gender, InvalidInputError, People, Person
from personserve.gallery import (
    BaseGallery,
    Gallery,
    GalleryError,
    Match,
    MemoryGallery,
    QdrantGallery,
    Threshold,
)

DIMENSION = 16


@pytest.fixture(params=[MemoryGallery, Gallery, QdrantGallery])
def gallery(request: pytest.FixtureRequest) -> BaseGallery:
    return request.param()


def _vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


TRAINED = EmbeddingSource("person_reid_kd_r18", "kd.safetensors, sha256 12ab")
RETRAINED = EmbeddingSource("person_reid_kd_r18", "kd.safetensors, sha256 77ff")
UNTRAINED = EmbeddingSource("person_reid_kd_r18", "stand-in", untrained=True)


def _people(
    count: int, source: EmbeddingSource | None = TRAINED, seed: int = 0
) -> People:
    vectors = _vectors(count, seed)
    persons = tuple(Person(Gender(0.5, "x"), each, None, source) for each in vectors)
    stand_ins = (source.model,) if source is not None and source.untrained else ()
    return People(
        persons, np.full(count, 0.5, np.float32), vectors, stand_ins, source=source
    )


def _names(count: int) -> list[str]:
    return [f"person {i}" for i in range(count)]


def test_the_most_similar_come_first(gallery: BaseGallery) -> None:
    vectors = _vectors(200)
    gallery.add(_names(200), vectors)
    assert len(gallery) == 200
    assert gallery.dimension == DIMENSION
    queries = _vectors(7, seed=1)
    results = gallery.search_all(queries, 10)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    for row, matches, query in zip(expected, results, queries, strict=True):
        assert [m.id for m in matches] == [f"person {i}" for i in row]
        np.testing.assert_allclose(
            [m.similarity for m in matches], vectors[row] @ query, atol=1e-5
        )
    person = Person(Gender(0.5, "x"), queries[0])
    assert gallery.search(person, 3) == gallery.search(queries[0], 3)
    near = gallery.search(queries[0], 200, min_similarity=0.2)
    assert 0 < len(near) < 200
    assert all(match.similarity >= 0.2 for match in near)


def _add_equals(gallery: BaseGallery) -> np.ndarray:
    one, other = _vectors(2)
    gallery.add(["far"], other)
    for name in _names(30):
        gallery.add([name], one)
    return one


def test_equals_come_before_all_others_and_in_a_stable_order(
    gallery: BaseGallery,
) -> None:
    one = _add_equals(gallery)
    for count in (1, 3, 29, 30):
        ids = [match.id for match in gallery.search(one, count)]
        assert len(set(ids)) == count
        assert set(ids) <= set(_names(30))
        assert [match.id for match in gallery.search(one, count)] == ids
    assert gallery.search(one, 99)[-1].id == "far"


def test_of_equals_the_first_comes_first_in_process() -> None:
    gallery = Gallery()
    one = _add_equals(gallery)
    for count in (1, 3, 29, 30):
        matches = gallery.search(one, count)
        assert [m.id for m in matches] == _names(30)[:count]
    assert gallery.search(one, 99)[-1].id == "far"


def test_a_search_on_qdrant_is_one_request_with_at_most_one_for_metadata() -> None:
    from qdrant_client import QdrantClient

    class Counting:
        """A Qdrant client that notes the name of each method that is called."""

        def __init__(self) -> None:
            self.client = QdrantClient(":memory:")
            self.called: list[str] = []

        def __getattr__(self, name: str) -> object:
            self.called.append(name)
            return getattr(self.client, name)

    client = Counting()
    vectors = _vectors(4)
    QdrantGallery(client).add(_names(4), vectors)
    gallery = QdrantGallery(client)
    assert gallery.dimension == DIMENSION
    client.called.clear()
    assert gallery.search(vectors[2], 1)[0].id == "person 2"
    assert [m[0].id for m in gallery.search_all(vectors, 1)] == _names(4)
    assert client.called == ["query_batch_points"] * 2
    client.called.clear()
    assert QdrantGallery(client, "nobody").search(vectors[2]) == []
    assert set(client.called) == {"collection_exists"}


def test_an_empty_gallery_finds_no_matches(gallery: BaseGallery) -> None:
    assert gallery.search(_vectors(1)[0]) == []
    assert gallery.search_all(_vectors(3)) == [[], [], []]
    assert (len(gallery), gallery.dimension, list(gallery.items())) == (0, None, [])
    gallery.add([], np.empty((0, DIMENSION)))
    gallery.add(["a"], _vectors(1))
    gallery.remove(["a"])
    assert gallery.search(_vectors(1)[0]) == []


WRONG = {
    "known": (lambda g: g.add(["a"], _vectors(1)), "'a' is already in the gallery"),
    "twice": (lambda g: g.add(["b", "b"], _vectors(2)), "duplicate id 'b'"),
    "no name": (lambda g: g.add([""], _vectors(1)), "expected a non-empty string"),
    "more ids": (lambda g: g.add(["b", "c"], _vectors(1)), "2 ids for 1"),
    "dimension": (lambda g: g.add(["b"], np.ones((1, 3))), r"\[N, 16\], got \[1, 3\]"),
    "zero": (lambda g: g.add(["b"], np.zeros(DIMENSION)), "embedding 0 has no"),
    "nan": (lambda g: g.add(["b"], np.full(DIMENSION, np.nan)), "embedding 0 has no"),
    "search": (lambda g: g.search(np.ones(3)), r"\[N, 16\], got \[1, 3\]"),
    "searches": (lambda g: g.search(_vectors(2)), "search_all takes several"),
    "count": (lambda g: g.search(_vectors(1)[0], 0), "at least 1"),
    "words": (lambda g: g.search(["x"]), "expected numbers"),
    "stranger": (lambda g: g.remove(["a", "nobody"]), "unknown id 'nobody'"),
}


@pytest.mark.parametrize(("do", "message"), WRONG.values(), ids=WRONG)
def test_what_is_refused_changes_nothing(
    gallery: BaseGallery, do: Callable[[BaseGallery], None], message: str
) -> None:
    gallery.add(["a"], _vectors(1))
    with pytest.raises(GalleryError, match=message):
        do(gallery)
    assert [name for name, _ in gallery.items()] == ["a"]
    assert "a" in gallery
    assert "b" not in gallery
    assert 5 not in gallery


def test_removed_people_can_come_back(gallery: BaseGallery) -> None:
    vectors = _vectors(5)
    gallery.add(_names(5), vectors)
    gallery.remove(["person 3", "person 0"])
    assert [name for name, _ in gallery.items()] == ["person 1", "person 2", "person 4"]
    assert gallery.search(vectors[3])[0].id != "person 3"
    gallery.add(["person 3"], vectors[3])
    assert gallery.search(vectors[3], 1)[0].id == "person 3"


def test_saved_people_are_found_by_either_gallery(
    gallery: BaseGallery, tmp_path: Path
) -> None:
    vectors = _vectors(50)
    gallery.add(_names(50), vectors * 3)
    path = tmp_path / "deep" / "people.npz"
    gallery.save(path)
    for other in (Gallery.load(path), QdrantGallery().add_from(path)):
        assert [name for name, _ in other.items()] == _names(50)
        for query in vectors[:5]:
            matches, expected = other.search(query, 9), gallery.search(query, 9)
            assert [m.id for m in matches] == [m.id for m in expected]
    assert [p.name for p in path.parent.iterdir()] == ["people.npz"]


def test_files_that_are_no_gallery(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[type, tuple[str]]:
            return Path, ("hacked",)

    path = tmp_path / "people.npz"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(GalleryError, match="not a saved gallery"):
        Gallery.load(path)
    np.savez(path, format=np.array("other"))
    with pytest.raises(GalleryError, match="not a gallery of this version"):
        Gallery.load(path)
    np.savez(path, format=np.array([Evil()]), ids=np.array(["a"]))
    with pytest.raises(GalleryError, match="not a saved gallery"):
        Gallery.load(path)
    nested, people = np.array("[" * 100_000), np.array(["a"])
    np.savez(
        path,
        format=np.array("personserve gallery 2"),
        ids=people,
        embeddings=np.ones((1, 2)),
        payloads=nested,
    )
    with pytest.raises(GalleryError, match="not a saved gallery"):
        Gallery.load(path)
    with pytest.raises(InvalidInputError, match="nowhere"):
        Gallery.load(tmp_path / "nowhere.npz")


def test_a_failed_save_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "people.npz"
    gallery = Gallery()
    gallery.add(["a"], _vectors(1))
    gallery.save(path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space"):
        gallery.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["people.npz"]


def test_one_gallery_may_be_searched_by_many_threads() -> None:
    gallery = Gallery()
    vectors = _vectors(500)
    gallery.add(_names(500), vectors)
    wrong: list[str] = []

    def search(start: int) -> None:
        for i in range(start, 500, 4):
            (match,) = gallery.search(vectors[i], 1)
            if match.id != f"person {i}":
                wrong.append(match.id)

    threads = [threading.Thread(target=search, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_people_are_added_and_searched_as_they_are(gallery: BaseGallery) -> None:
    people = _people(5)
    gallery.add(_names(3), people[:3])
    gallery.add("person 3", people[3])
    gallery.add(["person 4"], [people[4]])
    assert gallery.source == TRAINED
    assert list(gallery) == _names(5)
    frame = gallery.search(people, 1)
    assert [matches[0].id for matches in frame] == _names(5)
    assert gallery.search_all(people, 1) == frame
    assert gallery.search(people[2], 1) == frame[2]
    assert gallery.search(people[:0]) == []
    assert frame[0][0].stand_in_weights == ()


@pytest.mark.parametrize("other", [RETRAINED, UNTRAINED], ids=["other", "untrained"])
def test_people_of_other_weights_are_refused(
    gallery: BaseGallery, other: EmbeddingSource
) -> None:
    gallery.add(_names(2), _people(2))
    strangers = _people(2, other)
    message = r"sha256 12ab\) cannot be compared .* embed all of the images again"
    for refused in (
        lambda: gallery.add(["a", "b"], strangers),
        lambda: gallery.add(["a"], strangers[0]),
        lambda: gallery.add(["a", "b"], [_people(1)[0], strangers[0]]),
        lambda: gallery.search(strangers),
        lambda: gallery.search(strangers[0]),
        lambda: gallery.search_all(strangers),
        lambda: gallery.set_threshold(Threshold(0.5, source=other)),
    ):
        with pytest.raises(GalleryError, match=message):
            refused()
    assert list(gallery) == _names(2)
    assert gallery.search(_vectors(1)[0], 1)[0].id == "person 0", "on trust"


def test_a_gallery_of_arrays_takes_everyone(gallery: BaseGallery) -> None:
    gallery.add(["array"], _vectors(1, seed=9))
    for source in (TRAINED, RETRAINED, None):
        assert len(gallery.search(_people(2, source))) == 2
        gallery.add([str(source)], _people(1, source, seed=len(gallery)))
    assert gallery.source is None
    gallery.remove(list(gallery))
    gallery.add(["first"], _people(1, RETRAINED))
    assert gallery.source == RETRAINED, "an empty gallery has none"


def test_source_and_threshold_are_saved(gallery: BaseGallery, tmp_path: Path) -> None:
    gallery.add(_names(2), _people(2))
    threshold = Threshold(0.75, "measured", 0.001, 0.002, 0.1, 5000, 300, TRAINED)
    gallery.set_threshold(threshold)
    gallery.save(tmp_path / "people.npz")
    for other in (Gallery.load(tmp_path / "people.npz"), QdrantGallery()):
        if not len(other):
            other.add_from(tmp_path / "people.npz")
        assert other.source == TRAINED
        assert other.threshold == threshold
        with pytest.raises(GalleryError, match="cannot be compared"):
            other.search(_people(1, RETRAINED))
    mixed = Gallery()
    mixed.add(["x"], _people(1, RETRAINED))
    with pytest.raises(GalleryError, match="cannot be compared"):
        mixed.add_from(tmp_path / "people.npz")


def test_a_second_process_reads_the_source_from_qdrant() -> None:
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    QdrantGallery(client).add(_names(2), _people(2, UNTRAINED))
    again = QdrantGallery(client)
    assert again.search(_vectors(1)[0])[0].stand_in_weights == (UNTRAINED.model,)
    with pytest.raises(GalleryError, match="cannot be compared"):
        again.search(_people(1))


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    arrays = {"ids": np.array(["a"]), "embeddings": _vectors(1)}
    np.savez(tmp_path / "old.npz", format=np.array("personserve gallery 1"), **arrays)
    gallery = Gallery.load(tmp_path / "old.npz")
    assert (gallery.source, gallery.threshold, len(gallery)) == (None, None, 1)
    assert gallery.search(_people(1))[0][0].id == "a"


def test_matches_tell_the_threshold_and_untrained_weights(gallery: BaseGallery) -> None:
    people = _people(3, UNTRAINED)
    gallery.add(_names(3), people)
    match = gallery.search(people[0])[0]
    assert match.is_same_person is None
    untrained = "UNTRAINED weights: person_reid_kd_r18"
    assert repr(match) == f"<Match 'person 0' 1.000, no threshold; {untrained}>"
    gallery.set_threshold(0.9)
    matches = gallery.search(people[0])
    assert [each.is_same_person for each in matches] == [True, False, False]
    assert "same person (threshold 0.900); UNTRAINED" in repr(matches[0])
    assert "not the same person" in repr(matches[1])
    assert repr(Match("a", 0.5)) == "<Match 'a' 0.500, no threshold>"
    with pytest.raises(GalleryError, match="from -1 to 1, got nan"):
        gallery.set_threshold(float("nan"))


def test_a_gallery_is_shown_in_a_line(gallery: BaseGallery) -> None:
    gallery.add(["<b>anna</b>", "ben"], _people(2, UNTRAINED))
    gallery.set_threshold(0.8)
    text = repr(gallery)
    assert "\n" not in text
    assert f"embeddings [{DIMENSION}] of person_reid_kd_r18" in text
    if isinstance(gallery, Gallery):
        assert text.startswith("<Gallery: 2 people")
        assert "threshold 0.800; UNTRAINED weights" in text
        html = gallery._repr_html_()
        assert "&lt;b&gt;anna&lt;/b&gt;" in html
        assert "Untrained stand-in weights" in html
