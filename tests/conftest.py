"""What all tests share: one built repository and one real tritonserver a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from builders.build import BuildOptions, build, build_joints, render
from builders.catalogue import models
from builders.repository import ROOT, Repository
from builders.server import Ports, TritonServer
from builders.weights import StandIn
from personserve import Client

VIDEO = ROOT.parent / "shared" / "data" / "vtest.avi"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository of its own, built for the CPU from stand-in weights."""
    repository = Repository(tmp_path_factory.mktemp("repository"))
    render(repository)
    for model in models():
        build("cpu", model, StandIn(), repository, BuildOptions(), lambda _: None)
    build_joints(repository)
    return repository


@pytest.fixture(scope="session")
def server(repository: Repository) -> Iterator[TritonServer]:
    """The real tritonserver on it."""
    with TritonServer(repository, ports=Ports.free()) as server:
        yield server


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    with Client(server.grpc_address, timeout_s=120) as client:
        yield client


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real picture, UINT8 [512, 512, 3] BGR."""
    return cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)


@pytest.fixture(scope="session")
def video() -> Path:
    if not VIDEO.is_file():
        pytest.skip(f"{VIDEO.name} is not beside the checkout (../shared/data)")
    return VIDEO
