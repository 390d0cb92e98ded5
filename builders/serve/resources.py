"""Machine resources that a set of served models needs: cores, memory, /dev/shm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import ceil, prod
from pathlib import Path

from builders.repository.config import count_instances, gpu_form
from builders.repository.layout import ARTEFACTS, Repository
from builders.repository.queue_limits import PEOPLE_PER_GPU
from builders.serve.errors import ServeError
from builders.spec.ensemble import Declaration, Ensemble, PythonModel
from builders.spec.model import Network
from builders.tensors import ITEM_BYTES, Tensor

BASE_SHM_BYTES = 1 << 20
"""What Triton's Python backend allocates in /dev/shm for an instance at least."""

SHM_SLACK = 1.1
"""Free space that the Python backend demands of /dev/shm, over the size of a tensor."""

FRAME_SHM_BYTES = 8 << 20
"""A raw 1080p frame and its boxes."""

PROCESS_BYTES = 90 << 20
"""Private memory of a Python-backend process with its libraries (CPU target)."""

WEIGHT_COPIES = 1.5
"""Memory of a loaded ONNX file over its size: weights, packed kernels, activations."""


def usable_cores() -> int:
    """Return the CPU cores that this process may use: affinity and cgroup limit."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("utf-8").split()
        cores = min(cores, max(1, ceil(int(quota) / int(period))))
    return cores


def check_shared_memory(
    declarations: Iterable[Declaration], target: str, cores: int
) -> None:
    """Check that /dev/shm has room for the tensors of the Python-backend processes.

    Args:
        declarations: What is to be served.
        target: Name of the target.
        cores: CPU cores that the instance counts are rendered for.

    Raises:
        ServeError: There is too little room.
    """
    needed = total_shm_bytes(declarations, target, cores)
    free = shutil.disk_usage("/dev/shm").free
    if free < needed:
        raise ServeError(
            f"/dev/shm has {free >> 20} MiB free, the Python models need up to "
            f"{needed >> 20} MiB; in Docker start with --shm-size=1g, elsewhere "
            "remount: mount -o remount,size=1G /dev/shm"
        )


def total_shm_bytes(
    declarations: Iterable[Declaration], target: str, cores: int
) -> int:
    """Return what all Python-backend processes need in /dev/shm.

    Args:
        declarations: What is to be served.
        target: Name of the target.
        cores: CPU cores that the instance counts are rendered for.
    """
    declarations = list(declarations)
    reserved = instance_shm_bytes(declarations, target)
    return sum(
        count_instances(each, target, cores) * max(reserved, request_shm_bytes(each))
        for each in declarations
        if not isinstance(each, Ensemble)
    )


def request_shm_bytes(declaration: Network | PythonModel) -> int:
    """Return what one request to a Python model takes in /dev/shm; 0 for a network.

    A network's tensors are in what `instance_shm_bytes` reserves.

    Args:
        declaration: A network or a Python model.
    """
    if not isinstance(declaration, PythonModel):
        return 0
    people = int(declaration.parameters.get("max_people", "1"))
    crops = _tensor_bytes(declaration.output_tensors, people)
    return BASE_SHM_BYTES + crops + FRAME_SHM_BYTES


def instance_shm_bytes(declarations: Iterable[Declaration], target: str) -> int:
    """Return what each Python-backend process should allocate in /dev/shm at its start.

    It holds the largest batch of each network, so that a network never fails for want
    of shared memory; a failing step of an ensemble ends Triton 2.51. The preprocessing
    model may need more for a large frame, and refuses the frame if there is no more.

    Args:
        declarations: What is to be served.
        target: Name of the target.
    """
    sizes = [
        _tensor_bytes((*each.inputs, *each.output_tensors), max_batch)
        for each in declarations
        if isinstance(each, Network) and count_instances(each, target, cores=1)
        for max_batch in [each.batching.max_batch_size]
    ]
    return BASE_SHM_BYTES + ceil(SHM_SLACK * max(sizes, default=0))


def cuda_pool_bytes(declarations: Iterable[Declaration], target: str) -> int:
    """Return the size of Triton's memory pool on each GPU; 0 leaves it at its default.

    Preprocessing on a GPU hands crops to the networks in this pool. It holds those of
    as many people as may wait there; Triton's default of 64 MB holds 225 people's.

    Args:
        declarations: What is to be served.
        target: Name of the target.
    """
    return sum(
        _tensor_bytes(each.output_tensors, PEOPLE_PER_GPU)
        for each in declarations
        if isinstance(each, PythonModel) and gpu_form(each, target) is not None
    )


def check_memory(
    declarations: Iterable[Declaration],
    repository: Repository,
    target: str,
    cores: int,
) -> None:
    """Check that the machine has memory for the Python-backend processes.

    Args:
        declarations: What is to be served.
        repository: Where their files are.
        target: Name of the target.
        cores: CPU cores that the instance counts are rendered for.

    Raises:
        ServeError: There is too little memory.
    """
    free = _available_bytes()
    needed = sum(
        count_instances(each, target, cores)
        * process_bytes(_weights_bytes(each, repository, target))
        for each in declarations
        if not isinstance(each, Ensemble)
    )
    if free is not None and free < needed:
        raise ServeError(
            f"the models need about {needed / 2**30:.1f} GiB of memory for one process "
            f"per model and core ({cores} cores), and {free / 2**30:.1f} GiB are "
            "available; serve fewer models (--model person_attributes), or render for "
            "fewer cores (--cores)"
        )


def process_bytes(weights_bytes: int) -> int:
    """Return the private memory of one Python-backend process.

    Args:
        weights_bytes: Size of the ONNX file that it loads; 0 for none.
    """
    return PROCESS_BYTES + ceil(WEIGHT_COPIES * weights_bytes)


def _weights_bytes(
    declaration: Network | PythonModel, repository: Repository, target: str
) -> int:
    if target != "cpu" or not isinstance(declaration, Network):
        return 0
    path = repository.artefact_path(declaration.name, ARTEFACTS[target])
    return path.stat().st_size if path.is_file() else 0


def _available_bytes() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None


def _tensor_bytes(tensors: Sequence[Tensor], rows: int) -> int:
    return sum(
        rows * ITEM_BYTES[t.data_type] * prod(d for d in t.shape if d > 0)
        for t in tensors
    )
