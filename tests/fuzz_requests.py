"""Fuzzer of the server: raw gRPC calls and HTTP requests, and canaries among them.

    python -m tests.fuzz_requests --requests 100000 --jobs 16 --report fuzz.json
    python -m tests.fuzz_requests --protocol http --requests 10000

Mutated requests go to a real tritonserver, or to one for each job. It serves what is
built of the ensembles for frames, crops and faces. A canary is a right request whose
answer is known; one is sent after every CANARY_EVERY mutated ones. Counted are
processes of the server that end, wrong and missing answers of canaries, and answers by
status; memory and file descriptors of the server's processes are compared over the run.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

import grpc
import numpy as np
import typer

from builders.serve.selection import with_steps
from builders.serve.tritonserver import TritonServer
from builders.serve.wheel import find_triton_version
from builders.spec.catalogue import models
from builders.weights.standin import noise_crops
from personserve import Client, PersonServeError, Retry
from personserve.internal.machine import describe_machine
from tests.chaos_callers import ENSEMBLE, RepositoryFolder, make_server
from tests.http_corpus import Exchange, ExchangeMutator
from tests.request_corpus import Call, CallMutator
from tests.server_resources import Monitor, Sample

Protocol = Literal["grpc", "http"]
ENSEMBLES = (ENSEMBLE, "person_attributes_crops", "face_attributes")
"""Ensembles that are served, as far as they are built, and asked with their steps."""

(GENDER,) = models(["person_gender"])
BOX = [[0.0, 0.0, 224.0, 224.0]]
QUESTIONS = 8
CANARY_EVERY = 25
SAMPLE_EVERY = 1000
"""Requests between two measurements of memory and descriptors."""

MAX_DIFFERENCE = 1e-4
TIMEOUT_S = 30.0
UNANSWERED_S = 0.5
"""Time to wait for the answer to a mutated HTTP request; most of those without one are
incomplete."""


@dataclass
class Findings:
    """Findings of one run of the fuzzer.

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
        self._mutator = CallMutator(with_steps(server.loaded), seed)
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
        self._mutator = ExchangeMutator(with_steps(server.loaded), seed)
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
            connection.settimeout(0.05 if exchange.closes else UNANSWERED_S)
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


def fuzz(
    server: TritonServer,
    indices: Sequence[int],
    *,
    protocol: Protocol = "grpc",
    seed: int = 0,
    limit_s: float = inf,
    log: Callable[[str], None] = print,
) -> Findings:
    """Send mutated requests to a running server, and restart it where it ends.

    Args:
        server: The server.
        indices: Indices of the requests.
        protocol: The protocol of the mutated requests; canaries use gRPC.
        seed: Seed of the mutations.
        limit_s: Seconds after which no further request is sent.
        log: Called with a line for each sample and each end of a process.

    Returns:
        What was seen.
    """
    findings = Findings()
    deadline = time.monotonic() + limit_s
    remaining = iter(takewhile(lambda _: time.monotonic() < deadline, indices))
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


def summarise(findings: Sequence[Findings]) -> dict[str, Any]:
    """Return the sums over all jobs, for a record.

    Args:
        findings: What each job saw.
    """
    first = [each.samples[1] for each in findings if len(each.samples) > 1]
    last = [each.samples[-1] for each in findings if each.samples]
    asked = [len(f.wrong) + len(f.failed) + f.canaries for f in findings]
    return {
        "requests": sum(each.requests for each in findings),
        "processes_ended": sum(len(each.ended) for each in findings),
        "canaries_asked": sum(asked),
        "canaries_wrong": sum(len(each.wrong) for each in findings),
        "canaries_failed": sum(len(each.failed) for each in findings),
        "descriptors_early": sum(each.descriptors for each in first),
        "descriptors_at_end": sum(each.descriptors for each in last),
        "memory_mib_early": round(sum(each.memory_mib for each in first)),
        "memory_mib_at_end": round(sum(each.memory_mib for each in last)),
        "threads_at_end": sum(each.threads for each in last),
        "statuses": dict(sum((each.statuses for each in findings), Counter())),
        "kinds": dict(sum((each.kinds for each in findings), Counter())),
        "details": [
            text for each in findings for text in each.ended + each.wrong + each.failed
        ],
    }


def _run_jobs(jobs: int, first: int, requests: int, options: list[str]) -> list[Any]:
    """Run this command in several processes, each with a server; what each saw."""
    share, larger = divmod(requests, jobs)
    with tempfile.TemporaryDirectory() as folder:
        reports, processes = [], []
        for job in range(jobs):
            count = share + (job < larger)
            reports.append(Path(folder) / f"{job}.json")
            command = [
                *(sys.executable, "-m", "tests.fuzz_requests", *options),
                *("--first", str(first), "--requests", str(count)),
                *("--raw-report", str(reports[-1])),
            ]
            first += count
            processes.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
            )
        try:
            for process in processes:
                process.wait()
        finally:
            for process in processes:
                process.terminate()  # at Ctrl-C; without effect on those that ended
        return [
            json.loads(path.read_text("utf-8")) for path in reports if path.exists()
        ]


def _findings_from(record: dict[str, Any]) -> Findings:
    counters = {key: Counter(record[key]) for key in ("statuses", "kinds")}
    samples = [Sample(**sample) for sample in record["samples"]]
    return Findings(**record | counters | {"samples": samples})


def main(
    repository: RepositoryFolder = None,
    requests: Annotated[int, typer.Option(help="Number of mutated requests.")] = 10_000,
    first: Annotated[int, typer.Option(help="Index of the first request.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the mutations.")] = 0,
    protocol: Annotated[
        Protocol, typer.Option(help="Protocol of the mutated requests.")
    ] = "grpc",
    jobs: Annotated[
        int, typer.Option(min=1, help="Servers, with a part of the requests each.")
    ] = 1,
    minutes: Annotated[
        float, typer.Option(help="Time after which no further request is sent.")
    ] = inf,
    cores: Annotated[int, typer.Option(help="Instances of each model.")] = 1,
    log: Annotated[
        Path | None, typer.Option(help="File for the server's log, with one job.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="JSON file for the summary.")
    ] = None,
    raw_report: Annotated[
        Path | None, typer.Option(hidden=True, help="JSON file of one job.")
    ] = None,
) -> None:
    """Send mutated requests to real servers; exit with 1 if one was harmed."""
    began = time.monotonic()
    if jobs == 1:
        server = make_server(repository, cores, models=ENSEMBLES, log=log, http=True)
        indices = range(first, first + requests)
        with server:
            findings = [
                fuzz(
                    server,
                    indices,
                    protocol=protocol,
                    seed=seed,
                    limit_s=60 * minutes,
                )
            ]
        typer.echo(findings[0].text())
    else:
        options = ["--seed", str(seed), "--protocol", protocol, "--cores", str(cores)]
        options += ["--minutes", str(minutes)]
        options += ["--repository", str(repository)] if repository else []
        records = _run_jobs(jobs, first, requests, options)
        findings = [_findings_from(record) for record in records]
    if raw_report is not None:
        samples = [asdict(sample) for sample in findings[0].samples]
        _write(raw_report, vars(findings[0]) | {"samples": samples})
        return
    summary = summarise(findings) | {
        "protocol": protocol,
        "seed": seed,
        "first": first,
        "jobs": jobs,
        "jobs_without_report": jobs - len(findings),
        "seconds": round(time.monotonic() - began, 1),
        "machine": describe_machine() | {"triton": find_triton_version()},
    }
    typer.echo(json.dumps(summary, indent=2))
    if report is not None:
        _write(report, summary)
    is_clean = len(findings) == jobs and all(each.is_clean for each in findings)
    raise typer.Exit(not is_clean)


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
