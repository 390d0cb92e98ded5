"""Both galleries by one body: FAISS, and Qdrant's server inside the process."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from personserve import Gender, InvalidInputError, Person
from personserve.gallery import BaseGallery, Gallery, GalleryError, QdrantGallery

DIMENSION = 16


@pytest.fixture(params=[Gallery, QdrantGallery])
def gallery(request: pytest.FixtureRequest) -> BaseGallery:
    return request.param()


def _vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _names(count: int) -> list[str]:
    return [f"person {i}" for i in range(count)]


def test_the_most_alike_come_first(gallery: BaseGallery) -> None:
    vectors = _vectors(200)
    gallery.add(_names(200), vectors)
    assert len(gallery) == 200
    assert gallery.dimension == DIMENSION
    queries = _vectors(7, seed=1)
    found = gallery.search_all(queries, 10)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    for row, matches, query in zip(expected, found, queries, strict=True):
        assert [m.id for m in matches] == [f"person {i}" for i in row]
        np.testing.assert_allclose(
            [m.similarity for m in matches], vectors[row] @ query, atol=1e-5
        )
    person = Person(Gender(0.5, "x"), queries[0])
    assert gallery.search(person, 3) == gallery.search(queries[0], 3)
    near = gallery.search(queries[0], 200, min_similarity=0.2)
    assert 0 < len(near) < 200
    assert all(match.similarity >= 0.2 for match in near)


def test_of_equals_the_first_comes_first(gallery: BaseGallery) -> None:
    one, other = _vectors(2)
    gallery.add(["far"], other)
    for name in _names(30):
        gallery.add([name], one)
    for count in (1, 3, 29, 30):
        matches = gallery.search(one, count)
        assert [m.id for m in matches] == _names(30)[:count]
    assert gallery.search(one, 99)[-1].id == "far"


def test_an_empty_gallery_knows_nobody(gallery: BaseGallery) -> None:
    assert gallery.search(_vectors(1)[0]) == []
    assert gallery.search_all(_vectors(3)) == [[], [], []]
    assert (len(gallery), gallery.dimension, list(gallery.items())) == (0, None, [])
    gallery.add([], np.empty((0, DIMENSION)))
    gallery.add(["a"], _vectors(1))
    gallery.remove(["a"])
    assert gallery.search(_vectors(1)[0]) == []


WRONG = {
    "known": (lambda g: g.add(["a"], _vectors(1)), "'a' is there already"),
    "twice": (lambda g: g.add(["b", "b"], _vectors(2)), "'b' is given twice"),
    "no name": (lambda g: g.add([""], _vectors(1)), "expected a text"),
    "more ids": (lambda g: g.add(["b", "c"], _vectors(1)), "2 ids for 1"),
    "dimension": (lambda g: g.add(["b"], np.ones((1, 3))), r"\[N, 16\], got \[1, 3\]"),
    "zero": (lambda g: g.add(["b"], np.zeros(DIMENSION)), "embedding 0 has no"),
    "nan": (lambda g: g.add(["b"], np.full(DIMENSION, np.nan)), "embedding 0 has no"),
    "search": (lambda g: g.search(np.ones(3)), r"\[N, 16\], got \[1, 3\]"),
    "searches": (lambda g: g.search(_vectors(2)), "search_all takes several"),
    "count": (lambda g: g.search(_vectors(1)[0], 0), "at least 1"),
    "stranger": (lambda g: g.remove(["a", "nobody"]), "'nobody' is not there"),
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
            found, expected = other.search(query, 9), gallery.search(query, 9)
            assert [m.id for m in found] == [m.id for m in expected]
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
