"""An imported file of torchreid's convention and OSNet x0.25, on the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.build.build import build
from builders.build.onnx_import import declaration_from_onnx
from builders.build.onnx_pixels import PIXEL_FORMATS
from builders.build.source import BuildOptions
from builders.models.person_reid_osnet_x0_25 import MODEL as OSNET
from builders.repository.frame_ensembles import frame_ensemble
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import catalogue, with_python_models
from builders.verify.inputs import seeded_inputs
from builders.weights import Checkpoint, file_sha256
from personserve import Client, cut_people
from personserve.gallery import MemoryGallery
from tests.onnx_files import SIZE_HW, export_reid, run_original, torchreid_pixels
from tests.references import random_reference

IMPORTED, ENSEMBLE = "my_reid", "my_people"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The imported file, and a checkpoint as torchreid saves it, all weights random."""
    folder = tmp_path_factory.mktemp("files")
    paths = {IMPORTED: folder / "reid.onnx", OSNET.name: folder / "osnet.pth"}
    export_reid(paths[IMPORTED], names=("input", "output"))
    state = random_reference(OSNET.name).state_dict()
    data = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 60}
    torch.save(data, paths[OSNET.name])
    return paths


@pytest.fixture(scope="module")
def client(
    files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    own = Repository(tmp_path_factory.mktemp("imported"))
    imported = declaration_from_onnx(
        files[IMPORTED], IMPORTED, PIXEL_FORMATS["imagenet"][0]
    )
    roles = {f"{IMPORTED}.output": "embedding"}
    ensemble = frame_ensemble(ENSEMBLE, [imported], roles=roles)
    with pytest.MonkeyPatch.context() as patch:
        for name, declaration in with_python_models([imported, ensemble]).items():
            patch.setitem(catalogue(), name, declaration)
        for network in (imported, OSNET):
            path = files[network.name]
            origin = Checkpoint(str(path), file_sha256(path))
            build("cpu", network, origin, own, BuildOptions())
        render_repository(own)
        names = [IMPORTED, ENSEMBLE, OSNET.name]
        with (
            TritonServer(own, models=names, ports=Ports.free(), cores=1) as server,
            Client(server.grpc_address, timeout_s=300) as client,
        ):
            yield client


def test_osnet_answers_like_its_reference(client: Client) -> None:
    inputs = seeded_inputs(OSNET)
    module = random_reference(OSNET.name)
    with torch.inference_mode():
        expected = module(torch.from_numpy(inputs["crops"]))["embedding"].numpy()
    served = client.infer(OSNET.name, inputs)["embedding"]
    np.testing.assert_allclose(served, expected, rtol=1e-3, atol=1e-4)


def test_an_imported_file_answers_like_itself(
    client: Client, files: dict[str, Path], photograph: np.ndarray
) -> None:
    boxes = np.array([[60, 0, 400, 500], [0, 0, 90, 200], [200, 100, 300, 400]])
    height, width = SIZE_HW
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (5, height, width, 3), dtype=np.uint8)
    served = client.infer(IMPORTED, {"input": crops})["output"]
    expected = run_original(files[IMPORTED], crops, torchreid_pixels)
    np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-4)

    cut = cut_people(photograph, boxes, client.describe(IMPORTED).crop_shape("input"))
    expected = run_original(files[IMPORTED], cut, torchreid_pixels)
    people = client.attributes(photograph, boxes, model=ENSEMBLE)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    # the client's embeddings have unit length, whatever the network's have
    np.testing.assert_allclose(people.embeddings, unit, rtol=1e-4, atol=1e-5)

    gallery = MemoryGallery()
    gallery.add(["a", "b", "c"], people)
    found = {match.id: match.similarity for match in gallery.search(people[0])}
    cosines = dict(zip("abc", unit @ unit[0], strict=True))
    assert found == pytest.approx(cosines, abs=1e-4)
