"""Whole evaluations: real pixels, real backends, the real server, broken-off runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from typer.testing import CliRunner

from builders.build import BuildOptions, build
from builders.catalogue import models
from builders.commands import app, evaluation
from builders.evaluation import layouts
from builders.evaluation import predictions as predicting
from builders.evaluation.datasets import EvaluationError
from builders.evaluation.evaluate import Options, evaluate_on
from builders.ops.torch import Reference
from builders.repository import Repository
from builders.server import TritonServer
from builders.weights import StandIn, stand_in_weights

(GENDER, REID, KINSHIP, IMAGENET) = models(
    [
        "person_gender_gennet_recon",
        "person_reid_kd_r18",
        "kinship_compact",
        "se_resnet50",
    ]
)


@pytest.fixture(scope="session")
def people(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """Crops of real pedestrians in Market-1501's names; two of each, by two cameras."""
    root = tmp_path_factory.mktemp("people") / "market"
    for folder in ("query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
    try:
        video = request.getfixturevalue("video")
        frames = _frames(video)
    except pytest.skip.Exception:
        frames = [skimage.data.astronaut()[..., ::-1], skimage.data.coffee()[..., ::-1]]
    rng = np.random.default_rng(0)
    for person in range(1, 9):
        frame = frames[person % len(frames)]
        x, y = (
            rng.integers(0, frame.shape[1] - 90),
            rng.integers(0, frame.shape[0] - 160),
        )
        for camera in (1, 2):
            crop = frame[y : y + 150 + camera, x + camera : x + 70]
            folder = "query" if camera == 1 else "bounding_box_test"
            name = f"{person:04}_c{camera}s1_000001_00.png"
            cv2.imwrite(str(root / folder / name), crop)
    return root


def _frames(video: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(video))
    frames = []
    for _ in range(4):
        capture.set(cv2.CAP_PROP_POS_FRAMES, 180 * len(frames))
        frames.append(capture.read()[1])
    capture.release()
    return frames


@pytest.fixture
def genders(people: Path, tmp_path: Path) -> Path:
    """The same crops as an image folder."""
    root = tmp_path / "genders"
    lines = ["file,camera"]
    for number, path in enumerate(sorted(people.rglob("*.png"))):
        file = f"{('male', 'female')[number % 2]}/{path.name}"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(path.read_bytes())
        lines.append(f"{file},{path.name[6]}")
    (root / "groups.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def command(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`python -m builders evaluate` on the repository of this run."""
    monkeypatch.setattr(evaluation, "Repository", lambda: repository)

    def run(*arguments: Any) -> Any:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(
            app, ["evaluate", *words, "--output", str(tmp_path / "out")]
        )

    return run


def test_backends_agree_and_are_compared(
    command: Callable[..., Any], genders: Path, tmp_path: Path
) -> None:
    backends = [
        word for name in ("torch", "onnx", "server") for word in ("--with", name)
    ]
    done = command(GENDER.name, genders, *backends, "--compare", "--group-by", "camera")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / GENDER.name / "genders-all"
    answers = {
        name: np.load(folder / name / "female_probability.npy")
        for name in ("torch", "onnx", "server")
    }
    files = sorted(p for n in ("male", "female") for p in (genders / n).iterdir())
    files.sort(key=lambda path: path.parent.name == "female")
    crops = [cv2.resize(cv2.imread(str(f)), (128, 256))[..., ::-1] for f in files]
    expected = Reference(GENDER, stand_in_weights(GENDER).arrays)(crops=np.stack(crops))
    for array in answers.values():
        np.testing.assert_allclose(array, expected["female_probability"], atol=1e-5)

    report = json.loads((folder / "onnx" / "report.json").read_text())
    right = (answers["onnx"][:, 0] >= 0.5) == np.repeat([False, True], 8)
    assert report["headline"]["accuracy"] == pytest.approx(right.mean())
    assert report["file_bytes"] > 1_000_000
    assert [row["value"] for row in report["numbers"]["groups"]["camera"]] == ["1", "2"]
    text = (folder / "onnx" / "report.md").read_text()
    assert "Stand-in weights: untrained" in text
    for name in ("confusion", "roc", "coverage"):
        picture = cv2.imread(str(folder / "onnx" / f"{name}.png"))
        assert picture.std() > 5
        assert f"![{name}]({name}.png)" in text
    table = (folder / "comparison.md").read_text()
    assert table.count("100.00%") == 2, "onnx and server agree with torch"
    assert len(json.loads((folder / "comparison.json").read_text())) == 3


def test_reid_by_the_server(
    command: Callable[..., Any], people: Path, tmp_path: Path, server: TritonServer
) -> None:
    done = command(
        *(REID.name, people, "--with", "server", "--server", server.grpc_address),
        *("--rerank", "--flip"),
    )
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / REID.name / "market-test" / "server-flip"
    report = json.loads((folder / "reranked" / "report.json").read_text())
    assert report["numbers"]["queries that count"] == 8
    # the same person one pixel off is found even with untrained weights
    assert report["headline"]["rank-1"] >= 0.5
    assert cv2.imread(str(folder / "reranked" / "ranking.jpg")).std() > 20

    first = min((people / "query").iterdir())
    crop = cv2.resize(cv2.imread(str(first)), (128, 384), interpolation=cv2.INTER_CUBIC)
    both = np.stack([crop[..., ::-1], crop[:, ::-1, ::-1]])
    answers = Reference(REID, stand_in_weights(REID).arrays)(crops=both)
    found = np.load(folder / "embedding.npy")[0]
    np.testing.assert_allclose(found, answers["embedding"].mean(axis=0), atol=1e-4)


def test_imagenet_keeps_proportions_and_cuts_the_centre(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "imagenet"
    for synset, name in (("n01440764", "chelsea"), ("n01443537", "coffee")):
        (root / "val" / synset).mkdir(parents=True)
        picture = getattr(skimage.data, name)()[..., ::-1]
        cv2.imwrite(str(root / "val" / synset / f"{name}.png"), picture)
    done = command(IMAGENET.name, root, "--with", "onnx")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / IMAGENET.name / "imagenet-val" / "onnx"
    assert json.loads((folder / "report.json").read_text())["numbers"]["classes"] == 2

    picture = skimage.data.chelsea()  # 300 x 451
    resized = cv2.resize(picture, (385, 256), interpolation=cv2.INTER_CUBIC)
    crop = resized[16:240, 80:304]
    expected = Reference(IMAGENET, stand_in_weights(IMAGENET).arrays)(
        pictures=np.ascontiguousarray(crop[None])
    )
    found = np.load(folder / "logits.npy")[0]
    np.testing.assert_allclose(found, expected["logits"][0], rtol=1e-3, atol=1e-3)


def test_kinship_writes_kaggles_file(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "fiw"
    (root / "test").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        face = cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (90, 90))
        cv2.imwrite(str(root / "test" / f"face{number}.jpg"), face)
    (root / "train_relationships.csv").write_text("p1,p2\n")
    (root / "sample_submission.csv").write_text(
        "img_pair,is_related\nface0.jpg-face1.jpg,0\nface2.jpg-face0.jpg,0\n"
    )
    done = command(KINSHIP.name, root, "--part", "test")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / KINSHIP.name / "fiw-test" / "onnx"
    lines = (folder / "submission.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [
        "face0.jpg-face1.jpg",
        "face2.jpg-face0.jpg",
    ]


def _evaluate(repository: Repository, root: Path, output: Path, run: Any = None) -> Any:
    data = layouts.read(root, "image-folder", None)
    steps: list[int] = []
    evaluate_on(
        "onnx",
        GENDER,
        data,
        {"root": str(root)},
        repository,
        output,
        Options(batch=4),
        address=None,
        progress=run or steps.append,
    )
    return steps


def test_a_run_that_was_broken_off_goes_on(
    repository: Repository, genders: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    assert _evaluate(repository, genders, whole) == [4, 8, 12, 16]

    def break_off(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    output = tmp_path / "output"
    with pytest.raises(KeyboardInterrupt):
        _evaluate(repository, genders, output, break_off)
    assert _evaluate(repository, genders, output) == [12, 16]
    name = "onnx/female_probability.npy"
    np.testing.assert_array_equal(np.load(output / name), np.load(whole / name))
    assert _evaluate(repository, genders, output) == [], "all is there"

    # another picture is another run
    first = min((genders / "male").iterdir())
    cv2.imwrite(str(first), np.zeros((40, 30, 3), np.uint8))
    assert _evaluate(repository, genders, output) == [4, 8, 12, 16]


def test_unreadable_pictures_are_named_and_do_not_count(
    repository: Repository,
    genders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = sorted((genders / "male").iterdir())[2]
    broken.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(EvaluationError, match=f"1 of 16 pictures .*{broken.name}"):
        _evaluate(repository, genders, tmp_path / "out")
    monkeypatch.setattr(predicting, "MAX_UNREADABLE", 0.5)
    _evaluate(repository, genders, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "onnx" / "report.json").read_text())
    assert report["numbers"]["pictures"] == 15
    assert broken.name in report["unreadable"][0]


def test_models_and_data_that_do_not_go_together(
    command: Callable[..., Any], people: Path, genders: Path
) -> None:
    wrong = command(GENDER.name, people)
    assert "these data need a model of 1 to an embedding" in str(wrong.exception)
    wrong = command(REID.name, genders)
    assert "one of these classes" in str(wrong.exception)
    wrong = command(KINSHIP.name, genders)
    assert "takes 2 pictures to related_probability" in str(wrong.exception)
    wrong = command(GENDER.name, genders, "--with", "gpu")
    assert wrong.exit_code == 2
    assert "expected torch, onnx, plan, server" in wrong.output


def test_what_is_not_built_says_how_to_build_it(genders: Path, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "empty")
    with pytest.raises(ValueError, match="build --target cpu person_gender_gennet"):
        _evaluate(repository, genders, tmp_path / "out")
    build("cpu", GENDER, StandIn(), repository, BuildOptions(), lambda _: None)
    assert _evaluate(repository, genders, tmp_path / "out") == [4, 8, 12, 16]
