"""Asking this server, each rival and this process for the same jobs.

All servers are asked over HTTP by the same client, Python's own on kept connections,
because on a machine that both share a client's CPU time is the server's. Our SDK, which
does more, is a way of its own.
"""

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

OUR_MODELS = ("person_gender", "person_attributes")

HEADER_LENGTH = "inference-header-content-length"
DATA_TYPES = {"uint8": "UINT8", "float32": "FP32"}

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

OURS, SDK, BOUND = "personserve", "personserve, its SDK", "in process"
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

    def arrays(self) -> dict[str, Any]:
        """As Triton's models take it, {input: array}."""
        if self.crops is not None:
            return {"crops": self.crops}
        frame = np.frombuffer(self.jpeg, np.uint8)
        return {"frame": frame, "boxes": self.boxes}

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
    way: str, addresses: tuple[str, str], networks: Networks, repository: Path
) -> Iterator[tuple[Callable[[Job], Ask], Callable[[], list[psutil.Process]]]]:
    """How `way` is asked for a job, and its processes, while it runs; `addresses` are
    this server's, gRPC and HTTP.
    """
    if way == BOUND:
        yield lambda job: partial(job.done_by, networks), lambda: [psutil.Process()]
        return
    if way in {OURS, SDK}:
        grpc, by_http = addresses
        server = listening_at(grpc)
        with Client(f"grpc://{grpc}", timeout_s=300) as client:
            how = partial(_of_sdk, client)
            if way == OURS:
                how = partial(_of_triton, by_http, OUR_MODELS)
            yield lambda job: partial(how, job), lambda: family(server)
        return
    module, _ = RIVALS[way]
    port = _free_port()
    with _process(module, port, repository) as process:
        ask = partial(_of_http, way, port)
        if way == "pytriton":
            ask = partial(_of_triton, f"127.0.0.1:{port + 1}", (GENDER, FRAME))
        _wait_for(way, process, ask)
        yield lambda job: partial(ask, job), lambda: family(process)


def _of_sdk(client: Client, job: Job) -> Answer:
    if job.crops is not None:
        found = client.infer("person_gender", crops=job.crops)
        return (found["female_probability"],)
    people = client.attributes(job.jpeg, job.boxes)
    return people.female_probabilities[:, None], people.embeddings


def _of_triton(address: str, models: tuple[str, str], job: Job) -> Answer:
    """KServe's protocol with binary tensors, no more than is needed of it."""
    model = models[0] if job.crops is not None else models[1]
    arrays = job.arrays()
    if model == OUR_MODELS[1]:
        arrays["frame"] = arrays["frame"].reshape(1, 1, -1)
    inputs = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": DATA_TYPES[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    outputs = {"binary_data_output": True}
    head = json.dumps({"inputs": inputs, "parameters": outputs}).encode()
    body = b"".join((head, *(array.tobytes() for array in arrays.values())))
    headers = {HEADER_LENGTH: str(len(head))}
    reply, answer = _kept(model, address, f"v2/models/{model}/infer", body, headers)
    start = int(reply.headers[HEADER_LENGTH])
    found = {}
    for output in json.loads(answer[:start])["outputs"]:
        stop = start + output["parameters"]["binary_data_size"]
        values = np.frombuffer(answer[start:stop], np.float32)
        found[output["name"]] = values.reshape(output["shape"])
        start = stop
    if job.crops is not None:
        return (found["female_probability"],)
    return found["female_probability"], found["embedding"]


def _of_http(way: str, port: int, job: Job) -> Answer:
    path, body = job.body()
    headers = {}
    if way == "LitServe":
        body = json.dumps({"data": base64.b64encode(body).decode()}).encode()
        headers = {"content-type": "application/json"}
    _, answer = _kept(way, f"127.0.0.1:{port}", path, body, headers)
    if way == "LitServe":
        answer = base64.b64decode(json.loads(answer)["data"])
    return job.read(answer)


_connections: Any = threading.local()


def _kept(
    way: str, address: str, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    """An answer over this thread's connection. Raises RivalError."""
    try:
        reply, answer = _exchanged(address, path, body, headers)
    except (OSError, http.client.HTTPException):
        try:  # a kept connection that the server has closed meanwhile
            reply, answer = _exchanged(address, path, body, headers)
        except (OSError, http.client.HTTPException) as exc:
            raise RivalError(f"{way}: {exc!r}") from exc
    if reply.status != http.HTTPStatus.OK:
        raise RivalError(f"{way}: HTTP {reply.status}: {answer[:200]!r}")
    return reply, answer


def _exchanged(
    address: str, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    kept: dict[str, http.client.HTTPConnection] = vars(_connections)
    if address not in kept:
        kept[address] = http.client.HTTPConnection(address, timeout=300)
    try:
        kept[address].request("POST", f"/{path}", body, headers)
        reply = kept[address].getresponse()
        return reply, reply.read()
    except (OSError, http.client.HTTPException):
        kept.pop(address).close()
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
            _, left = psutil.wait_procs([process, *children], timeout=STOP_TIMEOUT_S)
            for child in left:
                child.kill()
            # pytriton leaves its tensors' memory behind
            for each in (process, *children):
                for path in Path("/dev/shm").glob(f"pytrtion{each.pid}-*"):
                    path.unlink()


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
