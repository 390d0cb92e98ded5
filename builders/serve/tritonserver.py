"""The real tritonserver on a model repository: choose, check, start, stop.

A tritonserver on PATH (NVIDIA's container) is used as it is. Otherwise it is the one
in the nvidia-pytriton wheel, see builders/serve/wheel.py.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from builders.progress import Progress, no_progress
from builders.repository.config import config_name
from builders.repository.layout import Repository
from builders.repository.render import render_for_cores
from builders.repository.runtimes.admission import METRICS_VARIABLE
from builders.repository.runtimes.deadlines import table_path
from builders.serve.access import ServerTls
from builders.serve.draining import (
    list_python_processes,
    unload_models,
    wait_for_exit,
)
from builders.serve.endpoints import LOOPBACK, Endpoints, Ports
from builders.serve.errors import ServeError
from builders.serve.launching import start_process
from builders.serve.log_file import describe_failure
from builders.serve.probes import Canaries, Probe
from builders.serve.processes import describe_exit, list_session
from builders.serve.resources import (
    check_memory,
    check_shared_memory,
    cuda_pool_bytes,
    instance_shm_bytes,
    usable_cores,
)
from builders.serve.selection import choose_models, with_steps
from builders.serve.wheel import (
    check_wheel,
    prepare_backends,
    tritonserver_path,
    wheel_environment,
)
from builders.spec.ensemble import Declaration, Ensemble
from personserve.internal.access import generate_access_key, published_access_key
from personserve.internal.machine import gpu_names

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LOOPBACK", "Ports", "ServeError", "TritonServer"]

START_TIMEOUT_S = 300.0

DRAIN_TIMEOUT_S = 20
"""Time that a server has for the requests in flight when it is stopped."""

EXIT_TIMEOUT_S = 5.0
"""Further time to unload the models."""

READY_TIMEOUT_S = 2.0


@dataclass
class TritonServer:
    """A tritonserver process on a repository, as a context manager.

    Attributes:
        repository: The model repository.
        target: Target to serve, for example "cpu".
        models: Models to load; empty for all that are built for the target.
        host: Address to listen on.
        ports: Ports to listen on.
        arguments: Further arguments for tritonserver.
        log: File for the server's log; a temporary one if None.
        cores: CPU cores to use, one instance of each model per core; None for all
            that this process may use.
        exposed: Whether another host than the loopback is allowed without TLS and
            authentication.
        http: Whether the HTTP endpoint is on; see Endpoints.
        tls: Certificate of the gRPC endpoint; None for plain text.
        token: Token that clients must send; None for no token.
        drain_timeout_s: Time for the requests in flight when the server is stopped.
        loaded: Names of the models that the server loads.
        missing: Names of the models that are not built for the target.

    Raises:
        ServeError: No network is built, or one of `models` is unknown or not built.
    """

    repository: Repository
    target: str = "cpu"
    models: Sequence[str] = ()
    host: str = LOOPBACK
    ports: Ports = field(default_factory=Ports)
    arguments: Sequence[str] = ()
    log: Path | None = None
    cores: int | None = None
    exposed: bool = False
    http: bool = False
    tls: ServerTls | None = None
    token: str | None = None
    drain_timeout_s: int = DRAIN_TIMEOUT_S

    def __post_init__(self) -> None:
        self._endpoints = Endpoints(
            self.host, self.ports, self.http, self.tls, self.token, self.exposed
        )
        self._cores = self.cores or usable_cores()
        self.loaded, self.missing = choose_models(
            self.repository, self.target, self.models
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._kept_folder: Path | None = None
        self._key = ""
        self._cleanup = ExitStack()

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC endpoint."""
        return f"{self.host}:{self.ports.grpc}"

    @property
    def http_address(self) -> str:
        """host:port of the HTTP endpoint.

        Raises:
            ServeError: HTTP is off.
        """
        if not self.http:
            raise ServeError("HTTP is off: pass http=True, or --http")
        return f"{self.host}:{self.ports.http}"

    @property
    def metrics_address(self) -> str:
        """host:port of Triton's metrics."""
        host, port = self._endpoints.listening["metrics"]
        return f"{host}:{port}"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None while it is not running."""
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

    def start(
        self,
        timeout_s: float = START_TIMEOUT_S,
        *,
        cancel: threading.Event | None = None,
        progress: Progress = no_progress,
    ) -> None:
        """Start the server and wait until every model is ready.

        Args:
            timeout_s: Seconds to wait.
            cancel: Ends the start when set.
            progress: Called with the current work.

        Raises:
            ServeError: The server cannot start, was not ready in time, or the start
                was cancelled.
        """
        progress("checking the machine")
        self._endpoints.check()
        self._endpoints.check_ports()
        self._check_machine()
        self._folder = tempfile.TemporaryDirectory(prefix="personserve-")
        try:
            self._key = generate_access_key()
            command, environment = self.command(self._key)
            ports = [port for _, port in self._endpoints.listening.values()]
            self._cleanup.enter_context(published_access_key(self._key, ports))
            with self.log_path.open("wb") as log:
                self._process = start_process(command, environment, log)
            self._wait_until_ready(self._process, timeout_s, cancel, progress)
        except BaseException:
            self.stop(0)
            raise

    @property
    def exit_code(self) -> int | None:
        """Exit code of the server, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    def open_probe(self) -> Probe:
        """Connect to the health calls of the running server."""
        return self._endpoints.open_probe(self._key)

    def open_canaries(self) -> Canaries | None:
        """Connect for canaries of the loaded models; None if no model suits."""
        address, headers = self._endpoints.local_client(self._key)
        return Canaries(address, self._list_steps, headers, self.list_pids)

    def list_pids(self) -> list[int]:
        """Return the processes of the server's session."""
        return [each.pid for each in list_session(self.pid)]

    def wait(self) -> int:
        """Block until the server ends by itself, and return its exit code."""
        return 0 if self._process is None else self._process.wait()

    def stop(
        self, timeout_s: float | None = None, *, abort: threading.Event | None = None
    ) -> None:
        """Stop the server, and remove its shared memory.

        The server takes no new requests and answers those in flight (see draining).
        SIGKILL follows, at once if this call is interrupted.

        Args:
            timeout_s: Seconds until SIGKILL; None for `drain_timeout_s` and some time
                to unload the models, 0 for SIGKILL alone.
            abort: Has SIGKILL follow at once when set.
        """
        if timeout_s is None:
            timeout_s = self.drain_timeout_s + EXIT_TIMEOUT_S
        process, self._process = self._process, None
        try:
            if process is not None and timeout_s and process.poll() is None:
                self._drain(process, timeout_s, abort or threading.Event())
        finally:
            if process is not None:
                # its Python stubs share its session
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                for region in Path("/dev/shm").glob(f"{self._shm_prefix}*"):
                    region.unlink(missing_ok=True)
                table_path(process.pid).unlink(missing_ok=True)
            self._cleanup.close()
            folder, self._folder = self._folder, None
            if folder is not None:
                folder.cleanup()

    def _drain(
        self,
        process: subprocess.Popen[bytes],
        timeout_s: float,
        abort: threading.Event,
    ) -> None:
        deadline = time.monotonic() + timeout_s
        known = self.repository.declarations()
        ensembles = [each for each in self.loaded if isinstance(known[each], Ensemble)]
        had_python = bool(list_python_processes(process.pid))
        probe = self.open_probe()
        try:
            drain_s = max(timeout_s - EXIT_TIMEOUT_S, timeout_s / 2)
            unload_models(probe, ensembles, process.pid, drain_s, abort)
        finally:
            probe.close()
        process.terminate()
        wait_for_exit(
            process, deadline - time.monotonic(), abort, had_python=had_python
        )

    def describe_failure(self, *, at_start: bool = False) -> str:
        """Keep the log of a failed run; its last lines and the name of the copy.

        Args:
            at_start: Whether the server was starting.
        """
        if self.log is not None:
            copy = self.log.with_name(f"{self.log.name}.previous")
        else:
            if self._kept_folder is None:
                self._kept_folder = Path(tempfile.mkdtemp(prefix="personserve-log-"))
            copy = self._kept_folder / self.log_path.name
        return describe_failure(self.log_path, copy, at_start=at_start)

    @property
    def log_path(self) -> Path:
        """File of the server's log; a temporary one lives until the server stops."""
        folder = tempfile.gettempdir() if self._folder is None else self._folder.name
        return self.log or Path(folder) / "tritonserver.log"

    @property
    def _shm_prefix(self) -> str:
        return f"personserve_{os.getpid()}_{self.ports.grpc}_"

    def command(self, access_key: str) -> tuple[list[str], dict[str, str]]:
        """Return the server's command line and the environment variables to add.

        Renders the instance counts of this machine into the repository first.

        Args:
            access_key: Key that the restricted endpoints demand.

        Raises:
            ServeError: There is no tritonserver, or its wheel does not work here.
        """
        if " " in str(self.repository.root):
            raise ServeError(
                f"the repository's path has a space ({self.repository.root}), and "
                "Triton's Python backend exits silently on such a path; move the "
                "repository"
            )
        on_path = shutil.which("tritonserver")
        environment: dict[str, str] = {}
        command = [on_path or str(tritonserver_path())]
        if not on_path:
            check_wheel()
            environment = wheel_environment()
            command.append(f"--backend-directory={prepare_backends()}")
        command += [
            f"--model-repository={self.repository.root}",
            f"--model-config-name={self._config_name()}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self.loaded),
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            f"--backend-config=python,shm-default-byte-size={self._shm_bytes()}",
            f"--exit-timeout-secs={self.drain_timeout_s}",
            *self._cuda_pools(),
            *self._endpoints.arguments(access_key),
            *self.arguments,
        ]
        # the preprocessing model reads how many requests wait for the networks
        # a __pycache__ in its folder makes Triton reload a model with its ensemble
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        environment[METRICS_VARIABLE] = f"http://{self.metrics_address}/metrics"
        return command, environment

    def _served_declarations(self) -> list[Declaration]:
        """Return the loaded models, in the variants that the repository serves."""
        known = self.repository.declarations()
        return [known[name] for name in with_steps(self.loaded, known)]

    def _list_steps(self) -> list[Declaration]:
        served = self._served_declarations()
        return [each for each in served if not isinstance(each, Ensemble)]

    def _shm_bytes(self) -> int:
        declarations = self._served_declarations()
        return instance_shm_bytes(declarations, self.target)

    def _cuda_pools(self) -> list[str]:
        """Return the options for Triton's memory pool on each GPU of the machine."""
        size = cuda_pool_bytes(self._served_declarations(), self.target)
        gpus = range(len(gpu_names())) if size else range(0)
        return [f"--cuda-memory-pool-byte-size={gpu}:{size}" for gpu in gpus]

    def _config_name(self) -> str:
        """Render this machine's instance counts; the name of that configuration."""
        try:
            render_for_cores(self.repository, self._cores)
        except OSError as exc:
            if exc.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise
            # a repository that cannot be written serves its committed counts, or
            # those that were rendered for this machine before
            name = config_name(self.target, self._cores)
            return name if self._has_config(name) else self.target
        return config_name(self.target, self._cores)

    def _has_config(self, name: str) -> bool:
        folders = (self.repository.folder(model) for model in with_steps(self.loaded))
        return any(
            (folder / "configs" / f"{name}.pbtxt").is_file() for folder in folders
        )

    def command_text(self) -> str:
        """Return the server's command as text for a shell, with a new access key."""
        command, environment = self.command(generate_access_key())
        variables = [f"{k}={shlex.quote(v)}" for k, v in environment.items()]
        return " \\\n  ".join([*variables, *(shlex.quote(word) for word in command)])

    def _check_machine(self) -> None:
        declarations = self._served_declarations()
        check_shared_memory(declarations, self.target, self._cores)
        check_memory(declarations, self.repository, self.target, self._cores)

    def _wait_until_ready(
        self,
        process: subprocess.Popen[bytes],
        timeout_s: float,
        cancel: threading.Event | None,
        progress: Progress,
    ) -> None:
        cancel = cancel or threading.Event()
        deadline = time.monotonic() + timeout_s
        probe = self.open_probe()
        try:
            while time.monotonic() < deadline:
                progress(f"loading {len(with_steps(self.loaded))} models")
                code = process.poll()
                if code is not None:
                    raise ServeError(
                        f"tritonserver {describe_exit(code)} while starting:\n"
                        + self.describe_failure(at_start=True)
                    )
                if probe.ask("ready", READY_TIMEOUT_S):
                    return
                if cancel.wait(0.1):
                    raise ServeError("the start was cancelled")
        finally:
            probe.close()
        raise ServeError(
            f"tritonserver was not ready within {timeout_s:g} s:\n"
            + self.describe_failure()
        )
