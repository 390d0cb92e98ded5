"""Asking this server, each rival and this process for the same jobs."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from loadtest.in_process import Bytes, Floats, Networks
from loadtest.machine import family, listening_at
from loadtest.perf_input import jpeg_frame, some_boxes
from loadtest.rivals.work import FRAME, GENDER, REPOSITORY_VARIABLE, packed
from personserve import Client, PersonServeError

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 60.0

OURS, BOUND = "personserve", "in process"
RIVALS = {
    "FastAPI": ("fastapi_server", "fastapi"),
    "LitServe": ("litserve_server", "litserve"),
    "mosec": ("mosec_server", "mosec"),
    "pytriton": ("pytriton_server", "nvidia-pytriton"),
}
"""Module and distribution of each."""

Answer = tuple[Floats, ...]
Ask = Callable[[], Answer]


class RivalError(RuntimeError):
    """A server that does not start, or answers wrongly."""


@dataclass(frozen=True)
class Job:
    """What is asked: crops, or the people in a picture."""

    name: str
    people: int
    crops: Bytes | None = None
    jpeg: bytes = b""

    @property
    def boxes(self) -> Floats:
        """Of the people in the picture."""
        return some_boxes(self.people)

    def done_by(self, networks: Networks) -> Answer:
        """The answer, worked out here."""
        if self.crops is not None:
            return (networks.gender(self.crops),)
        return networks.frame(self.jpeg, self.boxes)

    def body(self) -> tuple[str, bytes]:
        """As a rival takes it: the job's name and the body."""
        if self.crops is not None:
            return GENDER, self.crops.tobytes()
        return FRAME, packed(self.jpeg, self.boxes)

    def read(self, answer: bytes) -> Answer:
        """What a rival answers."""
        values = np.frombuffer(answer, np.float32)
        gender = values[: self.people].reshape(-1, 1)
        if self.crops is not None:
            return (gender,)
        return gender, values[self.people :].reshape(self.people, -1)


def jobs(people: int) -> list[Job]:
    """One crop, eight, and a frame of so many `people`."""
    crops = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    return [
        Job("one crop", 1, crops[:1]),
        Job("8 crops", 8, crops),
        Job(f"frame of {people}", people, jpeg=jpeg_frame()),
    ]


@contextmanager
def started(
    way: str, grpc: str, networks: Networks, repository: Path
) -> Iterator[tuple[Callable[[Job], Ask], Callable[[], list[psutil.Process]]]]:
    """How `way` is asked for a job, and its processes, while it runs."""
    if way == BOUND:
        yield lambda job: partial(job.done_by, networks), lambda: [psutil.Process()]
        return
    if way == OURS:
        server = listening_at(grpc)
        with Client(f"grpc://{grpc}", timeout_s=300) as client:
            yield lambda job: partial(_of_ours, client, job), lambda: family(server)
        return
    module, _ = RIVALS[way]
    port = _free_port()
    with _process(module, port, repository) as process:
        ask = partial(_of_http, way, port)
        if way == "pytriton":
            client = Client(f"grpc://127.0.0.1:{port}", timeout_s=300)
            ask = partial(_of_pytriton, client)
        _wait_for(way, process, ask)
        yield lambda job: partial(ask, job), lambda: family(process)


def _of_ours(client: Client, job: Job) -> Answer:
    if job.crops is not None:
        found = client.infer("person_gender", crops=job.crops)
        return (found["female_probability"],)
    people = client.attributes(job.jpeg, job.boxes)
    return people.female_probabilities[:, None], people.embeddings


def _of_pytriton(client: Client, job: Job) -> Answer:
    if job.crops is not None:
        found = client.infer(GENDER, crops=job.crops)
        return (found["female_probability"],)
    frame = np.frombuffer(job.jpeg, np.uint8)
    found = client.infer(FRAME, frame=frame, boxes=job.boxes)
    return found["female_probability"], found["embedding"]


_connections: Any = threading.local()


def _of_http(way: str, port: int, job: Job) -> Answer:
    """By Python's own HTTP client on a kept connection: the cheapest there is."""
    path, body = job.body()
    headers = {}
    if way == "LitServe":
        body = json.dumps({"data": base64.b64encode(body).decode()}).encode()
        headers = {"content-type": "application/json"}
    try:
        reply, answer = _exchanged(port, path, body, headers)
    except (OSError, http.client.HTTPException):
        try:  # a kept connection that the server has closed meanwhile
            reply, answer = _exchanged(port, path, body, headers)
        except (OSError, http.client.HTTPException) as exc:
            raise RivalError(f"{way}: {exc!r}") from exc
    if reply.status != http.HTTPStatus.OK:
        raise RivalError(f"{way}: HTTP {reply.status}: {answer[:200]!r}")
    if way == "LitServe":
        answer = base64.b64decode(json.loads(answer)["data"])
    return job.read(answer)


def _exchanged(
    port: int, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    kept: dict[str, http.client.HTTPConnection] = vars(_connections)
    key = f"to {port}"
    if key not in kept:
        kept[key] = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        kept[key].request("POST", f"/{path}", body, headers)
        reply = kept[key].getresponse()
        return reply, reply.read()
    except (OSError, http.client.HTTPException):
        kept.pop(key).close()
        raise


@contextmanager
def _process(module: str, port: int, repository: Path) -> Iterator[psutil.Process]:
    """A rival, and all that it started gone at the end."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        REPOSITORY_VARIABLE: str(repository.resolve()),
        # pytriton's stub must find this Python's own library, not the system's
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
    }
    command = [sys.executable, "-m", f"loadtest.rivals.{module}", str(port)]
    with (
        tempfile.TemporaryDirectory() as folder,  # LitServe writes a client's example
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as started,
    ):
        process = psutil.Process(started.pid)
        try:
            yield process
        finally:
            children = process.children(recursive=True)
            started.terminate()
            _, left = psutil.wait_procs([process, *children], timeout=10)
            for child in left:
                child.kill()


def _wait_for(way: str, process: psutil.Process, ask: Callable[[Job], Answer]) -> None:
    probe = jobs(1)[0]
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            ask(probe)
        except (RivalError, PersonServeError) as exc:
            if not process.is_running() or time.monotonic() > deadline:
                raise RivalError(
                    f"{way} does not start; run python -m loadtest.rivals."
                    f"{RIVALS[way][0]} 9000 to see why ({exc})"
                ) from exc
            time.sleep(0.3)
        else:
            return


def _free_port() -> int:
    """The first of three that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check(way: str, job: Job, answer: Answer, expected: Answer) -> None:
    """Raise RivalError for a wrong answer."""
    for got, wanted in zip(answer, expected, strict=True):
        if got.shape != wanted.shape or not np.allclose(got, wanted, 1e-3, 1e-4):
            raise RivalError(f"{way} answers {job.name} differently")
