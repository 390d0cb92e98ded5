"""Galleries and identities of an archive, and the gate of the deployed back end."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from personserve import IncompatibleServerError, InvalidInputError
from personserve.bulk import answer_archive, build_gallery, find_identities
from personserve.bulk.deployed import load_session_module
from personserve.gallery import Gallery, MemoryGallery, QdrantGallery
from tests.client.conftest import Run, write_image
from tests.client.test_bulk import open_mock

COPIES = 3


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers about five people, the first of whom is there three times."""
    folder = tmp_path_factory.mktemp("archive")
    for index in range(5):
        write_image(folder / "crops" / f"{index}.png", index)
    for copy in range(1, COPIES):
        write_image(folder / "crops" / f"0 again {copy}.png", 0)
    answer_archive([str(folder / "crops")], folder / "out", open_mock)
    return folder / "out"


def test_a_gallery_finds_the_people_of_an_archive(archive: Path) -> None:
    local, remote = Gallery(), QdrantGallery()
    for gallery in (local, remote):
        assert build_gallery(archive, gallery) == 7
        assert build_gallery(archive, gallery) == 7  # adds nothing twice
        assert len(gallery) == 7
    assert local.source is not None
    assert local.source.model == "person_reid_kd_r18"
    image = cv2.imread(str(archive.parent / "crops" / "3.png"))
    with open_mock() as client:
        people = client.attributes_of_crops([image])
    for gallery in (local, remote):
        (match,) = gallery.search(people[0], 1)
        assert match.payload["source"] == str(archive.parent / "crops" / "3.png")
        assert match.similarity == pytest.approx(1)


def test_copies_are_one_identity(archive: Path) -> None:
    identities = find_identities(archive, 0.99)
    rows = identities.table.to_pylist()
    assert [row["identity"] for row in rows] == [0, 0, 0, 1, 2, 3, 4]
    assert [row["count"] for row in rows] == [3, 3, 3, 1, 1, 1, 1]
    assert all("0" in Path(row["source"]).stem for row in rows[:COPIES])
    assert len(identities.representatives) == 5
    gallery = MemoryGallery()
    assert build_gallery(archive, gallery, same_person=0.99) == 5


def test_identities_need_embeddings_and_a_possible_similarity(archive: Path) -> None:
    with pytest.raises(InvalidInputError, match="the embedding 'female_probability'"):
        find_identities(archive, 0.9, role="female_probability")
    with pytest.raises(InvalidInputError, match="above -1 and below 1"):
        find_identities(archive, 1.5)


def test_the_commands_write_a_gallery_a_table_and_a_sheet(
    run: Run, archive: Path, tmp_path: Path
) -> None:
    done = run("gallery", "build", archive)
    assert done.code == 0, done.err
    assert "7 people" in done.out
    assert len(MemoryGallery.load(tmp_path / "gallery.npz")) == 7
    names = ("--table", "who.parquet", "--sheet", "who.jpg")
    identities = partial(run, "gallery", "identities", archive, "--same-person", 0.99)
    assert "7 people, 5 identities" in identities(*names).out
    assert len(pq.read_table(tmp_path / "who.parquet")) == 7
    sheet = cv2.imread(str(tmp_path / "who.jpg"))
    assert sheet.shape == (5 * 256, COPIES * 128, 3)
    assert json.loads(identities("--json").out)["identities"] == 5
    qdrant = run("gallery", "build", archive, "--qdrant", tmp_path / "qdrant")
    assert "collection people: 7 people" in qdrant.out


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("import os\n", 0o644, "expected a file that begins with"),
        ("{header}x.py; edit\n", 0o644, "expected a function open_session"),
        ("{header}x.py; edit\n", 0o666, "every user may write"),
        (None, 0o644, "cannot read the deployed code"),
    ],
)
def test_code_that_was_not_rendered_is_refused(
    text: str | None, mode: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "cpu_session.py"
    if text is not None:
        header = "# Rendered by `python -m builders render` from "
        path.write_text(text.format(header=header))
        path.chmod(mode)
    with pytest.raises(IncompatibleServerError, match=message):
        load_session_module(path)


def test_embeddings_of_a_gallery_are_those_of_the_answers(archive: Path) -> None:
    gallery = MemoryGallery()
    build_gallery(archive, gallery)
    lengths = [np.linalg.norm(vector) for _, vector in gallery.items()]
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
