"""The client in an environment of its own, with NumPy 2, against the same server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from builders.repository.layout import ROOT
from builders.serve.tritonserver import TritonServer
from personserve import Client

BOXES = [[10, 20, 200, 400], [150, 0, 400, 512]]

PROGRAM = """
import sys
import numpy as np
from personserve import Client

address, frame, output = sys.argv[1:]
assert np.__version__.startswith("2."), np.__version__
with Client(address, timeout_s=60) as client:
    people = client.attributes(np.load(frame), %r)
    client.attributes_of_crops([np.load(frame)])
np.save(output, people.embeddings)
"""


def test_the_client_works_with_numpy_2(
    server: TritonServer, client: Client, photograph: np.ndarray, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    # this environment's pip installs into it: a pip of its own takes seconds
    venv = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(venv, check=True)
    python = str(environment / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    install += ["--no-compile", str(ROOT), "numpy>=2,<3"]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"pip cannot install NumPy 2 here: {installed.stderr[-200:]}")

    frame, output = tmp_path / "frame.npy", tmp_path / "embeddings.npy"
    np.save(frame, photograph)
    arguments = [server.grpc_address, str(frame), str(output)]
    subprocess.run([python, "-c", PROGRAM % BOXES, *arguments], check=True)
    ours = client.attributes(photograph, BOXES).embeddings
    np.testing.assert_array_equal(np.load(output), ours)
