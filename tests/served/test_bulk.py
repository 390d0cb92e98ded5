"""An archive, answered by the real server and by the built networks in the worker."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from builders.repository.layout import Repository
from builders.serve.tritonserver import TritonServer
from personserve import Client, ModelUnavailableError
from personserve.bulk import answer_archive, open_deployed_client, read_answers

PEOPLE = 10
BOXES = [[0, 0, 90, 200]]


@pytest.fixture(scope="module")
def crops(photograph: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for index in range(PEOPLE):
        y, x = rng.integers(0, 200, 2)
        cv2.imwrite(str(folder / f"{index}.png"), photograph[y : y + 300, x : x + 120])
    return folder


def test_the_rows_of_both_back_ends_are_the_answers_of_the_server(
    server: TritonServer,
    client: Client,
    repository: Repository,
    crops: Path,
    tmp_path: Path,
) -> None:
    by_server = partial(Client, server.grpc_address, timeout_s=120)
    answer_archive([str(crops)], tmp_path / "served", by_server)
    deployed = partial(open_deployed_client, repository.root)
    answer_archive([str(crops)], tmp_path / "deployed", deployed)
    served = read_answers(tmp_path / "served")
    assert len(served) == PEOPLE
    assert served.equals(read_answers(tmp_path / "deployed"))
    images = [cv2.imread(path) for path in served["source"].to_pylist()]
    people = client.attributes_of_crops(images)
    embeddings = np.array(served["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(embeddings, people.embeddings)
    probabilities = np.array(served["female_probability"].to_pylist(), np.float32)
    np.testing.assert_array_equal(probabilities, people.female_probabilities)
    assert "person_reid_kd_r18 (stand-in" in served["weights"][0].as_py()


def test_a_network_and_what_needs_the_server(
    repository: Repository, photograph: np.ndarray
) -> None:
    with open_deployed_client(repository.root) as client:
        people = client.attributes_of_crops([photograph], model="person_gender")
        assert people.female_probabilities is not None
        with pytest.raises(ModelUnavailableError, match="on a server only"):
            client.attributes(photograph, BOXES)
        assert len(client.attributes(photograph, BOXES, crop_on="client")) == 1
        with pytest.raises(ModelUnavailableError, match="has no model 'nothing'"):
            client.describe("nothing")
