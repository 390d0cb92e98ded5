"""A stock tritonserver, started as model_repository/README.md says."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from builders.repository.layout import ROOT, Repository
from builders.serve.processes import list_session
from builders.serve.tritonserver import LOOPBACK, Ports
from builders.serve.wheel import prepare_backends, tritonserver_path, wheel_environment
from builders.spec.catalogue import catalogue
from personserve import Client

COMMAND = re.compile(r"^tritonserver (.*)$", re.MULTILINE)
START_TIMEOUT_S = 600


def _documented_arguments(config_name: str) -> list[str]:
    """Arguments of the documented command with this `--model-config-name`."""
    page = (ROOT / "model_repository" / "README.md").read_text(encoding="utf-8")
    commands = [shlex.split(text) for text in COMMAND.findall(page)]
    (arguments,) = [c for c in commands if f"--model-config-name={config_name}" in c]
    return arguments


@contextmanager
def _started(arguments: list[str], log: Path) -> Iterator[tuple[int, Ports]]:
    ports = Ports.free()
    command = [
        *(str(tritonserver_path()), f"--backend-directory={prepare_backends()}"),
        *(f"--{name}-port={port}" for name, port in vars(ports).items()),
        *(f"--{name}-address={LOOPBACK}" for name in vars(ports)),
        *arguments,
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env=os.environ | wheel_environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, ports, log)
        yield process.pid, ports
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)


def _wait_until_ready(
    process: subprocess.Popen[bytes], ports: Ports, log: Path
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(
                f"http://{LOOPBACK}:{ports.http}/v2/health/ready", timeout=2
            ) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"not ready: {log.read_text(errors='replace')[-3000:]}")


def test_a_stock_server_loads_the_whole_repository(
    repository: Repository, photograph: np.ndarray, tmp_path: Path
) -> None:
    arguments = [
        word.replace("=model_repository", f"={repository.root}")
        for word in _documented_arguments("cpu")
    ]
    assert not any("model-control-mode" in word for word in arguments)
    with (
        _started(arguments, tmp_path / "log") as (server, ports),
        Client(f"{LOOPBACK}:{ports.grpc}", timeout_s=60) as client,
    ):
        states = {model.name: model.ready for model in client.models()}
        expected = {n for n, d in catalogue().items() if repository.is_deployed(d)}
        assert set(states) == expected
        assert all(states.values()), states
        people = client.attributes(photograph, [[20, 5, 500, 512]])
        assert people.embeddings.shape == (1, 512)
        live = f"http://{LOOPBACK}:{ports.http}/v2/health/live"
        assert _probe(live, server) == (0, "")
        stub = next(p.pid for p in list_session(server) if p.pid != server)
        os.kill(stub, signal.SIGKILL)
        text = f"dead Python-backend processes: [{stub}]; restart the server\n"
        assert _probe(live, server) == (1, text)
        assert client.ready(), "Triton's own health calls do not notice"
        os.killpg(server, signal.SIGKILL)  # it would wait for the dead process


def test_the_liveness_probe_demands_an_answer() -> None:
    code, text = _probe("http://127.0.0.1:9/v2/health/live", os.getpid())
    assert code == 1
    assert "Connection refused" in text


def _probe(url: str, session: int) -> tuple[int, str]:
    """Run the liveness probe of model_repository/README.md."""
    script = ROOT / "model_repository" / "liveness.py"
    done = subprocess.run(
        [sys.executable, "-I", str(script), "--session", str(session), url],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stderr


def test_the_gpu_configuration_has_a_file_for_every_model(
    repository: Repository,
) -> None:
    """Without a GPU: each default config names a file that some build writes."""
    named = re.compile(r'default_model_filename: "(.*)"')
    for path in repository.root.glob("*/config.pbtxt"):
        text = path.read_text(encoding="utf-8")
        files = named.findall(text) or ["model.py" if "backend:" in text else ""]
        assert files[0] in {"model.plan", "model.py", "gpu_model.py", ""}, path
        if files[0].endswith(".py"):
            assert (path.parent / "1" / files[0]).is_file(), path
        assert (path.parent / "1").is_dir(), path


def test_serve_print_gives_a_command_that_works(
    repository: Repository, tmp_path: Path
) -> None:
    from builders.serve.tritonserver import TritonServer

    ports = Ports.free()
    server = TritonServer(
        repository, models=["person_gender"], ports=ports, cores=1, http=True
    )
    text = server.command_text()
    assert "--model-config-name=cpu-1" in text
    config = repository.folder("person_gender") / "configs" / "cpu-1.pbtxt"
    assert "count: 1" in config.read_text(encoding="utf-8")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {text}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, ports, tmp_path / "log")
        address = f"http://{LOOPBACK}:{ports.http}/v2/models/person_gender/config"
        with urllib.request.urlopen(address, timeout=120) as response:
            groups = json.load(response)["instance_group"]
        assert [group["count"] for group in groups] == [1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)
