"""Re-identification by Market-1501's protocol: CMC, mAP and mINP on cosine similarity.

For each query the gallery is sorted, without pictures of the same person by the same
camera; queries that are left without a match do not count. Ties keep the gallery's
order (FastReID's sort is not stable, so its fourth digit may differ). AP is the mean
precision at the matches, INP the number of matches over the rank of the last (Ye et
al., 2021). Neighbours are found by FAISS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders import markdown
from builders.evaluation.assessment import Assessment, Pixels, figure
from builders.evaluation.datasets import EvaluationError, Retrieval
from builders.evaluation.pictures import Tile, sheet
from builders.evaluation.rerank import K1, K2, LAMBDA, reranked_distances

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

MAX_RANK = 50
RANKS = (1, 5, 10, 20)
RERANKED = f"\n\nk-reciprocal re-ranking: k1 {K1}, k2 {K2}, lambda {LAMBDA}."

BLOCK = 256
"""Queries sorted at once: 256 x 15,913 similarities and places are 48 MB."""

SHOWN_QUERIES, SHOWN_RANKS = 8, 10
GREEN, RED, BLUE = (60, 160, 60), (40, 40, 200), (190, 120, 30)


def assess(
    data: Retrieval, embeddings: FloatArray, readable: Any, *, rerank: bool
) -> Assessment:
    """`embeddings` FP32 [N, D] of the files of `data`, of which `readable` [N] are."""
    is_query = np.arange(len(readable)) < data.queries
    query, gallery = (np.flatnonzero(readable & part) for part in (is_query, ~is_query))
    vectors = normalised(np.asarray(embeddings))
    if rerank:
        distances = reranked_distances(vectors[query], vectors[gallery])
        orders = _orders_of_distances(distances)
    else:
        orders = gallery_orders(vectors[query], vectors[gallery])
    people, cameras = data.identities, data.cameras
    ranking = _Ranking(people[query], cameras[query], people[gallery], cameras[gallery])
    best = []
    for start, order in orders:
        ranking.add(start, order)
        if start == 0:
            best = list(order[:SHOWN_QUERIES, : 4 * SHOWN_RANKS])
    found = ranking.result()
    cmc = found.pop("cmc")
    return Assessment(
        headline={
            "rank-1": found["rank-1"],
            "mAP": found["mAP"],
            "mINP": found["mINP"],
        },
        numbers={**found, "cmc": cmc, "re-ranked": rerank, "ties": "gallery's order"},
        text={
            "Re-identification": markdown.table(
                ["", "value"],
                [[k, f"{v:.2%}" if v <= 1 else f"{v:g}"] for k, v in found.items()],
            )
            + (RERANKED if rerank else "")
        },
        plots={"cmc": _cmc_plot(cmc)},
        pictures=_shown(data, query, gallery, best),
    )


def normalised(vectors: FloatArray) -> FloatArray:
    """A copy in which every row has length 1."""
    import faiss

    copy = np.array(vectors, np.float32, order="C")
    faiss.normalize_L2(copy)
    return copy


def gallery_orders(
    query: FloatArray, gallery: FloatArray
) -> Iterator[tuple[int, IntArray]]:
    """(first query, the gallery in order of falling cosine for each query [B, G])."""
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    for start in range(0, len(query), BLOCK):
        similarities, places = index.search(query[start : start + BLOCK], len(gallery))
        # FAISS leaves ties in any order
        order = np.lexsort((places, -similarities), axis=1)
        yield start, np.take_along_axis(places, order, axis=1)


def _orders_of_distances(distances: FloatArray) -> Iterator[tuple[int, IntArray]]:
    for start in range(0, len(distances), BLOCK):
        block = distances[start : start + BLOCK]
        yield start, np.argsort(block, axis=1, kind="stable")


class _Ranking:
    """Collects the protocol's figures, query by query."""

    def __init__(
        self, query: IntArray, query_cameras: IntArray, gallery: IntArray, cameras: Any
    ) -> None:
        self._query, self._query_cameras = query, query_cameras
        self._gallery, self._cameras = gallery, cameras
        self._cmc: list[npt.NDArray[np.bool_]] = []
        self._ap: list[float] = []
        self._inp: list[float] = []

    def add(self, start: int, orders: IntArray) -> None:
        for index, order in enumerate(orders, start=start):
            same = self._gallery[order] == self._query[index]
            junk = same & (self._cameras[order] == self._query_cameras[index])
            matches = same[~junk]
            places = np.flatnonzero(matches)
            if not places.size:
                continue
            nth = np.arange(1, len(places) + 1)
            self._ap.append(float((nth / (places + 1)).mean()))
            self._inp.append(len(places) / (int(places[-1]) + 1))
            self._cmc.append(np.arange(MAX_RANK) >= places[0])

    def result(self) -> dict[str, Any]:
        if not self._ap:
            raise EvaluationError(
                "no query has a picture of the same person by another camera"
            )
        cmc = np.mean(self._cmc, axis=0)
        return {
            **{f"rank-{rank}": float(cmc[rank - 1]) for rank in RANKS},
            "mAP": float(np.mean(self._ap)),
            "mINP": float(np.mean(self._inp)),
            "queries": len(self._query),
            "queries that count": len(self._ap),
            "gallery": len(self._gallery),
            "cmc": cmc.tolist(),
        }


def _cmc_plot(cmc: list[float]) -> Figure:
    plot = figure()
    axes = plot.subplots()
    axes.plot(range(1, len(cmc) + 1), cmc, marker=".")
    axes.set(xlabel="rank", ylabel="share of queries found", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return plot


def _shown(
    data: Retrieval, query: IntArray, gallery: IntArray, orders: list[IntArray]
) -> Mapping[str, Pixels]:
    """The first queries, and what the gallery answers to them."""
    rows = []
    for index, order in zip(query, orders, strict=False):
        person, camera = data.identities[index], data.cameras[index]
        row = [Tile(data.root / data.files[index], f"query {person}", BLUE)]
        for place in gallery[order]:
            same = data.identities[place] == person
            if same and data.cameras[place] == camera:
                continue
            row.append(
                Tile(
                    data.root / data.files[place],
                    str(data.identities[place]),
                    GREEN if same else RED,
                )
            )
        rows.append(row[: SHOWN_RANKS + 1])
    return {"ranking": sheet(rows)} if rows else {}
