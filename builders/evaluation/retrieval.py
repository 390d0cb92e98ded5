"""Re-identification by the protocol of Market-1501: CMC, mAP and mINP.

For each query the gallery is sorted by cosine similarity. Images of the same person by
the same camera are left out, and queries without a match among the rest do not count
(Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015). CMC at rank
k is the share of queries with a match among the first k; AP is the mean precision at
the matches; INP is the number of matches over the rank of the last one (Ye et al.,
"Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021).

Ties keep the gallery's order. FastReID (https://github.com/JDAI-CV/fast-reid) sorts
ties in any order, so its fourth digit may differ. Neighbours come from FAISS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import EvaluationError, IntArray, RetrievalImages
from builders.evaluation.rerank import K1, K2, LAMBDA, reranked_distances
from builders.images import Tile, draw_contact_sheet
from personserve.internal.figures import new_figure
from personserve.internal.sections import Plot, Sheet, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

MAX_RANK = 50
RANKS = (1, 5, 10, 20)
RERANK_NOTE = f"k-reciprocal re-ranking: k1 {K1}, k2 {K2}, lambda {LAMBDA}."

BLOCK = 256
"""Queries per search: 256 x 15,913 similarities and indices take 48 MB."""

SHEET_QUERIES, SHEET_RANKS = 8, 10
GREEN, RED, BLUE = (60, 160, 60), (40, 40, 200), (190, 120, 30)


def assess(
    dataset: RetrievalImages,
    embeddings: FloatArray,
    readable: BoolArray,
    *,
    rerank: bool,
) -> Assessment:
    """Compute CMC, mAP and mINP.

    Args:
        dataset: Queries and gallery.
        embeddings: Embedding of each image, FP32 [N, D], of any length.
        readable: Images that have an embedding, BOOL [N].
        rerank: Sort by k-reciprocal re-ranking instead of cosine similarity.

    Returns:
        The assessment; its headline is rank-1, mAP and mINP.

    Raises:
        EvaluationError: If no query has a match by another camera.
    """
    is_query = np.arange(len(readable)) < dataset.queries
    query, gallery = (np.flatnonzero(readable & part) for part in (is_query, ~is_query))
    unit = normalise_rows(np.asarray(embeddings))
    if rerank:
        orders = _sort_distances(reranked_distances(unit[query], unit[gallery]))
    else:
        orders = sort_gallery(unit[query], unit[gallery])
    metrics = _RetrievalMetrics(dataset, query, gallery)
    sheet_orders: list[IntArray] = []
    for start, order in orders:
        metrics.add(start, order)
        if start == 0:
            sheet_orders = list(order[:SHEET_QUERIES].copy())
    values = metrics.result()
    cmc = values.pop("cmc")
    return Assessment(
        headline={name: values[name] for name in ("rank-1", "mAP", "mINP")},
        numbers={**values, "cmc": cmc, "reranked": rerank, "ties": "gallery's order"},
        sections=[
            Table(
                "Re-identification",
                ["", "value"],
                [
                    [name, f"{value:.2%}" if isinstance(value, float) else str(value)]
                    for name, value in values.items()
                ],
                RERANK_NOTE if rerank else "",
            ),
            Plot("Cumulative matching", _draw_cmc(cmc), "cmc"),
            *_draw_rankings(dataset, query, gallery, sheet_orders),
        ],
    )


def normalise_rows(vectors: FloatArray) -> FloatArray:
    """Return a copy in which every row has length 1.

    Args:
        vectors: FP32 [N, D].

    Returns:
        Unit vectors, FP32 [N, D].
    """
    import faiss

    copy = np.array(vectors, np.float32, order="C")
    faiss.normalize_L2(copy)
    return copy


def sort_gallery(
    query: FloatArray, gallery: FloatArray
) -> Iterator[tuple[int, IntArray]]:
    """Sort the gallery by decreasing cosine similarity, for a block of queries a time.

    Args:
        query: Unit vectors, FP32 [Q, D].
        gallery: Unit vectors, FP32 [G, D].

    Yields:
        The block's first query, and the gallery's order for each query of the block,
        INT64 [block, G].
    """
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    for start in range(0, len(query), BLOCK):
        block = query[start : start + BLOCK]
        similarities, indices = index.search(block, len(gallery))
        # FAISS returns ties in any order
        order = np.lexsort((indices, -similarities), axis=1)
        yield start, np.take_along_axis(indices, order, axis=1)


def _sort_distances(distances: FloatArray) -> Iterator[tuple[int, IntArray]]:
    for start in range(0, len(distances), BLOCK):
        block = distances[start : start + BLOCK]
        yield start, np.argsort(block, axis=1, kind="stable")


class _RetrievalMetrics:
    """Accumulates the protocol's metrics, query by query."""

    def __init__(
        self, dataset: RetrievalImages, query: IntArray, gallery: IntArray
    ) -> None:
        people, cameras = dataset.identities, dataset.cameras
        self._query_people, self._query_cameras = people[query], cameras[query]
        self._gallery_people, self._gallery_cameras = people[gallery], cameras[gallery]
        self._cmc: list[BoolArray] = []
        self._ap: list[float] = []
        self._inp: list[float] = []

    def add(self, start: int, orders: IntArray) -> None:
        """Add the queries from `start` on, given their orders of the gallery [B, G]."""
        for index, order in enumerate(orders, start=start):
            same_person = self._gallery_people[order] == self._query_people[index]
            same_camera = self._gallery_cameras[order] == self._query_cameras[index]
            matches = same_person[~(same_person & same_camera)]
            ranks = np.flatnonzero(matches) + 1
            if not ranks.size:
                continue
            self._ap.append(float((np.arange(1, len(ranks) + 1) / ranks).mean()))
            self._inp.append(len(ranks) / int(ranks[-1]))
            self._cmc.append(np.arange(1, MAX_RANK + 1) >= ranks[0])

    def result(self) -> dict[str, Any]:
        if not self._ap:
            raise EvaluationError(
                "no query has an image of the same person by another camera"
            )
        cmc = np.mean(self._cmc, axis=0)
        return {
            **{f"rank-{rank}": float(cmc[rank - 1]) for rank in RANKS},
            "mAP": float(np.mean(self._ap)),
            "mINP": float(np.mean(self._inp)),
            "queries": len(self._query_people),
            "queries with a match": len(self._ap),
            "gallery": len(self._gallery_people),
            "cmc": cmc.tolist(),
        }


def _draw_cmc(cmc: list[float]) -> Figure:
    plot = new_figure()
    axes = plot.subplots()
    axes.plot(range(1, len(cmc) + 1), cmc, marker=".")
    axes.set(
        xlabel="rank (number of gallery images that are looked at)",
        ylabel="share of queries with a match among them",
        ylim=(0, 1.02),
    )
    axes.grid(alpha=0.3)
    return plot


def _draw_rankings(
    dataset: RetrievalImages,
    query: IntArray,
    gallery: IntArray,
    orders: list[IntArray],
) -> list[Sheet]:
    """Draw the first queries, each with the images that rank highest for it."""
    rows = []
    for index, order in zip(query, orders, strict=False):
        person, camera = dataset.identities[index], dataset.cameras[index]
        same = dataset.identities[gallery[order]] == person
        counts = ~(same & (dataset.cameras[gallery[order]] == camera))
        row = [Tile(dataset.root / dataset.files[index], f"query {person}", BLUE)]
        for ranked in gallery[order][counts][:SHEET_RANKS]:
            other = dataset.identities[ranked]
            colour = GREEN if other == person else RED
            row.append(Tile(dataset.root / dataset.files[ranked], str(other), colour))
        rows.append(row)
    title = "First queries, and the images that rank highest (green: the same person)"
    return [Sheet(title, draw_contact_sheet(rows), "ranking")] if rows else []
