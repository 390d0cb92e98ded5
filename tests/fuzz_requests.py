"""Fuzzer of the server: raw gRPC calls and HTTP requests, and canaries among them.

    python -m tests.fuzz_requests --requests 100000 --report fuzz.json
    python -m tests.fuzz_requests --protocol http --requests 10000

Mutated requests go to a real tritonserver. A canary is a right request whose answer is
known; one is sent after every CANARY_EVERY mutated ones. Counted are processes of the
server that end, wrong and missing answers of canaries, and answers by status; memory
and file descriptors of the server's processes are compared over the run.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import grpc
import numpy as np
import psutil
import typer

from builders.repository.layout import Repository
from builders.serve.processes import describe_exit, exit_code, list_session
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.weights.standin import noise_crops
from personserve import Client, PersonServeError, Retry
from tests.http_corpus import Exchange, ExchangeMutator
from tests.request_corpus import Call, CallMutator

Protocol = Literal["grpc", "http"]
ENSEMBLE = "person_attributes"
MODELS = (ENSEMBLE, "person_preprocess", "person_gender", "person_reid_kd_r18")
(GENDER,) = models(["person_gender"])
BOX = [[0.0, 0.0, 224.0, 224.0]]
QUESTIONS = 8
CANARY_EVERY = 25
SAMPLE_EVERY = 1000
"""Requests between two measurements of memory and descriptors."""

MAX_DIFFERENCE = 1e-4
TIMEOUT_S = 30.0
MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Resources of the server's processes at one time.

    Attributes:
        requests: Number of requests before it.
        processes: Number of processes.
        memory_mib: Their resident memory in MiB; shared memory counts in each.
        descriptors: Their open file descriptors.
        threads: Their threads.
        shm_mib: Used space of /dev/shm in MiB.
    """

    requests: int
    processes: int
    memory_mib: float
    descriptors: int
    threads: int
    shm_mib: float


@dataclass
class Findings:
    """What a run of the fuzzer saw.

    Attributes:
        requests: Number of mutated requests.
        canaries: Number of canaries with a right answer.
        wrong: Canaries with a wrong answer.
        failed: Canaries without an answer.
        ended: Ends of the server's processes, with the last requests before them.
        statuses: Number of answers by status.
        kinds: Number of requests by kind of mutation.
        samples: Resources over the run.
    """

    requests: int = 0
    canaries: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether no process ended and every canary was answered rightly."""
        return not (self.wrong or self.failed or self.ended)

    def text(self) -> str:
        """Return a summary."""
        lines = [
            f"requests         {self.requests:,}",
            f"right canaries   {self.canaries:,}",
            f"wrong canaries   {len(self.wrong)}",
            f"failed canaries  {len(self.failed)}",
            f"processes ended  {len(self.ended)}",
        ]
        lines += [f"{count:9,d}  {name}" for name, count in self.statuses.most_common()]
        for sample in self.samples[1:2] + self.samples[-1:]:
            lines.append(
                f"after {sample.requests:7,d}: {sample.processes} processes, "
                f"{sample.memory_mib:.0f} MiB, {sample.descriptors} descriptors, "
                f"{sample.threads} threads, /dev/shm {sample.shm_mib:.0f} MiB"
            )
        return "\n".join([*lines, *self.ended, *self.wrong, *self.failed])


class Canary:
    """Right requests whose answers are known, one crop or one frame each."""

    def __init__(self, address: str) -> None:
        self._client = Client(address, timeout_s=TIMEOUT_S, retry=Retry(attempts=1))
        self._crops = noise_crops(GENDER.images[0], QUESTIONS, seed=3)
        self._number = 0
        self._expected = [self._ask(i) for i in range(2 * QUESTIONS)]

    def check(self, findings: Findings) -> None:
        """Send the next canary, and count its answer."""
        number = self._number = (self._number + 1) % (2 * QUESTIONS)
        try:
            answer = self._ask(number)
        except PersonServeError as exc:
            findings.failed.append(f"after {findings.requests}: {exc!r}"[:300])
            return
        same_shape = answer.shape == self._expected[number].shape
        expected = self._expected[number]
        if same_shape and np.abs(answer - expected).max() < MAX_DIFFERENCE:
            findings.canaries += 1
        else:
            findings.wrong.append(f"after {findings.requests}: canary {number}")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, number: int) -> Any:
        crop = self._crops[number % QUESTIONS]
        if number < QUESTIONS:
            outputs = self._client.infer(GENDER.name, {"crops": crop[None]})
            return np.asarray(outputs["female_probability"]).reshape(-1)
        (person,) = self._client.attributes(crop, BOX, crop_on="server")
        return person.embedding


class GrpcSender:
    """Sends the raw gRPC calls of a CallMutator."""

    def __init__(self, server: TritonServer, seed: int) -> None:
        self._mutator = CallMutator(MODELS, seed)
        self._channel = grpc.insecure_channel(server.grpc_address)

    def send(self, index: int) -> tuple[str, str]:
        """Send the call of an index; return its kind and the status of the answer."""
        call = self._mutator.make(index)
        try:
            return call.kind, self._send(call)
        except grpc.RpcError as exc:
            return call.kind, exc.code().name
        except (ValueError, TypeError):
            return call.kind, "not sent"  # gRPC refuses some metadata itself

    def _send(self, call: Call) -> str:
        options: dict[str, Any] = {"timeout": call.timeout_s, "metadata": call.metadata}
        channel: Any = self._channel  # its stubs know no calls of raw bytes
        if not call.stream:
            channel.unary_unary(call.method)(call.messages[0], **options)
            return "OK"
        answers = channel.stream_stream(call.method)(iter(call.messages), **options)
        for _ in answers:
            pass
        return "OK on a stream"

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class HttpSender:
    """Sends the raw HTTP requests of an ExchangeMutator."""

    def __init__(self, server: TritonServer, seed: int) -> None:
        self._mutator = ExchangeMutator(MODELS, seed)
        self._address = (server.host, server.ports.http)

    def send(self, index: int) -> tuple[str, str]:
        """Send the request of an index; return its kind and the status line."""
        exchange = self._mutator.make(index)
        try:
            return exchange.kind, self._send(exchange)
        except TimeoutError:
            return exchange.kind, "no answer"
        except OSError as exc:
            return exchange.kind, type(exc).__name__

    def _send(self, exchange: Exchange) -> str:
        with socket.create_connection(self._address, TIMEOUT_S) as connection:
            for piece in exchange.pieces:
                connection.sendall(piece)
            # a request that is cut short gets no answer, so little is waited for
            connection.settimeout(0.05 if exchange.closes else 2.0)
            answer = connection.recv(1 << 16)
        if not answer:
            return "closed"
        return answer.split(b"\r\n", 1)[0].decode("latin-1")[:40]

    def close(self) -> None:
        """Close nothing: each request has its own connection."""


SENDERS: dict[str, Callable[[TritonServer, int], Any]] = {
    "grpc": GrpcSender,
    "http": HttpSender,
}


class Monitor:
    """The server's processes, their resources, and those that have ended."""

    def __init__(self, server: TritonServer) -> None:
        assert server.pid is not None
        server_process = psutil.Process(server.pid)
        self._processes = [server_process, *server_process.children(recursive=True)]

    def find_ended(self) -> list[str]:
        """Describe the processes that have ended, and how."""
        ended = [each.pid for each in self._processes if not _is_running(each)]
        statuses = {
            each.pid: exit_code(each.wait_status)
            for each in list_session(self._processes[0].pid)
        }
        return [
            f"process {pid} {describe_exit(statuses[pid]) if pid in statuses else ''}"
            for pid in ended
        ]

    def sample(self, requests: int) -> Sample:
        """Measure the processes that run."""
        running = [each for each in self._processes if _is_running(each)]
        return Sample(
            requests,
            len(running),
            round(sum(each.memory_info().rss for each in running) / MIB, 1),
            sum(each.num_fds() for each in running),
            sum(each.num_threads() for each in running),
            round(psutil.disk_usage("/dev/shm").used / MIB, 1),
        )


def _is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def fuzz(
    server: TritonServer,
    indices: Sequence[int],
    *,
    protocol: Protocol = "grpc",
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> Findings:
    """Send mutated requests to a running server, and restart it where it ends.

    Args:
        server: The server, with the models of MODELS.
        indices: Indices of the requests.
        protocol: The protocol of the mutated requests; canaries use gRPC.
        seed: Seed of the mutations.
        log: Called with a line for each sample and each end of a process.

    Returns:
        What was seen.
    """
    findings = Findings()
    remaining = iter(indices)
    finished = False
    while not finished:
        sender, canary = SENDERS[protocol](server, seed), Canary(server.grpc_address)
        try:
            finished = _fuzz_until_an_end(
                server, remaining, sender, canary, findings, log
            )
        finally:
            sender.close()
            canary.close()
        if not finished:
            log(findings.ended[-1])
            server.stop()
            server.start()
    return findings


def _fuzz_until_an_end(
    server: TritonServer,
    indices: Any,
    sender: Any,
    canary: Canary,
    findings: Findings,
    log: Callable[[str], None],
) -> bool:
    """Return whether all requests were sent before a process ended."""
    monitor = Monitor(server)
    recent: list[str] = []
    findings.samples.append(monitor.sample(findings.requests))
    for index in indices:
        kind, status = sender.send(index)
        recent = [*recent[-2 * CANARY_EVERY :], f"{index} {kind}: {status}"]
        findings.requests += 1
        findings.kinds[kind] += 1
        findings.statuses[status] += 1
        if findings.requests % CANARY_EVERY == 0:
            failures = len(findings.failed)
            canary.check(findings)
            ended = monitor.find_ended()
            if ended:
                findings.ended.append(f"{', '.join(ended)} after {'; '.join(recent)}")
                del findings.failed[failures:]  # its cause is the process
                return False
        if findings.requests % SAMPLE_EVERY == 0:
            findings.samples.append(monitor.sample(findings.requests))
            log(f"{findings.samples[-1]}, {len(findings.wrong)} wrong")
    findings.samples.append(monitor.sample(findings.requests))
    return True


def main(
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository. Default: the one of this checkout."),
    ] = None,
    requests: Annotated[int, typer.Option(help="Number of mutated requests.")] = 10_000,
    first: Annotated[int, typer.Option(help="Index of the first request.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the mutations.")] = 0,
    protocol: Annotated[
        Protocol, typer.Option(help="Protocol of the mutated requests.")
    ] = "grpc",
    cores: Annotated[int, typer.Option(help="Instances of each model.")] = 1,
    log: Annotated[Path | None, typer.Option(help="File for the server's log.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="JSON file for findings and duration.")
    ] = None,
) -> None:
    """Send mutated requests to a real server; exit with 1 if it was harmed."""
    server = TritonServer(
        Repository(repository) if repository else Repository(),
        models=[ENSEMBLE],
        ports=Ports.free(),
        cores=cores,
        log=log,
        http=True,
    )
    began = time.monotonic()
    indices = range(first, first + requests)
    with server:
        findings = fuzz(server, indices, protocol=protocol, seed=seed)
    typer.echo(findings.text())
    if report is not None:
        facts = vars(findings) | {
            "samples": [asdict(sample) for sample in findings.samples],
            "seconds": round(time.monotonic() - began, 1),
            "seed": seed,
            "first": first,
            "protocol": protocol,
        }
        report.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(not findings.is_clean)


if __name__ == "__main__":
    typer.run(main)
