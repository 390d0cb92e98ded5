"""Checks of archives on Ray Data: kills, two nodes, a broken image, memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.archives import Job, Watch
from loadtest.errors import LoadTestError
from loadtest.machine import MIB
from personserve.bulk import Cluster, Outcome, read_dead_letters
from personserve.bulk.archive import BATCH_ITEMS

BOXES_PER_CROP = 5
"""Rows of the run for memory, for each crop."""

KILL_AFTER = 0.3
"""Share of the batches after which an actor, or the driver, is killed."""


def check_kills(job: Job, repository: Path) -> dict[str, str]:
    """Kill an actor, and the driver of a second run; resume; use two nodes.

    Args:
        job: What to do; the loop has done it.
        repository: The model repository, for the command.

    Returns:
        What was seen, by check.

    Raises:
        LoadTestError: Rows differ from those of the unbroken loop.
    """
    cluster = Cluster(workers=job.workers)
    killed: list[int] = []

    def kill_a_worker(outcome: Outcome) -> None:
        if not killed and outcome.items_done > KILL_AFTER * outcome.items:
            killed.append(int(next(iter(outcome.by_worker)).split(":")[1]))
            os.kill(killed[0], signal.SIGKILL)

    actor = job.answer("actor", on_progress=kill_a_worker, cluster=cluster)
    job.require_same("actor")
    before = _kill_driver(job, repository)
    resumed = job.answer("driver", cluster=cluster)
    job.require_same("driver")
    with _start_two_nodes() as address:
        nodes = job.answer("nodes", cluster=Cluster(address))
    job.require_same("nodes")
    by_node: dict[str, int] = {}
    for name, count in nodes.by_worker.items():
        node = name.split(":")[0]
        by_node[node] = by_node.get(node, 0) + count
    letters = read_dead_letters(job.answers / "loop")
    return {
        "kill -9 of an actor": f"{len(actor.by_worker)} processes in all, rows equal",
        "kill -9 of the driver": f"after {before} batches; {resumed.items_before} "
        f"items kept, {resumed.items_done} resumed, rows equal",
        "two nodes": f"batches by node {sorted(by_node.values())}, rows equal",
        "a broken image": f"{len(letters)} dead letter: {letters[0].reason}",
    }


def check_memory(job: Job) -> dict[str, str]:
    """Measure the memory of all processes over several boxes in each crop.

    Args:
        job: What to do.

    Returns:
        Memory after a fifth of the people, and at the end.
    """
    boxes = job.answers / "boxes.jsonl"
    with boxes.open("w", encoding="utf-8") as file:
        for path in sorted(job.crops.glob("[0-9]*[0-9].jpg")):
            for index in range(BOXES_PER_CROP):
                box = {"x0": index, "y0": 0, "x1": 40 + index, "y1": 100}
                file.write(json.dumps({"source": str(path), **box}) + "\n")
    watch, cluster = Watch(), Cluster(workers=job.workers)
    outcome = job.answer("memory", boxes, on_progress=watch.note, cluster=cluster)
    samples = [mib for people, mib in watch.memory_mib if people > outcome.people / 5]
    return {
        f"memory over {outcome.people} people": f"{samples[0]:.0f} MiB after a fifth, "
        f"{samples[-1]:.0f} MiB at the end, {max(samples):.0f} MiB at most"
    }


def _kill_driver(job: Job, repository: Path) -> int:
    """Run the command, kill it with kill -9, and return its number of batches."""
    to = job.answers / "driver"
    options = {
        "--output": to,
        "--workers": job.workers,
        "--repository": repository,
        "--model": job.model,
    }
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "personserve", "bulk", str(job.crops), *words]
    wanted = KILL_AFTER * len(list(job.crops.iterdir())) / BATCH_ITEMS
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if len(list(to.glob("answers/*.parquet"))) > wanted:
            process.kill()
            process.wait()
            return len(list(to.glob("answers/*.parquet")))
        time.sleep(0.1)
    raise LoadTestError(f"the driver ended with {process.returncode} before the kill")


@contextmanager
def _start_two_nodes() -> Iterator[str]:
    """Start two nodes of Ray with one CPU each on this machine."""
    from ray.cluster_utils import Cluster as RayCluster

    store: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * MIB}
    nodes = RayCluster(
        initialize_head=True, head_node_args={**store, "include_dashboard": False}
    )
    try:
        nodes.add_node(**store)
        yield nodes.address
    finally:
        nodes.shutdown()  # type: ignore[no-untyped-call]
