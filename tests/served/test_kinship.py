"""Kinship on the real server: N x M pairs at N + M passes, and 1.28 GB of weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton

from builders.build.build import build
from builders.build.source import BuildOptions
from builders.build.weights_choice import choose_weights
from builders.models import kinship_compact
from builders.repository.layout import ROOT, Repository
from builders.repository.render import render_repository
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.verify.reference import ReferenceAnswers
from builders.weights import stand_in_weights, write_checkpoint
from personserve import Client, InvalidInputError
from personserve.internal.access import access_headers

NAMES = ("kinship_compact", "kinship_embedding", "kinship_pair")


@pytest.fixture(scope="module")
def kinship(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """One checkpoint, served whole and in its two parts."""
    folder = tmp_path_factory.mktemp("kinship")
    checkpoint = folder / "kinship.safetensors"
    arrays = stand_in_weights(kinship_compact.MODEL, seed=4).arrays
    write_checkpoint(checkpoint, ".safetensors", arrays)
    repository = Repository(folder / "repository")
    render_repository(repository)
    for model in models(NAMES):
        origin = choose_weights(model, repository, checkpoint, stand_in=False)
        build("cpu", model, origin, repository, BuildOptions())
    return repository


def _faces(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    sizes = rng.integers(60, 160, count).tolist()
    return [
        cv2.resize(g, (s, s), interpolation=cv2.INTER_CUBIC)
        for g, s in zip(grids, sizes, strict=True)
    ]


def _whole(faces: list[np.ndarray]) -> np.ndarray:
    rgb = [cv2.resize(face, (100, 100))[..., ::-1] for face in faces]
    return np.ascontiguousarray(np.stack(rgb))


def test_every_pair_costs_no_trunk_pass_of_its_own(kinship: Repository) -> None:
    faces_a, faces_b = _faces(100, 1), _faces(100, 2)
    with (
        TritonServer(kinship, models=NAMES, ports=Ports.free()) as server,
        Client(server.grpc_address, timeout_s=60) as client,
    ):
        statistics = triton.InferenceServerClient(server.grpc_address)
        key = access_headers("127.0.0.1", server.ports.grpc, is_grpc=True)

        def passes() -> int:
            answer = statistics.get_inference_statistics(
                "kinship_embedding", headers=key
            )
            return int(answer.model_stats[0].inference_count)

        warm = passes()
        answer = client.kinship_matrix(faces_a, faces_b)
        assert passes() - warm == 200
        statistics.close()

        assert answer.probabilities.shape == (100, 100)
        assert np.ptp(answer.probabilities) > 1e-3, "pairs must differ"
        assert answer.stand_in_weights == ()
        for row in (0, 57):
            pairs = client.infer(
                "kinship_compact",
                {
                    "face_a": np.repeat(_whole(faces_a[row : row + 1]), 60, axis=0),
                    "face_b": _whole(faces_b[:60]),
                },
            )
            np.testing.assert_allclose(
                answer.probabilities[row, :60],
                pairs["related_probability"][:, 0],
                rtol=1e-4,
                atol=1e-5,
            )
        assert client.kinship_matrix([], faces_b).probabilities.shape == (0, 100)
        with pytest.raises(InvalidInputError, match=r"face 1: cannot read face\.jpg"):
            client.kinship_matrix([faces_a[0], "face.jpg"], faces_b)  # type: ignore[list-item]


LARGE = """
import math
import sys
from pathlib import Path
import numpy as np
from builders.build import cpu
from builders.build.build import build
from builders.spec.catalogue import models
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.verify.verification import verify_artefact
from builders.weights import StandIn, standin

# to draw 320 million values takes 15 s: these repeat the first million
draw = standin._draw_normal
standin._draw_normal = lambda rng, std, shape: np.resize(
    draw(rng, std, (min(math.prod(shape), 1 << 20),)), shape
)
# the build has computed the reference: kept, because to compute it again takes as long
compute, checks = cpu.compute_reference, []
cpu.compute_reference = lambda *inputs: checks.append(compute(*inputs)) or checks[0]

(model,), repository = models(["kinship_concat"]), Repository(Path(sys.argv[1]))
render_repository(repository)
build("cpu", model, StandIn(), repository)
(check,) = checks
check.save(Path(sys.argv[2]))
assert all(m.passed for m in verify_artefact(model, repository, "cpu", None, check))
# not getrusage: its figure survives exec, so that it would be this test run's own
status = Path("/proc/self/status").read_text()
print(status.partition("VmHWM:")[2].split()[0])
"""
LIMIT_KIB = 8 << 20


def test_the_large_network_builds_verifies_and_serves_within_8_gib(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", LARGE, str(tmp_path / "r"), str(tmp_path / "c")]
    done = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    assert int(done.stdout) < LIMIT_KIB
    check = ReferenceAnswers.load(tmp_path / "c")
    with (
        TritonServer(
            Repository(tmp_path / "r"), models=["kinship_concat"], ports=Ports.free()
        ) as server,
        Client(server.grpc_address, timeout_s=120) as client,
    ):
        served = client.infer("kinship_concat", check.inputs)
        assert server.pid is not None
        assert _session_peak_kib(server.pid) < LIMIT_KIB
    for name, answer in check.answers.items():
        np.testing.assert_allclose(served[name], answer, rtol=1e-3, atol=1e-5)


def _session_peak_kib(session: int) -> int:
    """The sum of the largest resident sizes of all processes of a session."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                text = (folder / "status").read_text()
                total += int(text.partition("VmHWM:")[2].split()[0])
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return total
