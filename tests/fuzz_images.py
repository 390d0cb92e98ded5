"""Fuzzer of the gate for images and of the decoders behind it.

    python -m tests.fuzz_images --images 1000000 --processes 16 --report fuzz.json

It needs no network and no files. Images are made, mutated and decoded in child
processes with limited memory, as the client decodes (OpenCV) and as the server does
(simplejpeg for JPEG). A child that ends, hangs or raises what the gate must not let
pass is counted, and its image is written to a folder.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import simplejpeg
import typer

from personserve.images.decoding import DECODER_ERRORS, decode
from personserve.images.encoded import Encoded
from personserve.images.formats import ImageFormatError
from tests.image_corpus import Mutator

BATCH = 500
"""Images between two messages of a child."""

MIB = 1 << 20


@dataclass
class Findings:
    """Findings of one run of the fuzzer.

    Attributes:
        images: Number of images.
        passed: Images that passed the gate.
        decoded: Those of them that both decoders could read.
        ended: Images whose child process ended or hung, with its exit code.
        raised: Images for which another error was raised, with its text.
        peak_bytes: Most memory that a child took for an image, over its start.
        slowest_s: CPU time of the slowest image, in seconds.
        slowest: Index of that image.
    """

    images: int = 0
    passed: int = 0
    decoded: int = 0
    ended: dict[int, str] = field(default_factory=dict)
    raised: dict[int, str] = field(default_factory=dict)
    peak_bytes: int = 0
    slowest_s: float = 0.0
    slowest: int = -1

    def add(self, other: Findings) -> None:
        """Add what another run saw.

        Args:
            other: Its findings.
        """
        self.images += other.images
        self.passed += other.passed
        self.decoded += other.decoded
        self.ended |= other.ended
        self.raised |= other.raised
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest


def fuzz(
    indices: range,
    *,
    seed: int = 0,
    memory_mib: int = 768,
    hang_s: float = 20.0,
    gate: bool = True,
) -> Findings:
    """Decode mutated images in a child process, and start another where it ends.

    Args:
        indices: Indices of the images.
        seed: Seed of the mutations.
        memory_mib: Memory that a child may take over its start, in MiB.
        hang_s: Seconds without progress after which a child is killed.
        gate: Whether images pass the gate. Without it OpenCV decodes them directly,
            which shows what the gate is for.

    Returns:
        What was seen.
    """
    findings = Findings()
    first = indices.start
    context = multiprocessing.get_context("spawn")
    while first < indices.stop:
        position = context.Value("q", first)
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(
            target=_decode_images,
            args=(range(first, indices.stop), seed, memory_mib, gate, position, sender),
        )
        child.start()
        sender.close()
        _follow(child, receiver, position, hang_s, findings)
        child.join()
        receiver.close()
        if child.exitcode == 0:
            break
        findings.ended[position.value] = f"exit code {child.exitcode}"
        first = position.value + 1
    findings.images = len(indices)
    return findings


def _follow(
    child: Any, receiver: Connection, position: Any, hang_s: float, findings: Findings
) -> None:
    """Collect a child's findings until it ends; kill it where it hangs."""
    last, since = position.value, time.monotonic()
    while True:
        try:
            if receiver.poll(0.5):
                findings.add(receiver.recv())
        except EOFError:
            return
        if position.value != last:
            last, since = position.value, time.monotonic()
        elif time.monotonic() - since > hang_s:
            child.kill()


def _decode_images(
    indices: Sequence[int],
    seed: int,
    memory_mib: int,
    gate: bool,
    position: Any,
    sender: Connection,
) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libpng and libjpeg write warnings
    cv2.setNumThreads(1)
    mutator = Mutator(seed)
    for index in range(50):  # what is allocated once
        _decode(mutator.make(-index - 1 & 0xFFFF)[1], gate=True)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + memory_mib * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # the peak so far; the one of getrusage is never below that of the parent process
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start_bytes = _peak_bytes()
    findings = Findings()
    for index in indices:
        position.value = index
        _, data = mutator.make(index)
        began = time.process_time()
        try:
            passed, decoded = _decode(data, gate=gate)
            findings.passed += passed
            findings.decoded += decoded
        except Exception as exc:  # noqa: BLE001
            findings.raised[index] = repr(exc)
        seconds = time.process_time() - began
        if seconds > findings.slowest_s:
            findings.slowest_s, findings.slowest = seconds, index
        if index % BATCH == BATCH - 1:
            findings.peak_bytes = _peak_bytes() - start_bytes
            sender.send(findings)
            findings = Findings()
    findings.peak_bytes = _peak_bytes() - start_bytes
    sender.send(findings)


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _decode(data: bytes, *, gate: bool) -> tuple[bool, bool]:
    """Decode as client and server do; return whether the gate and both decoders did."""
    if not gate:
        try:
            return True, cv2.imdecode(np.frombuffer(data, np.uint8), 1) is not None
        except DECODER_ERRORS:
            return True, False
    try:
        image = Encoded.from_bytes(data)
    except ImageFormatError:
        return False, False
    try:
        decode(image)
        decode(image, decode_jpeg=_decode_turbo)
    except ImageFormatError:
        return True, False
    return True, True


def _decode_turbo(data: bytes | bytearray) -> Any:
    return simplejpeg.decode_jpeg(data, colorspace="BGR")


def fuzz_in_processes(indices: range, processes: int, **options: Any) -> Findings:
    """Divide the images among child processes that run at the same time.

    Args:
        indices: Indices of the images.
        processes: Number of child processes.
        **options: Further arguments of `fuzz`.

    Returns:
        What all of them saw.
    """
    bounds = [
        indices.start + len(indices) * i // processes for i in range(processes + 1)
    ]
    findings = Findings()
    with ThreadPoolExecutor(processes) as pool:
        runs = [
            pool.submit(fuzz, range(start, stop), **options)
            for start, stop in pairwise(bounds)
        ]
        for run in runs:
            findings.add(run.result())
    return findings


def describe(findings: Findings, mutator: Mutator, seconds: float) -> str:
    """Return a summary for people.

    Args:
        findings: What the run saw.
        mutator: Source of the images, for the kinds of those that failed.
        seconds: Duration of the run.
    """
    failures = {**findings.ended, **findings.raised}
    slowest = f"{findings.slowest} ({mutator.make(findings.slowest)[0]})"
    lines = [
        f"{findings.images:,} images in {seconds:.0f} s",
        f"{findings.passed:,} passed the gate, {findings.decoded:,} decoded",
        f"processes ended: {len(findings.ended)}",
        f"other errors raised: {len(findings.raised)}",
        f"peak memory over the start: {findings.peak_bytes / MIB:.1f} MiB",
        f"slowest image: {findings.slowest_s * 1e3:.1f} ms of CPU, number {slowest}",
    ]
    lines += [f"  {i}: {why} ({mutator.make(i)[0]})" for i, why in failures.items()]
    return "\n".join(lines)


def _facts(findings: Findings, seconds: float, **options: Any) -> dict[str, Any]:
    """Return findings, options and versions as JSON values."""
    return {
        **asdict(findings),
        "peak_mib": round(findings.peak_bytes / MIB, 1),
        "seconds": round(seconds, 1),
        "options": options,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "simplejpeg": simplejpeg.__version__,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def main(
    images: Annotated[int, typer.Option(help="Number of mutated images.")] = 100_000,
    first: Annotated[
        int,
        typer.Option(help="Index of the first image, to continue an earlier run."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the mutations.")] = 0,
    processes: Annotated[int, typer.Option(help="Child processes at a time.")] = 1,
    memory_mib: Annotated[
        int, typer.Option(help="Memory that a child may take over its start, in MiB.")
    ] = 768,
    hang_s: Annotated[
        float, typer.Option(help="Seconds for one image after which a child is killed.")
    ] = 20.0,
    gate: Annotated[
        bool,
        typer.Option(
            help="Pass images through the gate. Without it OpenCV decodes them "
            "directly, which shows what the gate is for."
        ),
    ] = True,
    report: Annotated[
        Path | None,
        typer.Option(help="JSON file for findings, options, versions and duration."),
    ] = None,
    save_to: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the images that ended a child or raised another error, "
            "and the slowest one."
        ),
    ] = None,
) -> None:
    """Decode mutated images in child processes and report what happens to them."""
    began = time.monotonic()
    options = {"seed": seed, "memory_mib": memory_mib, "hang_s": hang_s, "gate": gate}
    indices = range(first, first + images)
    findings = fuzz_in_processes(indices, processes, **options)
    seconds = time.monotonic() - began
    mutator = Mutator(seed)
    typer.echo(describe(findings, mutator, seconds))
    if report is not None:
        options |= {"first": first, "processes": processes}
        facts = _facts(findings, seconds, **options)
        report.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    failures = {**findings.ended, **findings.raised}
    if save_to is not None:
        save_to.mkdir(parents=True, exist_ok=True)
        for index in (*failures, findings.slowest):
            (save_to / f"{index}.bin").write_bytes(mutator.make(index)[1])
    raise typer.Exit(code=bool(failures))


if __name__ == "__main__":
    typer.run(main)
