"""The real tritonserver on our repository: found, checked, started, stopped.

On PATH (NVIDIA's container) it is used as it is. Otherwise it is the one in the
nvidia-pytriton wheel, which needs an environment made for it: a backend folder with
the stub of the running Python, that Python's library, and its site-packages.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from builders.build import is_built
from builders.catalogue import catalogue
from builders.repository import Repository
from builders.spec import (
    ITEM_BYTES,
    Declaration,
    Ensemble,
    Network,
    PythonModel,
    Tensor,
)

if TYPE_CHECKING:
    from typing_extensions import Self

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0
BASE_SHM_BYTES = 1 << 20
"""What Triton's Python backend allocates in /dev/shm for an instance at once."""

FRAME_SHM_BYTES = 8 << 20
"""A raw 1080p frame and its boxes."""

HARMLESS = ("DCGM", "NVML", "CudaDriverHelper", "CUDA memory pool disabled")
"""Error lines that Triton prints on every machine without a GPU."""

PR_SET_PDEATHSIG = 1


class ServeError(RuntimeError):
    """The server cannot be started, or went away; says why and what to do."""


@dataclass(frozen=True)
class Ports:
    """Where the server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @classmethod
    def free(cls) -> Ports:
        """Three ports that nobody has at the moment."""
        sockets = [socket.socket() for _ in range(3)]
        try:
            for each in sockets:
                each.bind((LOOPBACK, 0))
            http, grpc, metrics = (each.getsockname()[1] for each in sockets)
        finally:
            for each in sockets:
                each.close()
        return cls(http, grpc, metrics)


@dataclass
class TritonServer:
    """A tritonserver process on `repository`, as a context manager.

    Loads what is built for `target`, or `models`; `missing` names the rest. Raises
    ServeError in words before trying what cannot work.
    """

    repository: Repository
    target: str = "cpu"
    models: Sequence[str] = ()
    host: str = LOOPBACK
    ports: Ports = field(default_factory=Ports)
    arguments: Sequence[str] = ()
    log: Path | None = None

    def __post_init__(self) -> None:
        self.loaded, self.missing = self._choose_models()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC endpoint."""
        return f"{self.host}:{self.ports.grpc}"

    @property
    def http_address(self) -> str:
        """host:port of the HTTP endpoint."""
        return f"{self.host}:{self.ports.http}"

    @property
    def pid(self) -> int | None:
        """The server's process, while there is one."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start and wait until every model answers. Raises ServeError."""
        if " " in str(self.repository.root):
            raise ServeError(
                f"the repository's path has a space ({self.repository.root}), and "
                "Triton's Python backend ends without a word at one; move it"
            )
        self._check_ports()
        self._check_shared_memory()
        self._folder = tempfile.TemporaryDirectory(prefix="personserve-")
        try:
            command, environment = self._command(Path(self._folder.name))
            log = self._log_path.open("wb")
            with log:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),  # noqa: PLW1509 - only a prctl
                )
            self._wait_until_ready(self._process, timeout_s)
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Block until the server ends by itself; its exit code."""
        return 0 if self._process is None else self._process.wait()

    def stop(self) -> None:
        """End the server and leave nothing behind: SIGTERM, then SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
            # its Python stubs share its session
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for region in Path("/dev/shm").glob(f"{self._shm_prefix}*"):
                region.unlink(missing_ok=True)
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def errors(self) -> Iterator[str]:
        """The log's error lines, without those that every GPU-less machine prints."""
        if not self._log_path.exists():
            return
        for line in self._log_path.read_text(errors="replace").splitlines():
            is_error = line.startswith("E") or "error:" in line.lower()
            if is_error and not any(word in line for word in HARMLESS):
                yield line

    @property
    def _log_path(self) -> Path:
        folder = tempfile.gettempdir() if self._folder is None else self._folder.name
        return self.log or Path(folder) / "tritonserver.log"

    @property
    def _shm_prefix(self) -> str:
        return f"personserve_{os.getpid()}_{self.ports.grpc}_"

    def _choose_models(self) -> tuple[list[str], list[str]]:
        known = catalogue()
        for name in self.models:
            if name not in known:
                raise ServeError(f"no model {name!r}; there are: {', '.join(known)}")
        wanted = list(self.models) or list(known)
        built = [n for n in wanted if is_built(known[n], self.repository, self.target)]
        missing = [name for name in wanted if name not in built]
        if not built or (self.models and missing):
            raise ServeError(
                f"not built for target {self.target}: {', '.join(missing)}; run "
                f"python -m builders build --target {self.target}"
            )
        return built, missing

    def _check_ports(self) -> None:
        for name, port in vars(self.ports).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except OSError as exc:
                    raise ServeError(
                        f"{name} port {port} on {self.host}: {exc.strerror}; stop what "
                        f"listens there or choose another with --{name}-port"
                    ) from exc

    def _check_shared_memory(self) -> None:
        known = catalogue()
        needed = sum(_shm_bytes(known[name], self.target) for name in self.loaded)
        free = shutil.disk_usage("/dev/shm").free
        if free < needed:
            raise ServeError(
                f"/dev/shm has {free >> 20} MiB free, the Python models need up to "
                f"{needed >> 20} MiB; in Docker start with --shm-size=1g, elsewhere "
                "remount: mount -o remount,size=1G /dev/shm"
            )

    def _command(self, folder: Path) -> tuple[list[str], dict[str, str]]:
        environment = dict(os.environ)
        on_path = shutil.which("tritonserver")
        binary = Path(on_path) if on_path else _pytriton() / "bin" / "tritonserver"
        command = [str(binary)]
        if not on_path:
            _check_wheel()
            environment |= _wheel_environment()
            backends = _wheel_backends(folder)
            command.append(f"--backend-directory={backends}")
        command += [
            f"--model-repository={self.repository.root}",
            f"--model-config-name={self.target}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self.loaded),
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            f"--http-address={self.host}",
            f"--grpc-address={self.host}",
            f"--metrics-address={self.host}",
            f"--http-port={self.ports.http}",
            f"--grpc-port={self.ports.grpc}",
            f"--metrics-port={self.ports.metrics}",
            *self.arguments,
        ]
        return command, environment

    def _wait_until_ready(
        self, process: subprocess.Popen[bytes], timeout_s: float
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            code = process.poll()
            if code is not None:
                lines = list(self.errors())[-5:] or ["it printed no error"]
                raise ServeError(
                    f"tritonserver ended with code {code} while starting:\n  "
                    + "\n  ".join(lines)
                )
            if _answers(f"http://{self.http_address}/v2/health/ready"):
                return
            time.sleep(0.1)
        raise ServeError(
            f"tritonserver was not ready within {timeout_s:g} s; see its log with "
            "--log FILE"
        )


def _answers(url: str) -> bool:
    # proxies of the environment have no business with the loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _shm_bytes(declaration: Declaration, target: str) -> int:
    """What `declaration` may take of /dev/shm: the tensors of one request for each
    instance of a Python model.
    """

    def size(tensors: Sequence[Tensor], n: int) -> int:
        return sum(
            n * ITEM_BYTES[t.data_type] * prod(d for d in t.shape if d > 0)
            for t in tensors
        )

    if isinstance(declaration, Ensemble):
        return 0
    if isinstance(declaration, PythonModel):
        people = int(declaration.parameters.get("max_people", "1"))
        tensors = size(declaration.output_tensors, people) + FRAME_SHM_BYTES
        return declaration.instances * (BASE_SHM_BYTES + tensors)
    batching = declaration.batching
    instances = {"cpu": batching.cpu_instances, "rtx": batching.gpu_instances}
    tensors = size(declaration.inputs, batching.maximum)
    return instances.get(target, 0) * (BASE_SHM_BYTES + tensors)


def _die_with_parent() -> Callable[[], None]:
    """Lets the kernel end the server when this process is killed."""
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _pytriton() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServeError(
            "no tritonserver on PATH and no nvidia-pytriton wheel; "
            'pip install "personserve[serve]", or run inside NVIDIA\'s container'
        )
    return Path(spec.origin).parent / "tritonserver"


def _check_wheel() -> None:
    try:
        numpy_version = version("numpy")
    except PackageNotFoundError:
        numpy_version = "0"
    if int(numpy_version.split(".")[0]) >= 2:
        raise ServeError(
            f"NumPy {numpy_version} is installed, and the wheel's Python backend was "
            "compiled for NumPy 1: tensors would be silently wrong; "
            'pip install "numpy<2"'
        )
    if not _stub().is_file():
        have = sorted(p.name for p in _stub().parent.parent.iterdir())
        raise ServeError(
            f"the wheel has no Python backend for {_stub().parent.name}, only for "
            f"{', '.join(have)}; use one of those"
        )
    if not _libpython().is_file():
        raise ServeError(
            f"{_libpython().name} is not at {_libpython().parent}, and the Python "
            "backend needs it; use a Python built with --enable-shared (Debian: "
            f"apt install libpython{_stub().parent.name})"
        )


def _stub() -> Path:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _pytriton() / "python_backend_stubs" / python / "triton_python_backend_stub"


def _libpython() -> Path:
    name = sysconfig.get_config_var("INSTSONAME") or ""
    built = Path(sysconfig.get_config_var("LIBDIR") or "") / name
    # a Python that was moved since it was built keeps its library beside it
    return built if built.is_file() else Path(sys.base_prefix) / "lib" / name


def _wheel_environment() -> dict[str, str]:
    purelib = Path(sysconfig.get_path("purelib"))
    libraries = (purelib / "nvidia_pytriton.libs", _libpython().parent)
    joined = {
        "LD_LIBRARY_PATH": [str(path) for path in libraries],
        "PATH": [str(Path(sys.executable).parent)],
        "PYTHONPATH": [str(purelib), sysconfig.get_path("platlib")],
    }
    for name, paths in joined.items():
        if name in os.environ:
            paths.append(os.environ[name])
    return {name: os.pathsep.join(paths) for name, paths in joined.items()}


def _wheel_backends(folder: Path) -> Path:
    """The wheel's backends with the running Python's stub among them."""
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (_pytriton() / "backends" / "python").iterdir():
        (backend / file.name).symlink_to(file)
    stub = backend / _stub().name
    shutil.copyfile(_stub(), stub)
    stub.chmod(0o755)
    return backend.parent


def stand_ins(repository: Repository, names: Sequence[str]) -> list[str]:
    """Which of the networks called `names` serve stand-in weights."""
    from builders.weights import StandIn

    known = catalogue()
    return [
        name
        for name in names
        if isinstance(known[name], Network)
        and isinstance(repository.origin(name), StandIn)
    ]
