"""Commands that ask another model for people than the default one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from personserve import MockTransport, describe_mock_models
from tests.client.conftest import BOXES, Run, write_image, write_video

FACES = {"female_probability": 1, "kinship_embedding": 8}


@pytest.fixture
def transport() -> MockTransport:
    return MockTransport(
        models=[
            *describe_mock_models(),
            *describe_mock_models(model="face_attributes", outputs=FACES),
            *describe_mock_models(model="reid", outputs={"embedding": 16, "depth": 1}),
        ]
    )


def test_images_videos_and_tables(run: Run, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    video = write_video(tmp_path / "v.avi", 3, 10)
    text = run("attributes", image, "--model", "face_attributes")
    assert text.code == 0, text.err
    assert "most similar other by kinship_embedding" in text.out
    assert "gender: female from a female probability of 0.5" in text.out
    text = run("attributes", image, "--model", "reid")
    assert "depth" in text.out
    assert "probability" not in text.out

    table = ("--table", "t.csv", "--embeddings")
    done = run("attributes", video, "--model", "face_attributes", *table, "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert len(lines) == 3
    assert set(lines[0]["people"][0]) == {"gender", "box", "kinship_embedding"}
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(BOXES)
    assert "embedding" not in rows[0]
    assert len(json.loads(rows[0]["kinship_embedding"])) == 8

    done = run("attributes", video, "--model", "reid", *table)
    assert done.code == 0, done.err
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    assert row["gender"] == row["gender_probability"] == ""
    assert len(json.loads(row["embedding"])) == 16
    assert float(row["depth"])


def test_galleries_compare_by_a_role(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "crops" / f"{name}.png")
    query = str(tmp_path / "crops" / "a.png")
    faces = ("--model", "face_attributes")
    refused = run("embed", "crops", *faces)
    assert refused.code == 1
    assert "answers female_probability, kinship_embedding" in refused.err
    assert "--role" in refused.err
    by_role = (*faces, "--role", "kinship_embedding")
    assert run("embed", "crops", *by_role).code == 0
    found = run("search", "gallery.npz", query, *by_role, "--json")
    assert [json.loads(line)["id"] for line in found.out.splitlines()]
    other = run("search", "gallery.npz", query)
    assert other.code == 1
    assert run("embed", "crops", "--model", "reid").code == 0
    assert run("bench", "--seconds", "0.1", "--model", "reid").code == 0


def test_models_say_what_they_take_and_answer(run: Run, tmp_path: Path) -> None:
    listed = {
        line["name"]: line
        for line in map(json.loads, run("models", "--json").out.splitlines())
    }
    assert listed["face_attributes"]["takes"] == "frames"
    assert listed["face_attributes"]["outputs"] == list(FACES)
    assert listed["reid_crops"]["takes"] == "crops"
    assert "female_probability, kinship_embedding" in run("models").out
    assert run("check", "--model", "reid").code == 0
    missing = run("check", "--model", "nosuch")
    assert missing.code == 1
    assert "does not serve nosuch" in missing.err
    unknown = run("attributes", write_image(tmp_path / "a.png"), "--model", "nosuch")
    assert unknown.code == 1
    assert "face_attributes, person_attributes, reid" in unknown.err
