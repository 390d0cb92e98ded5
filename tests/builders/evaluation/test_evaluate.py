"""Whole evaluations: real pixels, all runners, the real server, interrupted runs."""

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

from builders.build.build import build
from builders.build.source import BuildOptions
from builders.commands import evaluation
from builders.commands.app import app
from builders.errors import BuildersError
from builders.evaluation import layouts
from builders.evaluation import predictions as predicting
from builders.evaluation.datasets import EvaluationError
from builders.evaluation.evaluation import EvaluationOptions, evaluate_model
from builders.ops.torch import Reference
from builders.repository.layout import Repository
from builders.serve.tritonserver import TritonServer
from builders.spec.catalogue import catalogue, models
from builders.spec.model import OnnxModel
from builders.spec.source import Source
from builders.tensors import Tensor
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
def people(tmp_path_factory: pytest.TempPathFactory, video: Path) -> Path:
    """Crops of real pedestrians in Market-1501's names; two of each, by two cameras."""
    root = tmp_path_factory.mktemp("people") / "market"
    for folder in ("query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
    frames = _frames(video)
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
    step = min(180, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // 4)
    frames = []
    for _ in range(4):
        capture.set(cv2.CAP_PROP_POS_FRAMES, step * len(frames))
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


def test_runners_agree_and_are_compared(
    command: Callable[..., Any], genders: Path, tmp_path: Path
) -> None:
    runners = [
        word for name in ("torch", "onnx", "server") for word in ("--with", name)
    ]
    done = command(GENDER.name, genders, *runners, "--compare", "--group-by", "camera")
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
        plot = cv2.imread(str(folder / "onnx" / f"{name}.png"))
        assert plot.std() > 5
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
    assert report["numbers"]["queries with a match"] == 8
    # the same person one pixel off ranks first even with untrained weights
    assert report["headline"]["rank-1"] >= 0.5
    assert cv2.imread(str(folder / "reranked" / "ranking.jpg")).std() > 20

    first = min((people / "query").iterdir())
    crop = cv2.resize(cv2.imread(str(first)), (128, 384), interpolation=cv2.INTER_CUBIC)
    both = np.stack([crop[..., ::-1], crop[:, ::-1, ::-1]])
    answers = Reference(REID, stand_in_weights(REID).arrays)(crops=both)
    embedding = np.load(folder / "embedding.npy")[0]
    expected = answers["embedding"].mean(axis=0)
    np.testing.assert_allclose(embedding, expected, atol=1e-4)


def test_imagenet_keeps_proportions_and_cuts_the_centre(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "imagenet"
    for synset, name in (("n01440764", "chelsea"), ("n01443537", "coffee")):
        (root / "val" / synset).mkdir(parents=True)
        image = getattr(skimage.data, name)()[..., ::-1]
        cv2.imwrite(str(root / "val" / synset / f"{name}.png"), image)
    done = command(IMAGENET.name, root, "--with", "onnx")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / IMAGENET.name / "imagenet-val" / "onnx"
    assert json.loads((folder / "report.json").read_text())["numbers"]["classes"] == 2

    image = skimage.data.chelsea()  # 300 x 451
    resized = cv2.resize(image, (385, 256), interpolation=cv2.INTER_CUBIC)
    crop = resized[16:240, 80:304]
    expected = Reference(IMAGENET, stand_in_weights(IMAGENET).arrays)(
        images=np.ascontiguousarray(crop[None])
    )
    logits = np.load(folder / "logits.npy")[0]
    np.testing.assert_allclose(logits, expected["logits"][0], rtol=1e-3, atol=1e-3)


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


def _evaluate(
    repository: Repository,
    root: Path,
    output: Path,
    interrupt: Callable[[int], None] = lambda _done: None,
) -> list[int]:
    """Evaluate, and return the progress that was reported."""
    dataset = layouts.read_dataset(root, "image-folder")
    steps: list[int] = []

    def progress(what: str, done: int = 0, total: int = 0) -> None:
        assert (what, total) == (f"{GENDER.name}, onnx", 16)
        interrupt(done)
        steps.append(done)

    options = EvaluationOptions(batch=4)
    evaluate_model(
        GENDER, dataset, "onnx", repository, output, options, progress=progress
    )
    return steps


def test_an_interrupted_run_resumes(
    repository: Repository, genders: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    assert _evaluate(repository, genders, whole) == [4, 8, 12, 16]

    def interrupt(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    output = tmp_path / "output"
    with pytest.raises(KeyboardInterrupt):
        _evaluate(repository, genders, output, interrupt)
    assert _evaluate(repository, genders, output) == [12, 16]
    name = "onnx/female_probability.npy"
    np.testing.assert_array_equal(np.load(output / name), np.load(whole / name))
    assert _evaluate(repository, genders, output) == [], "nothing is left to do"

    # a changed image makes it another run
    first = min((genders / "male").iterdir())
    cv2.imwrite(str(first), np.zeros((40, 30, 3), np.uint8))
    assert _evaluate(repository, genders, output) == [4, 8, 12, 16]


def test_unreadable_images_are_named_and_do_not_count(
    repository: Repository,
    genders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = sorted((genders / "male").iterdir())[2]
    broken.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(EvaluationError, match=f"1 of 16 images .*{broken.name}"):
        _evaluate(repository, genders, tmp_path / "out")
    monkeypatch.setattr(predicting, "MAX_UNREADABLE", 0.5)
    _evaluate(repository, genders, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "onnx" / "report.json").read_text())
    assert report["numbers"]["images"] == 15
    assert broken.name in report["unreadable"][0]


def test_models_and_data_that_do_not_go_together(
    command: Callable[..., Any], people: Path, genders: Path
) -> None:
    wrong = command(GENDER.name, people)
    assert "needs a model that computes an embedding from 1 image" in str(
        wrong.exception
    )
    wrong = command(REID.name, genders)
    assert "one of these classes" in str(wrong.exception)
    wrong = command(KINSHIP.name, genders)
    assert "computes related_probability from 2 images" in str(wrong.exception)
    wrong = command(GENDER.name, genders, "--with", "gpu")
    assert wrong.exit_code == 2
    assert "expected torch, onnx, plan, server" in wrong.output


def test_models_of_other_kinds_are_refused_by_name(
    genders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = Tensor("x", "FP32", (4,))
    source = Source("an ONNX file", "unknown", url="https://example.com")
    imported = OnnxModel("my_reid", source, (tensor,), (tensor,))
    monkeypatch.setitem(catalogue(), "my_reid", imported)
    for name, kind in (
        ("my_reid", "my_reid is an imported ONNX file"),
        ("person_attributes", "person_attributes is an ensemble of models"),
        ("person_preprocess", "person_preprocess is a Python model"),
        (
            "person_gendr",
            "unknown model 'person_gendr' (did you mean 'person_gender'?)",
        ),
    ):
        wrong = CliRunner().invoke(app, ["evaluate", name, str(genders)])
        assert isinstance(wrong.exception, BuildersError)
        assert kind in str(wrong.exception)


def test_what_is_not_built_says_how_to_build_it(genders: Path, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "empty")
    with pytest.raises(ValueError, match="build --target cpu person_gender_gennet"):
        _evaluate(repository, genders, tmp_path / "out")
    build("cpu", GENDER, StandIn(), repository, BuildOptions())
    assert _evaluate(repository, genders, tmp_path / "out") == [4, 8, 12, 16]
