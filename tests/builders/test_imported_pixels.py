"""Imported files that take normalised pixels, in the exporters' conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from builders.build.build import build
from builders.build.onnx_check import (
    OnnxImportError,
    declaration_from_proto,
    parse_onnx,
    run_once,
)
from builders.build.onnx_import import (
    declaration_from_onnx,
    declaration_text,
    import_model,
    wrap_imported_file,
)
from builders.build.onnx_pixels import (
    PIXEL_FORMATS,
    PixelFormat,
    pixels_from_text,
    pixels_of,
    text_from_pixels,
)
from builders.commands import imports
from builders.commands.app import app
from builders.ops.onnx import OnnxOps
from builders.repository import layout
from builders.repository.layout import Repository
from builders.spec.catalogue import catalogue
from builders.tensors import SpecError
from builders.verify.inputs import onnx_runner
from builders.verify.reference import VerificationError
from builders.weights import Checkpoint, file_sha256
from personserve.gallery import MemoryGallery
from tests.onnx_files import (
    SIZE_HW,
    export_reid,
    run_original,
    torchreid_pixels,
    ultralytics_pixels,
)

TORCHREID, ULTRALYTICS = "my_torchreid", "my_ultralytics"
NAMES = {TORCHREID: ("input", "output"), ULTRALYTICS: ("images", "output0")}
NORMALISE = {TORCHREID: torchreid_pixels, ULTRALYTICS: ultralytics_pixels}
PIXELS = {
    TORCHREID: PIXEL_FORMATS["imagenet"][0],
    ULTRALYTICS: PixelFormat(std=(255.0,) * 3, size_hw=SIZE_HW),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    paths = {name: folder / f"{name}.onnx" for name in NAMES}
    for name, path in paths.items():
        export_reid(path, names=NAMES[name], varies=name == ULTRALYTICS)
    return paths


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (4, *SIZE_HW, 3), dtype=np.uint8)


def _wrap(path: Path, name: str, pixels: Any) -> tuple[Any, bytes]:
    """Return the declaration and what would be served, without a trial process."""
    proto = parse_onnx(path.read_bytes(), path.name)
    model = declaration_from_proto(proto, path.name, name, pixels)
    data = wrap_imported_file(model, path.read_bytes())
    run_once(data, model, path.name)
    return model, data


@pytest.mark.parametrize("name", NAMES)
def test_a_file_takes_crops_behind_the_stated_normalisation(
    files: dict[str, Path], crops: np.ndarray, name: str
) -> None:
    model, data = _wrap(files[name], name, PIXELS[name])
    given, answer = NAMES[name]
    (image,) = model.images
    assert (image.name, image.tensor.shape) == (given, (*SIZE_HW, 3))
    assert (image.mean, image.std) == (PIXELS[name].mean, PIXELS[name].std)
    found = onnx_runner(data)(**{given: crops})[answer]
    expected = run_original(files[name], crops, NORMALISE[name])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.1, "crops must differ"
    assert np.linalg.norm(expected, axis=1).min() > 1.1, "not normalised"
    scope: dict[str, Any] = {}
    exec(declaration_text(model), scope)  # noqa: S102 - it is our own text
    assert scope["MODEL"] == model
    assert pixels_from_text(text_from_pixels(pixels_of(model))) == pixels_of(model)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_other_layouts_orders_and_types(
    tmp_path: Path, crops: np.ndarray, channels_last: bool, half: bool
) -> None:
    path = tmp_path / "x.onnx"
    form: dict[str, bool] = {"channels_last": channels_last, "half": half}
    export_reid(path, names=("x", "y"), **form)
    mean, std = (103.5, 116.3, 123.7), (57.4, 57.1, 58.4)
    _, data = _wrap(path, "x", PixelFormat(mean, std, order="BGR"))

    def normalise(x: Any) -> Any:
        return (x[..., ::-1] * 255 - np.array(mean)) / np.array(std)

    expected = run_original(path, crops, normalise, **form)
    found = onnx_runner(data)(x=crops)["y"]
    tolerance = 0.03 if half else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_pixels_are_never_guessed(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OnnxImportError) as unstated:
        import_model(files[TORCHREID], TORCHREID, tmp_path)
    text = str(unstated.value)
    assert "takes pixels, input FP32 [3, 32, 16], and does not say" in text
    assert "unit (0..1, RGB: ultralytics)" in text
    assert "imagenet (0..1, less ImageNet's mean, over its std, RGB: torchreid" in text
    assert not list(tmp_path.iterdir())
    as_is = declaration_from_onnx(files[TORCHREID], TORCHREID, "as_is")
    assert as_is.images == ()
    proto = parse_onnx(files[ULTRALYTICS].read_bytes(), "u.onnx")
    with pytest.raises(SpecError, match=r"height and width of images vary.*--size 256"):
        declaration_from_proto(proto, "u.onnx", "u", PIXEL_FORMATS["unit"][0])
    proto = parse_onnx(files[TORCHREID].read_bytes(), "t.onnx")
    other = PixelFormat(size_hw=(256, 128))
    with pytest.raises(SpecError, match="input is 32x16, got --size 256x128"):
        declaration_from_proto(proto, "t.onnx", "t", other)


def test_what_takes_no_pixels_has_none_to_state() -> None:
    value, twice = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4])
        for name in ("x", "y")
    )
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [twice])
    proto = onnx.helper.make_model(graph)
    declaration_from_proto(proto, "m.onnx", "m", None)
    with pytest.raises(SpecError, match=r"m.onnx takes x FP32 \[4\]; expected FP32"):
        declaration_from_proto(proto, "m.onnx", "m", PIXEL_FORMATS["unit"][0])


def test_names_of_the_file_are_not_taken_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    export_reid(path, names=("x", "x.mean"))
    with pytest.raises(SpecError, match=r"has tensors \['x.mean'\]"):
        _wrap(path, "x", PIXEL_FORMATS["unit"][0])


@pytest.fixture
def repository(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Repository:
    """torchreid's file, declared and built in a repository of the test's own."""
    defaults = (tmp_path / "repository",)
    monkeypatch.setattr(layout.Repository.__init__, "__defaults__", defaults)
    monkeypatch.setattr(
        "builders.build.cpu.read_imported_file",
        lambda _model, origin: Path(origin.file).read_bytes(),
    )
    proto = parse_onnx(files[TORCHREID].read_bytes(), "t.onnx")
    model = declaration_from_proto(proto, "t.onnx", TORCHREID, PIXELS[TORCHREID])
    monkeypatch.setitem(catalogue(), TORCHREID, model)
    return Repository()


def _origin(path: Path) -> Checkpoint:
    return Checkpoint(str(path), file_sha256(path))


def _command(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_build_verify_and_evaluate(
    repository: Repository, files: dict[str, Path], tmp_path: Path
) -> None:
    path, model = files[TORCHREID], catalogue()[TORCHREID]
    result = build("cpu", model, _origin(path), repository)  # type: ignore[arg-type]
    assert "behind its normalisation; output: max abs" in result.summary
    assert not build("cpu", model, _origin(path), repository).rebuilt  # type: ignore[arg-type]
    assert f"passed {TORCHREID} output" in _command("verify", TORCHREID)

    root = tmp_path / "market"
    rng = np.random.default_rng(0)
    images = {}
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
    for person in range(1, 4):
        half = rng.integers(0, 256, (2, 1, 1, 3), dtype=np.uint8)
        for folder, camera in (("query", 1), ("bounding_box_test", 2)):
            name = f"{person:04}_c{camera}s1_000001_00.png"
            image = np.broadcast_to(half, (2, 30, 25, 3)).reshape(60, 25, 3) + camera
            cv2.imwrite(str(root / folder / name), image)
            images[folder, person] = image
    output = tmp_path / "out"
    text = _command("evaluate", TORCHREID, root, "--output", output)
    assert "rank-1 1.0000" in text

    size_wh = SIZE_HW[::-1]
    resized = {
        key: cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR)[..., ::-1]
        for key, image in images.items()
    }
    expected = run_original(path, np.stack([*resized.values()]), torchreid_pixels)
    saved = np.load(output / TORCHREID / "market-test" / "onnx" / "output.npy")
    np.testing.assert_allclose(_sorted_rows(saved), _sorted_rows(expected), atol=1e-4)


def test_a_gallery_compares_cosines_of_what_is_not_normalised(
    repository: Repository, files: dict[str, Path], crops: np.ndarray
) -> None:
    path, model = files[TORCHREID], catalogue()[TORCHREID]
    built = build("cpu", model, _origin(path), repository)  # type: ignore[arg-type]
    embeddings = onnx_runner(str(built.path))(input=crops)["output"]
    gallery = MemoryGallery()
    gallery.add(["a", "b", "c"], embeddings[1:])
    expected = run_original(path, crops, torchreid_pixels)
    lengths = np.linalg.norm(expected, axis=1)
    cosines = expected[1:] @ expected[0] / lengths[1:] / lengths[0]
    found = {match.id: match.similarity for match in gallery.search(embeddings[0])}
    assert found == pytest.approx(dict(zip("abc", cosines, strict=True)), abs=1e-5)


def _sorted_rows(rows: Any) -> Any:
    return rows[np.argsort(rows[:, 0])]


def test_a_wrong_normalisation_is_not_built(
    repository: Repository, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OnnxOps.image

    def without_std(self: OnnxOps, image: Any) -> str:
        right(self, image)
        self.nodes.pop()
        return f"{image.name}.minus_mean:out"

    monkeypatch.setattr(OnnxOps, "image", without_std)
    with pytest.raises(VerificationError, match="behind its normalisation"):
        build("cpu", catalogue()[TORCHREID], _origin(files[TORCHREID]), repository)  # type: ignore[arg-type]


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Statements that the command passes to `import_model`, which does not run."""
    statements: list[Any] = []

    def record(_file: Path, _name: str, pixels: Any) -> Path:
        statements.append(pixels)
        raise SpecError("not run")

    monkeypatch.setattr(imports, "import_model", record)
    return statements


OPTIONS: dict[str, Any] = {
    "": None,
    "--pixels as_is": "as_is",
    "--pixels unit": PixelFormat(std=(255.0,) * 3),
    "--pixels imagenet --size 256x128 --interpolation linear_antialias": PixelFormat(
        (123.675, 116.28, 103.53),
        (58.395, 57.12, 57.375),
        "RGB",
        "linear_antialias",
        (256, 128),
    ),
    "--mean 0.5,0.25,1 --std 0.5,0.5,1 --order BGR": PixelFormat(
        (127.5, 63.75, 255.0), (127.5, 127.5, 255.0), "BGR"
    ),
    "--scale 1": PixelFormat(),
}


@pytest.mark.parametrize("words", OPTIONS)
def test_options_state_the_pixels(stated: list[Any], words: str) -> None:
    CliRunner().invoke(app, ["import", "x.onnx", "--name", "x", *words.split()])
    assert stated == [OPTIONS[words]]


WRONG = {
    "--pixels rgb": "expected unit, imagenet, bytes, as_is",
    "--pixels unit --scale 2": "leave out --pixels, or --scale",
    "--pixels as_is --order BGR": "leave out --order",
    "--order BGR": "need --pixels, or --scale",
    "--mean 0.5": "expected three numbers",
    "--pixels unit --size 256": "expected height x width",
    "--pixels unit --order GBR": "expected RGB, BGR",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_options_say_what_is_expected(stated: list[Any], words: str) -> None:
    done = CliRunner().invoke(app, ["import", "x.onnx", "--name", "x", *words.split()])
    assert done.exit_code == 2
    assert stated == []
    text = " ".join(done.output.replace("│", " ").split())
    assert WRONG[words] in text
