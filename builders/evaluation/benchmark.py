"""What ranking Market-1501 costs: `python -m builders.evaluation.benchmark`.

15,913 gallery and 3,368 query embeddings of 2048 values, seeded; the whole protocol,
plain and re-ranked, beside the plain way in NumPy (one matrix of similarities, a stable
sort of each row). Prints seconds, the largest memory, and the ratio.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from builders import markdown
from builders.evaluation import retrieval
from builders.evaluation.datasets import Retrieval
from builders.evaluation.report import machine

QUERIES, GALLERY, PEOPLE, CAMERAS, SIZE = 3368, 15_913, 750, 6, 2048


def main() -> None:
    """Print one table."""
    rng = np.random.default_rng(0)
    people = rng.integers(1, PEOPLE + 1, QUERIES + GALLERY)
    cameras = rng.integers(1, CAMERAS + 1, len(people))
    vectors = rng.normal(size=(len(people), SIZE)).astype(np.float32)
    vectors += 0.25 * rng.normal(size=(PEOPLE + 1, SIZE)).astype(np.float32)[people]
    files = tuple(f"{index}.jpg" for index in range(len(people)))
    data = Retrieval(Path("none"), files, people, cameras, QUERIES)
    everyone = np.ones(len(people), bool)

    def numpy_alone() -> None:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.argsort(-(unit[:QUERIES] @ unit[QUERIES:].T), axis=1, kind="stable")

    ways: dict[str, Callable[[], object]] = {
        "protocol, by FAISS": lambda: retrieval.assess(
            data, vectors, everyone, rerank=False
        ),
        "the same, re-ranked": lambda: retrieval.assess(
            data, vectors, everyone, rerank=True
        ),
        "NumPy, sorting alone": numpy_alone,
    }
    seconds, peaks = {}, {}
    for name, way in ways.items():
        began = time.perf_counter()
        way()
        seconds[name] = time.perf_counter() - began
        peaks[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    baseline = seconds["NumPy, sorting alone"]
    console = Console()
    console.print(
        markdown.table(
            ["", "s", "of NumPy", "GiB until then"],
            [
                [name, f"{s:.1f}", f"{s / baseline:.2f}", f"{peaks[name]:.2f}"]
                for name, s in seconds.items()
            ],
        )
    )
    console.print(machine(), soft_wrap=True)


if __name__ == "__main__":
    main()
