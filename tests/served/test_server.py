"""Starting and stopping the real server, and what it refuses in words beforehand."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.serve import resources, tritonserver, wheel
from builders.serve.tritonserver import Ports, ServeError, TritonServer
from tests.serve_command import serving


def test_a_path_with_a_space_is_refused_in_words(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "my models")
    render_repository(repository)
    server = TritonServer(repository, models=["person_preprocess"], ports=Ports.free())
    with pytest.raises(ServeError, match=r"has a space .*my models"):
        server.start()


def test_it_leaves_no_process_and_no_shared_memory(repository: Repository) -> None:
    server = TritonServer(repository, models=["person_attributes"], ports=Ports.free())
    with server:
        pid = server.pid
        assert pid is not None
        assert list(Path("/dev/shm").glob(f"{server._shm_prefix}*"))
    assert not list(Path("/dev/shm").glob(f"{server._shm_prefix}*"))
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_a_port_in_use(repository: Repository) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = Ports(http=port, grpc=Ports.free().grpc)
        with pytest.raises(ServeError, match=f"http port {port} .*--http-port"):
            TritonServer(repository, ports=ports, http=True).start()


def test_numpy_2_in_the_environment(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "version", lambda _: "2.3.1")
    with pytest.raises(ServeError, match=r"NumPy 2.3.1 .* pip install \"numpy<2\""):
        TritonServer(repository, ports=Ports.free()).start()


def test_a_python_without_stub(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = wheel.stub_path()
    monkeypatch.setattr(
        wheel, "stub_path", lambda: stub.parent.parent / "2.7" / stub.name
    )
    with pytest.raises(ServeError, match=r"no Python backend for 2.7, only for 3.10"):
        TritonServer(repository, ports=Ports.free()).start()


def test_too_little_shared_memory(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = resources.shutil.disk_usage("/dev/shm")._replace(free=1 << 20)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ServeError, match=r"/dev/shm has 1 MiB free.*--shm-size"):
        TritonServer(repository, ports=Ports.free()).start()


def test_models_that_are_not_built(tmp_path: Path) -> None:
    with pytest.raises(
        ServeError, match="not built for target cpu: person_gender; run"
    ):
        TritonServer(Repository(tmp_path), models=["person_gender"])
    with pytest.raises(ServeError, match="no model 'x'; there are"):
        TritonServer(Repository(tmp_path), models=["x"])


def test_a_model_that_does_not_load(repository: Repository, tmp_path: Path) -> None:
    own = Repository(tmp_path)
    shutil.copytree(repository.folder("person_gender"), own.folder("person_gender"))
    path = own.artefact_path("person_gender", "model.onnx")
    record = own.record(path)
    assert record is not None
    # with a record of its own: without one it would not count as built
    own.store("person_gender", "model.onnx", path.read_bytes()[:5000], record)
    with pytest.raises(ServeError, match="ended with code"):
        TritonServer(own, models=["person_gender"], ports=Ports.free()).start()


@pytest.mark.parametrize(
    ("number", "expected_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)]
)
def test_the_command_prints_endpoints_and_stops_cleanly(
    number: signal.Signals, expected_code: int, repository: Repository
) -> None:
    with serving(repository, "--log-verbose=0") as served:
        assert f"127.0.0.1:{served.ports.grpc}" in served.printed
        assert "untrained" in served.printed
        served.process.send_signal(number)
        assert served.process.stdout is not None
        last_words = served.process.stdout.read()
        assert served.process.wait() == expected_code, last_words
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", served.ports.grpc)) != 0


def test_too_little_memory(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_available_bytes", lambda: 100 << 20)
    server = TritonServer(
        repository, models=["person_attributes"], ports=Ports.free(), cores=16
    )
    with pytest.raises(ServeError, match=r"16 cores.*0\.1 GiB are available.*--cores"):
        server.start()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_repository_that_cannot_be_written_serves_its_committed_counts(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tritonserver, "render_for_cores", refuse)
    server = TritonServer(repository, models=["person_gender"], cores=3)
    command, _ = server.command("key")
    assert "--model-config-name=cpu" in command
