"""Pairs of networks behind a frame, on the real server, and each network alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from builders.build.build import build
from builders.build.onnx_import import declaration_from_onnx
from builders.build.source import BuildOptions
from builders.models import (
    person_gender,
    person_gender_gennet_recon,
    person_gender_reid,
    person_gender_rmnet,
    person_reid_kd_r34,
    person_reid_sbs_r50_ibn,
)
from builders.repository.frame_ensembles import crops_ensemble, frame_ensemble
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import catalogue, with_python_models
from builders.spec.ensemble import Declaration, Ensemble
from builders.spec.model import Batching, Model, OnnxModel
from builders.weights import Checkpoint, file_sha256
from personserve import Client, InvalidInputError, cut_people
from personserve.images.inputs import load_image, tensors_from_frame

MAXIMUM = 3
SMALL = Batching(max_batch_size=MAXIMUM, opt_batch_size=MAXIMUM)
IMPORTED = "imported_reid"
NETWORKS = (
    person_gender.MODEL,
    person_gender_gennet_recon.MODEL,
    person_gender_reid.MODEL,
    person_gender_rmnet.MODEL,
    person_reid_kd_r34.MODEL,
    person_reid_sbs_r50_ibn.MODEL,
)
PAIRS = {
    "shared": ("person_gender_reid",),
    "r50_ibn": ("person_gender", "person_reid_sbs_r50_ibn"),
    "rmnet_r34": ("person_gender_rmnet", "person_reid_kd_r34"),
    "gennet_imported": ("person_gender_gennet_recon", IMPORTED),
}


def _write_network(path: Path) -> None:
    """Write a network of 32x16 pixels that takes the mean of each row."""
    shape = ["N", 32, 16, 3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float"], ["rows"], axes=[2], keepdims=0),
            helper.make_node("Flatten", ["rows"], ["feat"]),
        ],
        "rows",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("feat", TensorProto.FLOAT, ["N", 96])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))


def _declare(imported: OnnxModel) -> dict[str, Declaration]:
    """Return small networks and the ensembles of them."""
    networks: dict[str, Model | OnnxModel] = {
        model.name: replace(model, batching=SMALL) for model in NETWORKS
    }
    networks[IMPORTED] = replace(imported, batching=SMALL)
    roles = {f"{IMPORTED}.feat": "embedding"}
    ensembles = [
        frame_ensemble(
            name,
            [networks[each] for each in names],
            roles=roles if IMPORTED in names else None,
        )
        for name, names in PAIRS.items()
    ]
    crops = crops_ensemble("shared_crops", [networks["person_gender_reid"]])
    return with_python_models([*networks.values(), *ensembles, crops])


@pytest.fixture(scope="module")
def served(
    repository: Repository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A server of the pairs, whose repository is a copy."""
    folder = tmp_path_factory.mktemp("pairs")
    own = Repository(folder / "models")
    for model in NETWORKS:
        shutil.copytree(
            repository.folder(model.name),
            own.folder(model.name),
            copy_function=os.link,  # 500 MB, which nothing writes to
            ignore=shutil.ignore_patterns("*.pbtxt", "*.py"),
        )
    path = folder / "rows.onnx"
    _write_network(path)
    imported = declaration_from_onnx(path, IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        for name, declaration in _declare(imported).items():
            patch.setitem(catalogue(), name, declaration)
        network = catalogue()[IMPORTED]
        assert isinstance(network, OnnxModel)
        origin = Checkpoint(str(path), file_sha256(path))
        own.set_origin(IMPORTED, origin)
        build("cpu", network, origin, own, BuildOptions())
        render_repository(own)
        names = [*PAIRS, "shared_crops"]
        with (
            TritonServer(own, models=names, ports=Ports.free(), cores=1) as server,
            Client(server.grpc_address, timeout_s=300) as client,
        ):
            yield client


def _frame(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (width, height)), np.uint8)


def _boxes(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    corner = rng.random((count, 2)) * [width / 2, height / 2]
    extent = (0.1 + rng.random((count, 2)) * 0.6) * [width, height]
    return np.hstack([corner, corner + extent]).astype(np.float32)


def _ask_alone(
    client: Client, name: str, frame: object, boxes: np.ndarray
) -> dict[str, np.ndarray]:
    """Cut in this process, and ask each network of an ensemble by itself."""
    ensemble = catalogue()[name]
    assert isinstance(ensemble, Ensemble)
    answers = {}
    for step in ensemble.steps[-len(PAIRS[name]) :]:
        description = client.describe(step.model.name)
        (tensor,) = description.inputs
        crops = cut_people(frame, boxes, description.crop_shape(tensor.name))
        outputs = client.infer(step.model.name, {tensor.name: crops})
        answers |= {step.outputs[output]: outputs[output] for output in outputs}
    return answers


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_answers_as_its_networks_do_alone(served: Client, name: str) -> None:
    for count, (height, width) in ((1, (90, 160)), (MAXIMUM, (333, 77))):
        frame = _frame(height, width, count)
        boxes = _boxes(count, height, width)
        encoded = cv2.imencode(".png", frame)[1].tobytes()
        expected = _ask_alone(served, name, frame, boxes)
        for image in (frame, encoded):
            tensors = tensors_from_frame(load_image(image, "frame"))
            answers = served.infer(name, {**tensors, "boxes": boxes})
            assert set(answers) == set(expected) >= {"female_probability", "embedding"}
            for role, values in expected.items():
                assert values.shape[0] == count
                np.testing.assert_array_equal(answers[role], values, role)
    for count in (0, MAXIMUM + 1):
        inputs = {**tensors, "boxes": np.zeros((count, 4), np.float32)}
        with pytest.raises(
            InvalidInputError, match=f"{count} boxes; expected 1 to {MAXIMUM}"
        ):
            served.infer(name, inputs)


@pytest.mark.parametrize("name", PAIRS)
def test_the_client_asks_any_pair(served: Client, name: str) -> None:
    frame = _frame(120, 200, 1)
    assert len(served.attributes(frame, [], model=name)) == 0
    boxes = _boxes(MAXIMUM + 1, 120, 200)
    people = served.attributes(frame, boxes, model=name)
    halves = [
        _ask_alone(served, name, frame, boxes[part])
        for part in (slice(0, 2), slice(2, None))
    ]
    for role, values in (
        ("female_probability", people.female_probabilities),
        ("embedding", people.embeddings),
    ):
        expected = np.concatenate([half[role] for half in halves])
        assert values is not None
        if role == "embedding":  # the imported network does not normalise
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(values.reshape(expected.shape), expected, rtol=1e-5)


def test_crops_of_a_pair_give_what_the_frame_gives(served: Client) -> None:
    frame, boxes = _frame(120, 200, 2), _boxes(2, 120, 200)
    (tensor,) = served.describe("shared_crops").inputs
    shape = served.describe("shared_crops").crop_shape(tensor.name)
    crops = cut_people(frame, boxes, shape)
    of_crops = served.infer("shared_crops", {tensor.name: crops})
    of_frame = served.infer("shared", {**tensors_from_frame(frame), "boxes": boxes})
    for role, values in of_frame.items():
        np.testing.assert_array_equal(of_crops[role], values, role)
