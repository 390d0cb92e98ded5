"""Time and memory of ranking Market-1501: ours against plain NumPy.

    python -m builders.benchmarks.ranking

3,368 query and 15,913 gallery embeddings of 2048 seeded values are ranked by the whole
evaluation protocol, without and with re-ranking. The baseline is plain NumPy: one
matrix of similarities and a stable sort of each row, without the protocol.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from builders.evaluation import retrieval
from builders.evaluation.datasets import RetrievalImages
from personserve.internal import markdown
from personserve.internal.machine import describe_machine

QUERIES, GALLERY, PEOPLE, CAMERAS, SIZE = 3368, 15_913, 750, 6, 2048
BASELINE = "NumPy, sorting alone"


def main() -> None:
    """Print a table of ranking times and the machine.

    Columns: seconds, the ratio to the time of NumPy, and the largest resident memory of
    the process until then (GiB).
    """
    seconds, peaks = {}, {}
    for name, rank in _rankings().items():
        began = time.perf_counter()
        rank()
        seconds[name] = time.perf_counter() - began
        peaks[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    console = Console()
    console.print(
        markdown.format_table(
            ["", "s", "of NumPy", "GiB until then"],
            [
                [name, f"{s:.1f}", f"{s / seconds[BASELINE]:.2f}", f"{peaks[name]:.2f}"]
                for name, s in seconds.items()
            ],
        )
    )
    console.print(describe_machine(), soft_wrap=True)


def _rankings() -> dict[str, Callable[[], object]]:
    """Return the timed functions; embeddings are noise around one centre per person."""
    rng = np.random.default_rng(0)
    people = rng.integers(1, PEOPLE + 1, QUERIES + GALLERY)
    cameras = rng.integers(1, CAMERAS + 1, len(people))
    vectors = rng.normal(size=(len(people), SIZE)).astype(np.float32)
    vectors += 0.25 * rng.normal(size=(PEOPLE + 1, SIZE)).astype(np.float32)[people]
    files = tuple(f"{index}.jpg" for index in range(len(people)))
    dataset = RetrievalImages(Path("none"), files, people, cameras, QUERIES)
    readable = np.ones(len(people), bool)

    def assess(*, rerank: bool) -> object:
        return retrieval.assess(dataset, vectors, readable, rerank=rerank)

    def sort_by_numpy() -> None:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.argsort(-(unit[:QUERIES] @ unit[QUERIES:].T), axis=1, kind="stable")

    return {
        "protocol, by FAISS": lambda: assess(rerank=False),
        "the same, re-ranked": lambda: assess(rerank=True),
        BASELINE: sort_by_numpy,
    }


if __name__ == "__main__":
    typer.run(main)
