"""k-reciprocal re-ranking of retrieval results, with sparse matrices.

The algorithm is that of Zhong et al., "Re-ranking Person Re-identification with
k-reciprocal Encoding", CVPR 2017 (https://github.com/zhunzhong07/person-re-ranking).
Distances are squared cosine distances, each row divided by its largest. Neighbours come
from FAISS and the encoding is sparse: the dense form would take 3 GB for the 19,281
images of Market-1501.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

K1, K2, LAMBDA = 20, 6, 0.3
"""Parameters of the paper and of FastReID."""

OVERLAP = 2 / 3
"""Share of its neighbours that a candidate must have in common, as in the paper."""


def reranked_distances(
    query: FloatArray,
    gallery: FloatArray,
    k1: int = K1,
    k2: int = K2,
    weight: float = LAMBDA,
) -> FloatArray:
    """Compute the distances of queries and gallery after re-ranking.

    Args:
        query: Unit vectors, FP32 [Q, D].
        gallery: Unit vectors, FP32 [G, D].
        k1: Number of neighbours for the reciprocal sets.
        k2: Number of neighbours for the local query expansion; 1 disables it.
        weight: Share of the original distance in the result, lambda in the paper.

    Returns:
        Distances, FP32 [Q, G].
    """
    import faiss

    vectors = np.vstack([query, gallery])
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    _, nearest = index.search(vectors, min(k1 + 1, len(vectors)))
    # the least similar of x is the most similar of -x
    opposite, _ = index.search(-vectors, 1)
    largest = (1 + opposite[:, 0]) ** 2
    encodings = _encode(vectors, nearest, largest, k1)
    if k2 > 1:
        encodings = _average_over_neighbours(encodings, nearest[:, :k2])
    return _mix_distances(query, gallery, encodings, largest, weight)


def _encode(
    vectors: FloatArray, nearest: IntArray, largest: FloatArray, k1: int
) -> Any:
    """Encode each image by its expanded k-reciprocal neighbours, as a CSR matrix."""
    from scipy.sparse import csr_matrix

    count, half = len(vectors), round(k1 / 2)
    reciprocal = [_reciprocal_neighbours(i, nearest, k1) for i in range(count)]
    closer = [
        set(_reciprocal_neighbours(i, nearest, half).tolist()) for i in range(count)
    ]
    starts, columns, values = [0], [], []
    for i, neighbours in enumerate(reciprocal):
        expanded = _expand_neighbours(neighbours, closer)
        distance = (1 - vectors[expanded] @ vectors[i]) ** 2 / largest[i]
        encoding = np.exp(-distance)
        columns.append(expanded)
        values.append(encoding / encoding.sum())
        starts.append(starts[-1] + len(expanded))
    return csr_matrix(
        (np.concatenate(values), np.concatenate(columns), starts), shape=(count, count)
    )


def _reciprocal_neighbours(i: int, nearest: IntArray, k: int) -> IntArray:
    """Return those of the `k` nearest images, `i` included, that have `i` in theirs."""
    forward = nearest[i, : k + 1]
    backward = nearest[forward, : k + 1]
    mutual: IntArray = forward[(backward == i).any(axis=1)]
    return mutual


def _expand_neighbours(neighbours: IntArray, closer: list[set[int]]) -> IntArray:
    """Add the close neighbours of each candidate whose own set mostly overlaps."""
    members = set(neighbours.tolist())
    result = set(members)
    for candidate in neighbours.tolist():
        others = closer[candidate]
        if len(others & members) > OVERLAP * len(others):
            result |= others
    return np.array(sorted(result), np.int64)


def _average_over_neighbours(encodings: Any, neighbours: IntArray) -> Any:
    """Local query expansion: replace each encoding by the mean of its neighbours'."""
    from scipy.sparse import csr_matrix

    k2 = neighbours.shape[1]
    mean = csr_matrix(
        (
            np.full(neighbours.size, 1 / k2, np.float32),
            neighbours.ravel(),
            np.arange(0, neighbours.size + 1, k2),
        ),
        shape=encodings.shape,
    )
    return (mean @ encodings).tocsr()


def _mix_distances(
    query: FloatArray,
    gallery: FloatArray,
    encodings: Any,
    largest: FloatArray,
    weight: float,
) -> FloatArray:
    """Mix the Jaccard distances of the encodings with the original distances."""
    by_column = encodings[len(query) :].tocsc()
    final = np.empty((len(query), len(gallery)), np.float32)
    for i in range(len(query)):
        row = encodings[i]
        shared = np.zeros(len(gallery), np.float32)
        for column, value in zip(row.indices, row.data, strict=True):
            entries = slice(by_column.indptr[column], by_column.indptr[column + 1])
            rows = by_column.indices[entries]
            shared[rows] += np.minimum(value, by_column.data[entries])
        jaccard = 1 - shared / (2 - shared)
        original = (1 - gallery @ query[i]) ** 2 / largest[i]
        final[i] = (1 - weight) * jaccard + weight * original
    return final
