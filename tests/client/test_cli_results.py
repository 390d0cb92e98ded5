"""What the commands print and write about images, galleries and faces."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from personserve import MockTransport
from personserve.gallery import Gallery
from tests.client.conftest import (
    STAND_INS,
    Outcome,
    Run,
    describe_models,
    write_image,
    write_video,
)


def _json(outcome: Outcome) -> list[dict]:
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def _commands(folder: Path) -> dict[str, list[str]]:
    """Return a call of each command whose results come from networks."""
    image = str(write_image(folder / "crops" / "a.png"))
    write_image(folder / "crops" / "b.png", 2)
    video = str(write_video(folder / "v.avi", 3, 10))
    return {
        "check": ["check"],
        "models": ["models"],
        "image": ["attributes", image],
        "images": ["attributes", str(folder / "crops")],
        "video": ["attributes", video],
        "embed": ["embed", str(folder / "crops")],
        "search": ["search", "gallery.npz", image],
        "kinship": ["kinship", image, image],
        "bench": ["bench", "--seconds", "0.1", "--people", "1"],
    }


def test_untrained_weights_are_never_silent(run: Run, tmp_path: Path) -> None:
    for name, command in _commands(tmp_path).items():
        text = run(*command)
        assert text.code == 0, (name, text.err)
        assert "stand-in weights (untrained" in text.out, name
        expected = {"kinship_pair"} if name == "kinship" else set(STAND_INS)
        for line in _json(run(*command, "--json")):
            if name != "models" or line["name"] == "person_attributes":
                assert set(line["stand_in_weights"]) == expected, name


def test_trained_weights_are_not_warned_of(
    run: Run, tmp_path: Path, transport: MockTransport
) -> None:
    transport._models = {model.name: model for model in describe_models(())}
    for name, command in _commands(tmp_path).items():
        assert "untrained" not in run(*command).out, name
        for line in _json(run(*command, "--json")):
            assert line["stand_in_weights"] == [], name


def test_the_threshold_of_the_gender_is_stated(run: Run, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    assert "female from a female probability of 0.5 on" in run("attributes", image).out


def test_several_images_are_lines_and_files_in_a_folder(
    run: Run, tmp_path: Path
) -> None:
    for name in ("shots/1.jpg", "shots/deep/2.png", "other.webp"):
        write_image(tmp_path / name)
    outcome = run("attributes", "shots", "other.webp", "--output", "drawn")
    assert outcome.code == 0
    assert "          2  shots/deep/2.png: female 0.90, male 0.80" in outcome.out
    assert "3 images, 6 detections" in outcome.out
    for name in ("1.jpg", "deep/2.png", "other.webp"):
        assert cv2.imread(str(tmp_path / "drawn" / name)).shape == (128, 128, 3)
    lines = _json(run("attributes", "shots/*.jpg", "other.webp", "--json"))
    assert [line["frame"] for line in lines] == ["shots/1.jpg", "other.webp"]


def test_an_unreadable_image_is_named_and_the_others_are_analysed(
    run: Run, tmp_path: Path
) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "s" / name)
    (tmp_path / "s" / "b.png").write_text("no image", encoding="utf-8")
    write_video(tmp_path / "v.avi", 2, 10)
    outcome = run("attributes", "s", "v.avi")
    assert outcome.code == 1
    assert "2 frames (of 2), 4 detections" in outcome.out
    assert "error: s/b.png: 8 bytes" in outcome.err
    assert "1 of 3 images could not be read" in outcome.err
    assert "2 images, 4 detections" in outcome.out


def test_outputs_never_replace_sources_or_each_other(run: Run, tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png"):
        write_image(tmp_path / name)
    for arguments, message in (
        (("a", "b", "--output", "out"), "a/x.png and b/x.png would both be written"),
        (("a", "b", "--output", "out.jpg"), "out.jpg: expected a folder"),
        (("a/x.png", "--output", "a"), "a/x.png: its annotated copy would replace it"),
        (("a", "b", "--boxes", "1,2,3,4"), "--boxes: expected one image"),
        (("a", "--frames", "3"), "--frames: expected a video"),
    ):
        outcome = run("attributes", *arguments)
        assert outcome.code == 1
        assert message in outcome.err


def test_embeddings_only_if_asked_for(run: Run, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    (plain,) = _json(run("attributes", image, "--json"))
    assert "embedding" not in plain["people"][0]
    (full,) = _json(run("attributes", image, "--json", "--embeddings"))
    assert len(full["people"][0]["embedding"]) == 512


def test_a_table_has_a_row_for_each_detection(run: Run, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_video(tmp_path / "v.avi", 4, 8)
    outcome = run("attributes", "a.png", "v.avi", "--table", "people.csv")
    assert "wrote people.csv: 10 rows" in outcome.out
    with (tmp_path / "people.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert rows[0]["source"] == "a.png"
    assert rows[0]["frame"] == rows[0]["time_s"] == ""
    assert list(rows[-1].values())[:9] == [
        *("v.avi", "3", "0.375", "1", "70.0", "8.0", "120.0", "120.0", "male")
    ]
    assert rows[-1]["stand_in_weights"] == ",".join(STAND_INS)
    run("attributes", "a.png", "--table", "people.csv", "--embeddings")
    with (tmp_path / "people.csv").open(encoding="utf-8", newline="") as file:
        assert len(json.loads(next(csv.DictReader(file))["embedding"])) == 512


def test_parquet_needs_pyarrow_and_other_tables_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_image(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    outcome = run("attributes", image, "--table", "p.parquet")
    assert outcome.code == 1
    assert "pip install pyarrow" in outcome.err
    assert "expected a table as .csv or .parquet" in (
        run("attributes", image, "--table", "p.xlsx").err
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_parquet_has_the_rows_of_csv(run: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    image = write_image(tmp_path / "a.png")
    run("attributes", image, "--table", "p.parquet", "--embeddings")
    rows = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert [row["gender"] for row in rows] == ["female", "male"]
    assert rows[0]["frame"] is None
    assert len(rows[0]["embedding"]) == 512


def test_a_table_is_not_begun_before_the_server_answers(
    run: Run, tmp_path: Path, transport: MockTransport
) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "people.csv").write_text("the previous one", encoding="utf-8")
    transport._models.clear()
    assert run("attributes", "a.png", "--table", "people.csv").code == 1
    assert (tmp_path / "people.csv").read_text(encoding="utf-8") == "the previous one"


def test_searches_take_several_images_and_state_the_threshold(
    run: Run, tmp_path: Path
) -> None:
    for value, name in enumerate("abc"):
        write_image(tmp_path / "crops" / f"{name}.png", value)
    assert "3 people" in run("embed", "crops").out
    outcome = run("search", "gallery.npz", "crops", "--count", "2", "--folder", "crops")
    assert "the gallery has no threshold" in outcome.out
    sheet = cv2.imread(str(tmp_path / "search.jpg"))
    assert sheet.shape == (3 * 256, 3 * 128, 3)
    gallery = Gallery.load(tmp_path / "gallery.npz")
    gallery.set_threshold(0.9)
    gallery.save(tmp_path / "gallery.npz")
    lines = _json(run("search", "gallery.npz", "crops", "--count", "2", "--json"))
    assert [line["query"] for line in lines] == [
        f"crops/{name}.png" for name in "aabbcc"
    ]
    assert [line["is_same_person"] for line in lines] == [True, False] * 3
    assert {line["threshold"] for line in lines} == {0.9}
    text = run("search", "gallery.npz", "crops/a.png", "--min-similarity", "0.8").out
    assert "same person: from a similarity of 0.900" in text
    assert "similarities below 0.8 are left out" in text
    assert "b.png" not in text


def test_kinship_states_the_threshold(run: Run, tmp_path: Path) -> None:
    face = write_image(tmp_path / "f.png")
    text = run("kinship", face, face).out
    assert "0.750 (related by the server's threshold of 0.5)" in text
    (line,) = _json(run("kinship", face, face, "--json"))
    assert line["threshold"] == pytest.approx(0.5)


def test_annotated_images_are_drawn(run: Run, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    assert "wrote drawn.png" in run("attributes", image, "--output", "drawn.png").out
    before, after = (cv2.imread(str(tmp_path / n)) for n in ("a.png", "drawn.png"))
    assert np.abs(before.astype(int) - after).max() > 100


def test_searches_are_filtered_by_camera_and_time(run: Run, tmp_path: Path) -> None:
    for value, name in enumerate(("yard/1", "yard/2", "roof/1")):
        path = write_image(tmp_path / "crops" / f"{name}.png", value)
        os.utime(path, (1_700_000_000 + 3600 * value,) * 2)
    options = ("--camera-folders", "--file-times")
    assert "3 people" in run("embed", "crops", *options).out

    def search(*options: str) -> list[str]:
        command = ("search", "gallery.npz", "crops/yard/1.png", "--json", *options)
        return [line["id"] for line in _json(run(*command))]

    assert set(search()) == {"yard/1.png", "yard/2.png", "roof/1.png"}
    assert set(search("--camera", "yard")) == {"yard/1.png", "yard/2.png"}
    assert search("--not-camera", "yard") == ["roof/1.png"]
    assert search("--since", "2023-11-15T00:13:20+00:00") == ["roof/1.png"]
    assert search("--until", "1700000001") == ["yard/1.png"]
    assert search("--since", "1h") == []
    text = run("search", "gallery.npz", "crops/yard/1.png", "--camera", "roof").out
    assert "roof" in text
    assert "2023-11-1" in text
    failed = run("search", "gallery.npz", "crops/yard/1.png", "--since", "noon")
    assert failed.code == 2
    assert "not a time" in failed.err

    write_image(tmp_path / "late.png", 9)
    assert "4 people" in run("embed", "late.png", "--add", "--camera", "roof").out
    assert run("embed", "late.png", "--add").code == 1, "ids are unique"
    text = run("expire", "gallery.npz", "--before", "365d", "--camera", "yard").out
    assert "removed 2, 2 remain" in text
    assert "1 of them have no time" in text
    (line,) = _json(run("expire", "gallery.npz", "--before", "2023-12-01", "--json"))
    assert line == {"removed": 1, "people": 1}
    assert "expects a folder" in run("embed", "late.png", "--camera-folders").err
