"""NVIDIA's perf_analyzer: finding the binary, and running it for one load.

The binary is the one on PATH, or the one in the wheel tritonclient 2.51.0 (PyPI's own
perf-analyzer package is empty), which is kept in the user's cache.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from rich.console import Console

from loadtest.errors import LoadTestError
from loadtest.frames import encoded_tensor, make_jpeg_frame, place_boxes
from loadtest.measurements import transport_name
from loadtest.server import local_access_headers
from personserve import ModelDescription

WHEEL = "tritonclient==2.51.0"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""Libraries that the binary needs, and their file names in nvidia-pytriton's wheel."""

STABILITY_PERCENT = 999
"""Accepted difference between perf_analyzer's three windows. Effectively off: our own
rounds measure the spread, and a busy machine is no reason to lose a report.
"""

WINDOW_TOO_SHORT = "Please use a larger time window"
MAX_WINDOW_S = 60.0


@dataclass(frozen=True)
class Tool:
    """The binary and the environment that it needs.

    Attributes:
        path: The binary.
        environment: Environment variables to run it with.
    """

    path: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Load:
    """One load to measure.

    Attributes:
        model: The model under load.
        protocol: "grpc" or "http".
        shared_memory: "system", "cuda", or None where tensors travel in the message.
        people: Number of people in a request.
        concurrency: Number of requests in flight.
    """

    model: ModelDescription
    protocol: str
    shared_memory: str | None
    people: int
    concurrency: int

    @property
    def transport(self) -> str:
        """Name of the transport in reports."""
        return transport_name(self.protocol, self.shared_memory)

    @property
    def people_per_inference(self) -> int:
        """People in one inference as perf_analyzer counts them: one per batch item."""
        return 1 if self.model.max_batch_size > 0 else self.people


@contextmanager
def find_perf_analyzer(console: Console) -> Iterator[Tool]:
    """Provide the binary, downloading the wheel on first use.

    Args:
        console: Where a download is announced.

    Raises:
        LoadTestError: If it is neither on PATH nor can be downloaded.
    """
    on_path = shutil.which("perf_analyzer")
    if on_path is not None:
        yield Tool(Path(on_path), os.environ)
        return
    with tempfile.TemporaryDirectory() as folder:
        libraries = _link_libraries(Path(folder))
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        path = ":".join([*map(str, libraries), *filter(None, [inherited])])
        binary = _cache_binary(console)
        yield Tool(binary, {**os.environ, "LD_LIBRARY_PATH": path})


def _cache_binary(console: Console) -> Path:
    """Return the wheel's binary in the user's cache, downloading it if absent."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    path = cache / "personserve" / WHEEL.replace("==", "-") / "perf_analyzer"
    if path.is_file():
        return path
    console.print(f"downloading perf_analyzer, part of the wheel {WHEEL}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise LoadTestError(
                f"perf_analyzer is not on PATH, and {WHEEL} cannot be downloaded: "
                f"{done.stderr.strip()[-300:]}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            (name,) = (n for n in wheel.namelist() if n.endswith("bin/perf_analyzer"))
            partial = path.with_suffix(".partial")
            partial.write_bytes(wheel.read(name))
        partial.chmod(0o755)
        partial.replace(path)
    return path


def _link_libraries(folder: Path) -> list[Path]:
    """Link nvidia-pytriton's libraries under the names that the binary expects."""
    try:
        root = Path(str(distribution("nvidia-pytriton").locate_file("")))
    except PackageNotFoundError:
        return []
    libraries = root / "nvidia_pytriton.libs"
    for name, pattern in LIBRARIES.items():
        for library in libraries.glob(pattern):
            (folder / name).symlink_to(library)
            break
    return [folder, libraries]


def run_perf_analyzer(
    tool: Tool, load: Load, address: str, window_s: float
) -> dict[str, str]:
    """Measure one load, with longer windows if no request completes within one.

    Args:
        tool: The binary.
        load: The load.
        address: The server's address for the load's protocol, host:port.
        window_s: Length of a measurement window in seconds.

    Returns:
        The row of perf_analyzer's CSV file; times are in microseconds.

    Raises:
        LoadTestError: If perf_analyzer fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        csv_file = Path(folder) / "report.csv"
        while True:
            command = _command(tool, load, address, window_s, csv_file)
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=tool.environment,
            )
            if done.returncode == 0 and csv_file.is_file():
                break
            words = (done.stdout + done.stderr).strip()[-600:]
            if WINDOW_TOO_SHORT not in words or window_s >= MAX_WINDOW_S:
                raise LoadTestError(
                    f"perf_analyzer failed on {load.model.name} over "
                    f"{load.transport}: {words}"
                )
            window_s *= 4
        (row,) = csv.DictReader(csv_file.read_text(encoding="utf-8").splitlines())
        return row


def _command(
    tool: Tool, load: Load, address: str, window_s: float, csv_file: Path
) -> list[str]:
    command = [
        *(str(tool.path), "-m", load.model.name, "-i", load.protocol, "-u", address),
        *("-f", str(csv_file), "--shared-memory", load.shared_memory or "none"),
        *("-s", str(STABILITY_PERCENT), "-r", "3", "-p", str(round(window_s * 1e3))),
        *("--concurrency-range", f"{load.concurrency}:{load.concurrency}"),
    ]
    is_grpc = load.protocol == "grpc"
    for name, value in local_access_headers(address, is_grpc=is_grpc).items():
        command += ["-H", f"{name}:{value}"]
    if load.model.max_batch_size > 0:
        shapes = [
            f"{tensor.name}:{','.join(map(str, tensor.shape))}"
            for tensor in load.model.inputs
        ]
        command += ["-b", str(load.people)]
        return command + [word for shape in shapes for word in ("--shape", shape)]
    data = csv_file.with_name("input.json")
    _write_frame_input(data, load.people)
    return [*command, "--input-data", str(data)]


def _write_frame_input(file: Path, people: int) -> None:
    """Write a JPEG frame and boxes in the format of --input-data."""
    jpeg, boxes = make_jpeg_frame(), place_boxes(people)
    request = {
        "encoded_frame": {
            "b64": base64.b64encode(jpeg).decode(),
            "shape": list(encoded_tensor(jpeg).shape),
        },
        "boxes": {"content": boxes.ravel().tolist(), "shape": list(boxes.shape)},
    }
    file.write_text(json.dumps({"data": [request]}), encoding="utf-8")
