"""Fill /dev/shm under a server, or truncate memory that it has mapped.

    python -m tests.chaos_shared_memory

The server runs in a mount namespace with a /dev/shm of its own, so that the machine's
is not touched; this needs root, or unprivileged user namespaces. Requests of one and of
64 people are sent while little or no space is left, and again when there is space.
After that, a region is registered with the server's key and truncated by its owner:
Triton reads memory that no longer exists, and is ended by SIGBUS. Counted are wrong
answers, errors, and the restarts by the supervisor.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from builders.repository.layout import REPOSITORY, ROOT, Repository
from builders.serve.supervisor import Supervisor
from builders.serve.tritonserver import Ports, TritonServer
from personserve import Client, PersonServeError, Retry

SHARED_MEMORY = Path("/dev/shm")
ENSEMBLE = "person_attributes"
MOUNT_MIB = 160
FREE_MIB = [20, 8, 1, 0]
PEOPLE = [1, 64]
EDGE = 512
PLACES = 8
"""Different boxes of a frame, which larger requests repeat."""

TIMEOUT_S, RECOVERY_S = 40.0, 120.0
MIB = 1 << 20
REGION = "personserve-chaos"


@dataclass
class Findings:
    """Answers and errors that callers got.

    Attributes:
        right: Number of right answers.
        wrong: Wrong answers.
        errors: Errors while there was little space, as "free MiB, people: error".
        unhealthy: Times at which the server did not recover.
        restarts: Reasons of the supervisor's restarts while there was little space.
        truncation: Reasons of the restarts after a region was truncated.
    """

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    unhealthy: list[str] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    truncation: list[str] = field(default_factory=list)


class Caller:
    """Requests of one and of 64 people whose answers are known."""

    def __init__(
        self, server: TritonServer, findings: Findings, people: Sequence[int]
    ) -> None:
        self._findings = findings
        self.people = people
        self.client = Client(
            server.grpc_address, timeout_s=TIMEOUT_S, retry=Retry(attempts=1)
        )
        rng = np.random.default_rng(5)
        self._frame = rng.integers(0, 256, (EDGE, EDGE, 3), np.uint8)
        corner = rng.uniform(0, EDGE - 200, (PLACES, 2))
        boxes = np.hstack([corner, corner + np.array([60, 150])])
        repeats = -(-max(people) // PLACES)
        self._boxes = np.tile(boxes, (repeats, 1)).astype(np.float32)
        # one by one: Triton's memory grows with the largest request, and stays
        rows = [self._ask(slice(i, i + 1)) for i in range(PLACES)]
        self._expected = np.tile(np.concatenate(rows), (repeats, 1))

    def ask(self, people: int, when: str) -> bool:
        """Send a request; return whether the answer was right."""
        try:
            answer = self._ask(slice(people))
        except PersonServeError as exc:
            self._findings.errors.append(f"{when}, {people}: {exc!r}"[:400])
            return False
        if np.abs(answer - self._expected[:people]).max() > 1e-4:
            self._findings.wrong.append(f"{when}, {people}")
            return False
        self._findings.right += 1
        return True

    def wait_until_healthy(self, when: str) -> None:
        """Ask until both answers are right, without counting errors."""
        deadline = time.monotonic() + RECOVERY_S
        errors = list(self._findings.errors)
        while not all(self.ask(count, when) for count in self.people):
            if time.monotonic() > deadline:
                self._findings.unhealthy.append(when)
                return
            time.sleep(0.2)
        self._findings.errors = errors

    def _ask(self, people: slice) -> Any:
        return self.client.attributes(
            self._frame, self._boxes[people], crop_on="server"
        ).embeddings


@contextmanager
def filled_memory(free_mib: int) -> Iterator[None]:
    """Leave so much space in /dev/shm.

    Args:
        free_mib: Space to leave, in MiB.
    """
    path = SHARED_MEMORY / "filler"
    size = shutil.disk_usage(SHARED_MEMORY).free - free_mib * MIB
    with path.open("wb") as file:
        if size > 0:
            os.posix_fallocate(file.fileno(), 0, size)
    try:
        yield
    finally:
        path.unlink()


def truncate_region(server: TritonServer) -> None:
    """Register a region with the key of this user, truncate it, and refer to it.

    Args:
        server: The server; it does not survive this.
    """
    from tritonclient.grpc import (
        InferenceServerClient,
        InferenceServerException,
        InferInput,
    )

    from personserve.internal.access import access_headers

    path = SHARED_MEMORY / REGION
    with path.open("w+b") as file:
        file.truncate(EDGE * EDGE * 3)
        mmap.mmap(file.fileno(), EDGE * EDGE * 3)
        client = InferenceServerClient(server.grpc_address)
        headers = access_headers(server.host, server.ports.grpc, is_grpc=True)
        client.register_system_shared_memory(
            REGION, f"/{REGION}", EDGE * EDGE * 3, headers=headers
        )
        file.truncate(0)
        frame = InferInput("raw_frame", [EDGE * EDGE * 3], "UINT8")
        frame.set_shared_memory(REGION, EDGE * EDGE * 3)
        size = InferInput("frame_size", [2], "INT32")
        size.set_data_from_numpy(np.array([EDGE, EDGE], np.int32))
        boxes = InferInput("boxes", [1, 4], "FP32")
        boxes.set_data_from_numpy(np.array([[0, 0, 99, 99]], np.float32))
        try:
            client.infer(ENSEMBLE, [frame, size, boxes], client_timeout=10)
        except InferenceServerException:
            pass
        finally:
            path.unlink()


def run(
    server: TritonServer,
    free_mib: int,
    people: Sequence[int],
    log: Callable[[str], None] = print,
) -> Findings:
    """Fill the memory, make space again, then truncate a region.

    Args:
        server: A running server with the models of ENSEMBLE, alone in /dev/shm.
        free_mib: Space that is left, in MiB.
        people: Numbers of people in a request.
        log: Called with the supervisor's lines and one line for each step.
    """
    findings = Findings()
    caller = Caller(server, findings, people)
    stop = threading.Event()
    supervisor = Supervisor(server, log)
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        with filled_memory(free_mib):
            for count in (*people, *reversed(people)):
                caller.ask(count, f"{free_mib} MiB free")
        caller.wait_until_healthy("with space again")
        findings.restarts = list(supervisor.failures)
        truncate_region(server)
        time.sleep(1.5)
        caller.wait_until_healthy("after truncation")
        findings.truncation = supervisor.failures[len(findings.restarts) :]
    finally:
        stop.set()
        thread.join()
    return findings


def can_unshare() -> bool:
    """Return whether this process may create a mount namespace with its own tmpfs."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(SHARED_MEMORY)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run_in_namespace(
    repository: Path, free_mib: int, people: Sequence[int] = PEOPLE
) -> Findings:
    """Run the steps in a mount namespace with a small /dev/shm.

    Args:
        repository: The model repository.
        free_mib: Space that is left, in MiB.
        people: Numbers of people in a request.
    """
    options = [f"--free-mib={free_mib}", *(f"--people={count}" for count in people)]
    mount = f"mount -t tmpfs -o size={MOUNT_MIB}m tmpfs {SHARED_MEMORY}"
    inner = f'{mount} && exec "$0" -m tests.chaos_shared_memory --inside "$@"'
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", inner, sys.executable, str(repository), *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Findings(**json.loads(result.stdout.splitlines()[-1]))


def main(
    repository: Annotated[
        Path,
        typer.Argument(help="Model repository. Default: the one of this checkout."),
    ] = REPOSITORY,
    free_mib: Annotated[
        list[int], typer.Option(help="Space that is left, in MiB; repeatable.")
    ] = FREE_MIB,
    people: Annotated[
        list[int], typer.Option(help="People in a request; repeatable.")
    ] = PEOPLE,
    inside: Annotated[
        bool, typer.Option("--inside", help="Use the /dev/shm of this process.")
    ] = False,
) -> None:
    """Fill and truncate shared memory; exit with 1 if the server was harmed."""
    if inside:
        server = TritonServer(
            Repository(repository), models=[ENSEMBLE], ports=Ports.free(), cores=1
        )
        with server:
            findings = run(
                server, free_mib[0], people, log=partial(typer.echo, err=True)
            )
        typer.echo(json.dumps(vars(findings)))
        return
    harmed = False
    for free in free_mib:
        findings = run_in_namespace(repository, free, people)
        typer.echo(f"{free} MiB free: {json.dumps(vars(findings), indent=2)}")
        harmed |= bool(findings.wrong or findings.unhealthy or findings.restarts)
    raise typer.Exit(harmed)


if __name__ == "__main__":
    typer.run(main)
