"""`python -m builders serve` as a process, for tests of its start and end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from builders.repository.layout import ROOT, Repository
from builders.serve.tritonserver import Ports

MODEL = "person_gender"
PATIENCE_S = 600.0
"""Time for what takes seconds on an idle machine."""

PROGRAM = """
import sys
from pathlib import Path
from builders.commands import serving
from builders.commands.app import run
from builders.repository.layout import Repository

root = Path(sys.argv.pop(1))
serving.Repository = lambda: Repository(root)
run()
"""


@dataclass
class Serving:
    """A command that serves.

    Attributes:
        process: Its process.
        ports: Ports of the server.
        health_port: Port of the health endpoint.
        printed: What it printed until it was ready.
    """

    process: subprocess.Popen[str]
    ports: Ports
    health_port: int
    printed: str = ""

    def health(self, page: str) -> tuple[int, str]:
        """Return status and text of a page of the health endpoint."""
        url = f"http://127.0.0.1:{self.health_port}/{page}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def wait_for_drain(self) -> None:
        """Wait until the first signal was read: the kernel merges it with a second one.

        That the server is unready does not tell this, because a supervisor that a busy
        machine delays turns it unready, too.
        """
        deadline = time.monotonic() + PATIENCE_S
        while "draining" not in self.health("ready")[1]:
            assert time.monotonic() < deadline, "it drains"
            time.sleep(0.05)
        assert self.health("ready")[0] == 503


@contextmanager
def serving(repository: Repository, *arguments: str) -> Iterator[Serving]:
    """Run the command on a repository, and kill it where it still runs at the end.

    Args:
        repository: The repository.
        arguments: Further arguments of the command.
    """
    ports, health_port = Ports.free(), Ports.free().grpc
    command = [
        *(sys.executable, "-c", PROGRAM, str(repository.root)),
        *("serve", "--model", MODEL, "--cores", "1"),
        *("--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)),
        *("--health-port", str(health_port), *arguments),
    ]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # tests that run in the background inherit a SIGINT that is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        served = Serving(process, ports, health_port)
        while "metrics" not in served.printed:
            line = process.stdout.readline()
            assert line, served.printed
            served.printed += line
        try:
            yield served
        finally:
            process.kill()
