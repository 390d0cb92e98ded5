"""The systems to compare: this process, our server, baselines, and other servers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from loadtest.baselines import requests
from loadtest.baselines.endpoints import Endpoint, describe_tensors, open_sender
from loadtest.baselines.in_process import GENDER, Networks
from loadtest.baselines.jobs import Job, Send, make_jobs
from loadtest.baselines.work import environment_from_networks
from loadtest.errors import LoadTestError
from loadtest.machine import find_listening_process, process_tree
from loadtest.measurements import transport_name
from personserve import Client

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
"""After it, processes are killed: LitServe's do not end when their parent does."""

RETRY_INTERVAL_S = 0.3

PERSONSERVE, SDK, IN_PROCESS = "personserve", "personserve, its SDK", "in process"


@dataclass(frozen=True)
class Baseline:
    """A server to compare with.

    Attributes:
        module: Module of loadtest.baselines that starts it.
        distribution: Its package, whose version the report names.
        make_sender: Returns how jobs are sent to an HTTP address.
        http_offset: Its HTTP port, counted from the port that it is started with.
    """

    module: str
    distribution: str
    make_sender: Callable[[str], Send] = requests.make_plain_sender
    http_offset: int = 0


BASELINES = {
    "FastAPI": Baseline("fastapi_server", "fastapi"),
    "LitServe": Baseline("litserve_server", "litserve", requests.make_base64_sender),
    "mosec": Baseline("mosec_server", "mosec"),
    "pytriton": Baseline(
        "pytriton_server", "nvidia-pytriton", requests.make_pytriton_sender, 1
    ),
}


@dataclass(frozen=True)
class System:
    """A running system.

    Attributes:
        name: Its name in reports.
        send: Sends a job to it.
        processes: Returns its processes.
        transport: How jobs travel to it.
        takes: Whether it can do a job.
    """

    name: str
    send: Send
    processes: Callable[[], list[psutil.Process]]
    transport: str = transport_name("http", None)
    takes: Callable[[Job], bool] = lambda _job: True


@contextmanager
def running_system(
    name: str,
    networks: Networks,
    grpc: str,
    http: str,
    endpoints: Mapping[str, Endpoint],
    frame_model: str,
) -> Iterator[System]:
    """Provide a system, and stop it afterwards if it was started here.

    Args:
        name: IN_PROCESS, PERSONSERVE, SDK, or a name of BASELINES or `endpoints`.
        networks: The networks in this process; a baseline server opens the same.
        grpc: gRPC address of our running server, host:port.
        http: HTTP address of our running server, host:port.
        endpoints: Running servers of others, by name.
        frame_model: Name of the model of our server that takes frames.

    Raises:
        LoadTestError: If a baseline does not start, or a server is not running.
    """
    gender_model = networks.specs[GENDER].model
    if name == IN_PROCESS:
        run = partial(Job.run, networks=networks)
        yield System(name, run, lambda: [psutil.Process()], "none")
    elif name == PERSONSERVE:
        processes = partial(process_tree, find_listening_process(grpc))
        send = requests.make_personserve_sender(http, frame_model, gender_model)
        yield System(name, send, processes)
    elif name == SDK:
        processes = partial(process_tree, find_listening_process(grpc))
        timeout_s = requests.REQUEST_TIMEOUT_S
        with Client(f"grpc://{grpc}", timeout_s=timeout_s) as client:
            send = requests.make_sdk_sender(client, frame_model, gender_model)
            yield System(name, send, processes, transport_name("grpc", None))
    elif name in endpoints:
        with _connect_endpoint(endpoints[name]) as system:
            yield system
    else:
        with _start_baseline(name, networks) as system:
            yield system


@contextmanager
def _connect_endpoint(endpoint: Endpoint) -> Iterator[System]:
    def list_processes() -> list[psutil.Process]:
        try:
            return process_tree(find_listening_process(endpoint.address))
        except LoadTestError:
            return []  # on another machine

    tensors = describe_tensors(endpoint)
    transport = transport_name(endpoint.protocol, None)
    with open_sender(endpoint, tensors) as send:
        yield System(endpoint.name, send, list_processes, transport, tensors.takes)


@contextmanager
def _start_baseline(name: str, networks: Networks) -> Iterator[System]:
    baseline = BASELINES[name]
    port = _find_free_port()
    environment = environment_from_networks(networks)
    with _running_process(baseline.module, port, environment) as process:
        send = baseline.make_sender(f"127.0.0.1:{port + baseline.http_offset}")
        _wait_for_first_result(name, process, partial(send, make_jobs(1, networks)[0]))
        yield System(name, send, partial(process_tree, process))


@contextmanager
def _running_process(
    module: str, port: int, environment: Mapping[str, str]
) -> Iterator[psutil.Process]:
    """Run a baseline's module, and end all processes that it started."""
    environment = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(ROOT),
        # pytriton's stub must load this Python's library, not the system's
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
    }
    command = [sys.executable, "-m", f"loadtest.baselines.{module}", str(port)]
    with (
        tempfile.TemporaryDirectory() as folder,  # LitServe writes an example client
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child,
    ):
        process = psutil.Process(child.pid)
        try:
            yield process
        finally:
            _end_processes(child, [process, *process.children(recursive=True)])


def _end_processes(
    child: subprocess.Popen[bytes], processes: list[psutil.Process]
) -> None:
    child.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)
    for process in alive:
        process.kill()
    # pytriton leaves its tensors' shared memory behind; the spelling is pytriton's
    for process in processes:
        for path in Path("/dev/shm").glob(f"pytrtion{process.pid}-*"):
            path.unlink()


def _wait_for_first_result(
    name: str, process: psutil.Process, send: Callable[[], object]
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            send()
        except requests.RequestError as exc:
            # a process that has ended is a zombie until its parent waits for it
            ended = process.status() == psutil.STATUS_ZOMBIE
            if ended or time.monotonic() > deadline:
                raise LoadTestError(
                    f"{name} does not start ({exc}); are the packages installed? "
                    'pip install -e ".[compare]"'
                ) from exc
            time.sleep(RETRY_INTERVAL_S)
        else:
            return


def _find_free_port() -> int:
    """Return a port that is free at the moment; the next two usually are as well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
