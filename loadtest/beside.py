"""This server beside others with the same ONNX files, the same cores and the same load:
FastAPI under uvicorn, LitServe, mosec and pytriton (loadtest/rivals), each in turn,
--rounds times. In process is the bound: the same work by a thread a core.

It wants a running server on this machine (`python -m builders serve`), and every answer
is compared with what the networks give here before anything is timed.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import platform
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest.in_process import REPOSITORY, Bytes, Floats, Networks, NotBuiltError
from loadtest.machine import family, listening_at, machine_name, memory_mib
from loadtest.perf_input import jpeg_frame, some_boxes
from loadtest.report import Point, Run, beyond, merged, write_report
from loadtest.rivals.work import FRAME, GENDER, REPOSITORY_VARIABLE, packed
from personserve import Client, PersonServeError
from personserve._closed_loop import closed_loop

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
LEAST_CALLS = 3
"""Of each caller, where a frame of a crowd takes longer than the time."""

OURS, BOUND = "personserve", "in process"
RIVALS = {
    "FastAPI": ("fastapi_server", "fastapi"),
    "LitServe": ("litserve_server", "litserve"),
    "mosec": ("mosec_server", "mosec"),
    "pytriton": ("pytriton_server", "nvidia-pytriton"),
}
"""Module and distribution of each."""

CORES = os.cpu_count() or 1

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


def main(
    grpc: Annotated[str, typer.Option(help="gRPC address.")] = "127.0.0.1:8001",
    repository: Annotated[
        Path, typer.Option(help="Where the server's models are built.")
    ] = REPOSITORY,
    rivals: Annotated[str, typer.Option(help="Several divided by commas.")] = ",".join(
        RIVALS
    ),
    concurrency: Annotated[str, typer.Option(help="Callers at once.")] = "1,8,32",
    people: Annotated[int, typer.Option(min=1, help="In a frame.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of one load.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path(
        "reports/beside"
    ),
) -> None:
    """This server beside FastAPI, LitServe, mosec and pytriton; with a report."""
    console = Console()
    names = [name for name in rivals.split(",") if name]
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]}: there are {', '.join(RIVALS)}")
    loads = [
        (job, int(count)) for job in _jobs(people) for count in concurrency.split(",")
    ]
    try:
        with Progress(console=console, transient=True) as progress:
            points = _measured(
                grpc, repository, names, loads, seconds, rounds, progress
            )
    except (RivalError, NotBuiltError, LookupError, PersonServeError) as exc:
        console.print(f"[red]error:[/red] {exc}", soft_wrap=True)
        raise typer.Exit(1) from exc
    run = Run(_facts(names), points)
    verdict = _verdict(run)
    table = Table(*verdict[1])
    for row in verdict[2]:
        table.add_row(*row)
    console.print(table)
    console.print(f"wrote {write_report(output, run, more=[verdict])}")


def _jobs(people: int) -> list[Job]:
    crops = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    return [
        Job("one crop", 1, crops[:1]),
        Job("8 crops", 8, crops),
        Job(f"frame of {people}", people, jpeg=jpeg_frame()),
    ]


def _measured(
    grpc: str,
    repository: Path,
    rivals: Sequence[str],
    loads: Sequence[tuple[Job, int]],
    seconds: float,
    rounds: int,
    progress: Progress,
) -> list[Point]:
    """All loads on all servers, one server after the other in each round."""
    networks = Networks(repository)
    expected = {job.name: job.done_by(networks) for job, _ in loads}
    taken: dict[tuple[str, str, int], list[Point]] = {}
    task = progress.add_task("measuring", total=rounds * len(loads) * (len(rivals) + 2))
    for _ in range(rounds):
        for way in (BOUND, OURS, *rivals):
            progress.update(task, description=way)
            with _started(way, grpc, networks, repository) as (ask, processes):
                for job, callers in loads:
                    _check(way, job, ask(job)(), expected[job.name])
                    # more threads than cores would not be the bound
                    count = min(callers, CORES) if way == BOUND else callers
                    times, elapsed = closed_loop(ask(job), count, seconds, LEAST_CALLS)
                    point = _point(way, job, callers, times, elapsed, processes())
                    taken.setdefault((job.name, way, callers), []).append(point)
                    progress.advance(task)
    return [merged(points) for points in taken.values()]


@contextmanager
def _started(
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
    probe = _jobs(1)[0]
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


def _check(way: str, job: Job, answer: Answer, expected: Answer) -> None:
    for got, wanted in zip(answer, expected, strict=True):
        if got.shape != wanted.shape or not np.allclose(got, wanted, 1e-3, 1e-4):
            raise RivalError(f"{way} answers {job.name} differently")


def _point(
    way: str,
    job: Job,
    callers: int,
    times: Sequence[float],
    elapsed: float,
    processes: list[psutil.Process],
) -> Point:
    p50, p99 = np.percentile(np.array(times) * 1e3, (50, 99))
    return Point(
        job.name,
        way,
        job.people,
        callers,
        [len(times) * job.people / elapsed],
        float(p50),
        float(p99),
        memory_mib=memory_mib(processes),
    )


def _verdict(run: Run) -> tuple[str, list[str], list[list[str]]]:
    """Each load: ours to the bound, and the best of the others to ours."""
    head = ["load", "ours, people/s", "of bound", "best other", "", "p99 ms", "other"]
    rows = []
    for job, count in dict.fromkeys((p.model, p.concurrency) for p in run.points):
        found = {
            p.way: p for p in run.points if (p.model, p.concurrency) == (job, count)
        }
        ours, bound = found.pop(OURS), found.pop(BOUND)
        row = [f"{job}, x{count}", f"{ours.rate:.1f}", f"{ours.rate / bound.rate:.2f}"]
        if found:
            best = max(found.values(), key=lambda point: point.rate)
            quick = min(found.values(), key=lambda point: point.p99_ms)
            apart = beyond(ours.people_per_s, best.people_per_s)
            ahead = "ours ahead" if ours.rate > best.rate else "BEHIND"
            row += [f"{best.rate:.1f} {best.way}", ahead if apart else "within spread"]
            row += [f"{ours.p99_ms:.0f}", f"{quick.p99_ms:.0f} {quick.way}"]
        rows.append(row)
    return "Beside others", head[: len(rows[0])], rows


def _facts(rivals: Sequence[str]) -> dict[str, str]:
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{machine_name()}, Python {platform.python_version()}",
        "target": f"cpu, FP32, ONNX Runtime {version('onnxruntime')}, one thread each",
    }
    return facts | {name: version(RIVALS[name][1]) for name in rivals}
