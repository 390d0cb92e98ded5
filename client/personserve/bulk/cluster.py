"""Workers on Ray Data: actors that answer batches, on one machine or on a cluster.

Ray Data's own checkpoint is not used. It needs an id that each row keeps from the input
to the written file, and it writes a checkpoint of the rows that are written. Here a row
of the input (a batch) becomes any number of people, also none, and a batch without
people would never be complete. Instead each worker writes the file of a batch
atomically, under the batch's key, and the presence of that file is the checkpoint (see
personserve.bulk.folder). Ray Data distributes the batches, starts killed actors again,
repeats their batches, and hands out no more than the workers take.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from personserve._errors import InvalidInputError, PersonServeError
from personserve.bulk.items import Batch, Item
from personserve.bulk.worker import BatchReport, Worker

MAX_BLOCKS = 4096
"""Largest number of Ray's tasks; with more batches, a task has several."""

TASK_RETRIES = 3
"""Repetitions of a task whose worker died. More would repeat for ever an image that
kills its reader."""

OBJECT_STORE_BYTES = 96 << 20
"""Shared memory of a Ray that is started here; batches and reports are small."""


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    Attributes:
        address: Address of a Ray cluster, for example "ray-head:6379" or "auto"; None
            to start Ray on this machine, for this run only.
        workers: Number of workers; None for one per CPU of the cluster.
        cpus_per_worker: CPUs that a worker reserves. A fraction fits workers that wait
            for a server.
        gpus_per_worker: GPUs that a worker reserves, for a detector on a GPU; a
            fraction puts several workers on one.
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    def answer(
        self, batches: Sequence[Batch], build_worker: Callable[[], Worker]
    ) -> Generator[BatchReport, None, None]:
        """Answer batches with workers in actors.

        Args:
            batches: The batches.
            build_worker: Builds a worker in an actor's process.

        Yields:
            The report of each batch, as they become complete.

        Raises:
            InvalidInputError: Ray is missing, or there is no cluster at the address.
            PersonServeError: A task failed more than TASK_RETRIES times.
        """
        with _connect(self.address) as ray:
            workers = self.workers or self._count_workers(ray)
            blocks = min(len(batches), max(MAX_BLOCKS, workers))
            rows = [{"batch": _text_from_batch(batch)} for batch in batches]
            dataset = ray.data.from_items(rows, override_num_blocks=blocks)
            with warnings.catch_warnings():
                # 2.60 deprecates, and 2.64 removes, the only way to limit retries
                warnings.simplefilter("ignore", DeprecationWarning)
                dataset = dataset.map_batches(
                    _Actor,
                    fn_constructor_kwargs={"build_worker": build_worker},
                    batch_size=1,
                    compute=ray.data.ActorPoolStrategy(size=workers),
                    num_cpus=self.cpus_per_worker,
                    num_gpus=self.gpus_per_worker or None,
                    ray_remote_args_fn=_restart_options,
                )
            try:
                for row in dataset.iter_rows():
                    yield BatchReport(**json.loads(row["report"]))
            except ray.exceptions.RayError as exc:
                raise PersonServeError(
                    f"a worker failed; what is complete is kept: {_reason_of(exc)}"
                ) from exc

    def _count_workers(self, ray: Any) -> int:
        resources = ray.cluster_resources()
        count = int(resources.get("CPU", 1) / self.cpus_per_worker)
        if self.gpus_per_worker:
            gpus = int(resources.get("GPU", 0) / self.gpus_per_worker)
            if gpus == 0:
                raise InvalidInputError(
                    f"expected a GPU for each {1 / self.gpus_per_worker:g} workers, "
                    "and the cluster has no GPU"
                )
            count = min(count, gpus)
        return max(1, count)


def _restart_options() -> dict[str, Any]:
    return {"max_restarts": -1, "max_task_retries": TASK_RETRIES}


class _Actor:
    """A worker as Ray Data calls it, with rows of text."""

    def __init__(self, build_worker: Callable[[], Worker]) -> None:
        self._worker = build_worker()
        import ray

        node = ray.get_runtime_context().get_node_id()[:8]
        self._name = f"{node}:{os.getpid()}"

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        reports = []
        for text in rows["batch"]:
            report = self._worker.answer(_batch_from_text(str(text)))
            reports.append(json.dumps(asdict(replace(report, worker=self._name))))
        return {"report": reports}


@contextmanager
def _connect(address: str | None) -> Iterator[Any]:
    """Use the Ray of this process, or connect to one, or start one for the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise InvalidInputError(
            "workers need Ray Data (the extra `bulk` of personserve); without it, "
            f"answer in this process (--workers 0): {exc}"
        ) from exc
    is_ours = not ray.is_initialized()
    if is_ours:
        own: dict[str, Any] = {
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        try:
            ray.init(
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **({} if address else own),
            )
        except (ConnectionError, ValueError, RuntimeError) as exc:
            raise InvalidInputError(
                f"cannot {'connect to' if address else 'start'} Ray: {exc}"
            ) from exc
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()


def _text_from_batch(batch: Batch) -> str:
    return json.dumps([asdict(item) for item in batch.items])


def _batch_from_text(text: str) -> Batch:
    items = []
    for values in json.loads(text):
        boxes = values.pop("boxes")
        rows = None if boxes is None else tuple(tuple(row) for row in boxes)
        items.append(Item(**values, boxes=rows))
    return Batch(tuple(items))


def _reason_of(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1]}"
