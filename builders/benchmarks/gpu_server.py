"""A tritonserver for measurements on a GPU: models in chosen forms, and its resources.

The server is started without the supervisor of `serve`, whose probes would be part of
the measurement. Limits of queues are widened, so that a measured load is never refused.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tritonclient.grpc as triton

from builders.repository.layout import Repository
from builders.serve.tritonserver import Ports
from builders.serve.wheel import prepare_backends, tritonserver_path, wheel_environment

PREPROCESSING = "person_preprocess"
CUDA_POOL_BYTES = 4 << 30
"""Memory of each GPU for tensors between models: the crops of 8,192 people, which may
wait for the networks (builders/repository/queue_limits.py), take 2.5 GB."""

READY_TIMEOUT_S = 240
SAMPLE_INTERVAL_S = 0.1
GPU_FIELDS = ("index", "utilization.gpu", "memory.used", "utilization.jpeg")
MIB = 1 << 20


def count_gpus() -> int:
    """Return the number of GPUs that CUDA_VISIBLE_DEVICES leaves; 0 without CUDA."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return 0
    status, count = runtime.cudaGetDeviceCount()
    return 0 if int(status) else int(count)


def copy_model(
    root: Path, name: str, config: str, *, processes: int | None = None
) -> None:
    """Copy a model of the repository with one of its configs as the default.

    On a machine without a GPU, instances of GPUs become instances of the CPU.

    Args:
        root: Folder of the new repository.
        name: Name of the model.
        config: Name of its config: "default", or a target such as "cpu".
        processes: Number of its instances (on each GPU); None for the declared one.
    """
    folder = root / name
    shutil.copytree(Repository().folder(name), folder)
    path = folder / "config.pbtxt"
    if config != "default":
        source = folder / "configs" / f"{config}.pbtxt"
        path.write_bytes(source.read_bytes())
    text = path.read_text(encoding="utf-8")
    if processes is not None:
        text = re.sub(r"count: \d+", f"count: {processes}", text)
    text = re.sub(r"max_queue_size: \d+", "max_queue_size: 4096", text)
    text = re.sub(
        r'("max_waiting_people"\s+value {\s+string_value:) "\d+"', r'\1 "1000000"', text
    )
    write_config(path, text)


def write_config(path: Path, text: str) -> None:
    """Write a config, with instances of the CPU where the machine has no GPU.

    Args:
        path: File to write.
        text: Content of the config.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not count_gpus():
        text = text.replace("KIND_GPU", "KIND_CPU")
    path.write_text(text, encoding="utf-8")


@contextmanager
def serve_folder(
    root: Path,
    ready: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, int]]:
    """Run a tritonserver on a model repository.

    Args:
        root: The repository.
        ready: Models to wait for.
        log: File of the server's log.
        environment: Variables to add to its environment.

    Yields:
        Address of its gRPC endpoint, and its process id.

    Raises:
        RuntimeError: The server ended, or was not ready in time.
    """
    port = Ports.free().grpc
    pools = (
        f"--cuda-memory-pool-byte-size={gpu}:{CUDA_POOL_BYTES}"
        for gpu in range(count_gpus())
    )
    command = [
        str(tritonserver_path()),
        f"--backend-directory={prepare_backends()}",
        f"--model-repository={root}",
        "--disable-auto-complete-config",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
        *pools,
    ]
    variables = os.environ | wheel_environment() | dict(environment or {})
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(f"127.0.0.1:{port}", ready, process, log)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(
    address: str, ready: Sequence[str], process: subprocess.Popen[bytes], log: Path
) -> None:
    client = triton.InferenceServerClient(address)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"tritonserver ended with {process.returncode}:\n{last}")
        with suppress(triton.InferenceServerException):
            if all(client.is_model_ready(name) for name in ready):
                return
        time.sleep(0.2)
    raise RuntimeError(f"tritonserver was not ready in {READY_TIMEOUT_S} s; see {log}")


@dataclass(frozen=True)
class Use:
    """Resources that a server used during a measurement.

    Attributes:
        cores: CPU cores that its processes were busy on.
        gpu_percent: Time in which each GPU computed, by index; empty if unknown.
        jpeg_percent: Time in which each GPU's JPEG engine worked, likewise.
        gpu_memory_mib: Memory in use on each GPU, by all processes.
        memory_mib: Proportional set size of the server's processes.
    """

    cores: float
    gpu_percent: Mapping[int, float]
    jpeg_percent: Mapping[int, float]
    gpu_memory_mib: Mapping[int, float]
    memory_mib: float


class UseSampler:
    """Samples a server's CPU time and the GPUs' use in the background.

    Args:
        pid: Process of the server; its descendants are added up.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu: deque[tuple[float, float]] = deque(maxlen=6000)
        self._gpu: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=60000)
        self._end = threading.Event()
        self._query: Any = _start_gpu_query()
        self._threads = [threading.Thread(target=self._sample_cpu, daemon=True)]
        if self._query is not None:
            self._threads.append(threading.Thread(target=self._read_gpus, daemon=True))
        for thread in self._threads:
            thread.start()

    def use(self, seconds: float, *, before_s: float = 0.0) -> Use:
        """Return the use in a period that has just ended.

        Args:
            seconds: Length of the period.
            before_s: Time from its end until now.
        """
        stop = time.monotonic() - before_s
        cpu = [s for s in list(self._cpu) if stop - seconds <= s[0] <= stop]
        cores = 0.0
        if len(cpu) > 1:
            cores = (cpu[-1][1] - cpu[0][1]) / (cpu[-1][0] - cpu[0][0])
        samples: list[dict[int, list[float]]] = [{}, {}, {}]
        for at, (index, *values) in list(self._gpu):
            if stop - seconds <= at <= stop:
                for by_gpu, value in zip(samples, values, strict=False):
                    by_gpu.setdefault(int(index), []).append(value)
        busy, memory, jpeg = map(_means, samples)
        return Use(cores, busy, jpeg, memory, memory_mib(self._root))

    def close(self) -> None:
        """Stop sampling."""
        self._end.set()
        if self._query is not None:
            self._query.terminate()
            self._query.wait()
        for thread in self._threads:
            thread.join()

    def _sample_cpu(self) -> None:
        while not self._end.wait(SAMPLE_INTERVAL_S):
            self._cpu.append((time.monotonic(), cpu_seconds(self._root)))

    def _read_gpus(self) -> None:
        for line in self._query.stdout:
            with suppress(ValueError):
                values = tuple(float(word) for word in line.split(","))
                self._gpu.append((time.monotonic(), values))


def cpu_seconds(root: psutil.Process) -> float:
    """Return the CPU time of a process and its descendants, in seconds.

    Args:
        root: The process.
    """
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for each in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def memory_mib(root: psutil.Process) -> float:
    """Return the proportional set size of a process and its descendants, in MiB.

    Args:
        root: The process.
    """
    total = 0
    for each in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += each.memory_full_info().pss
    return total / MIB


def _means(values: Mapping[int, Sequence[float]]) -> dict[int, float]:
    return {key: sum(v) / len(v) for key, v in values.items() if v}


def _start_gpu_query() -> Any:
    """Start nvidia-smi with the fields that it knows; None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    for fields in (GPU_FIELDS, GPU_FIELDS[:3]):
        command = [program, f"--query-gpu={','.join(fields)}"]
        command.append("--format=csv,noheader,nounits")
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return subprocess.Popen(
                [*command, "-lms", "100"], stdout=subprocess.PIPE, text=True
            )
    return None
