"""The evaluation protocols against plain implementations of the same metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.evaluation import classification, gender, kinship, retrieval
from builders.evaluation.datasets import (
    EvaluationError,
    ImagePairs,
    LabelledImages,
    RetrievalImages,
)
from builders.evaluation.rerank import reranked_distances
from builders.models.kinship_compact import RELATED
from builders.models.person_gender import FEMALE_PROBABILITY
from personserve.internal.sections import Plot, Sheet

HERE = Path("nowhere")


def _brute_force(
    distances: np.ndarray, people: np.ndarray, cameras: np.ndarray, queries: int
) -> dict[str, float]:
    """Market-1501's protocol, image by image."""
    cmc, ap, inp = [], [], []
    gallery = range(queries, len(people))
    for q in range(queries):
        order = sorted(gallery, key=lambda g: (distances[q, g - queries], g))
        kept = [
            g
            for g in order
            if not (people[g] == people[q] and cameras[g] == cameras[q])
        ]
        hits = [rank for rank, g in enumerate(kept, 1) if people[g] == people[q]]
        if not hits:
            continue
        cmc.append(hits[0])
        ap.append(sum(n / rank for n, rank in enumerate(hits, 1)) / len(hits))
        inp.append(len(hits) / hits[-1])
    return {
        "rank-1": sum(first <= 1 for first in cmc) / len(cmc),
        "rank-5": sum(first <= 5 for first in cmc) / len(cmc),
        "mAP": sum(ap) / len(ap),
        "mINP": sum(inp) / len(inp),
        "queries with a match": len(cmc),
    }


def _people(seed: int, count: int = 240, queries: int = 60) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(seed)
    people, cameras = rng.integers(0, 25, count), rng.integers(1, 4, count)
    people[:3] = 1000 + np.arange(3)  # queries without any match
    centres = rng.normal(size=(1003, 16))
    vectors = centres[people] + rng.normal(size=(count, 16)) * 1.5
    vectors[-10:] = vectors[-20:-10]  # ties
    files = tuple(f"{index}.jpg" for index in range(count))
    return RetrievalImages(HERE, files, people, cameras, queries), vectors.astype(
        np.float32
    )


def _dense_rerank(
    vectors: np.ndarray, queries: int, k1: int, k2: int, weight: float
) -> np.ndarray:
    """k-reciprocal re-ranking as the paper writes it, with full matrices."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    square = (1 - unit @ unit.T) ** 2
    original = (square / square.max(axis=0)).T
    ranks = np.argsort(original, axis=1, kind="stable")
    total = len(vectors)

    def mutual(i: int, k: int) -> set[int]:
        return {j for j in ranks[i, : k + 1] if i in ranks[j, : k + 1]}

    encoding = np.zeros((total, total))
    for i in range(total):
        own = mutual(i, k1)
        chosen = set(own)
        for j in own:
            other = mutual(j, round(k1 / 2))
            if len(other & own) > 2 / 3 * len(other):
                chosen |= other
        for j in chosen:
            encoding[i, j] = np.exp(-original[i, j])
        encoding[i] /= encoding[i].sum()
    averaged = np.stack([encoding[ranks[i, :k2]].mean(axis=0) for i in range(total)])
    final = np.empty((queries, total - queries))
    for q in range(queries):
        shared = np.minimum(averaged[q], averaged[queries:]).sum(axis=1)
        jaccard = 1 - shared / (2 - shared)
        final[q] = (1 - weight) * jaccard + weight * original[q, queries:]
    return final


@pytest.mark.parametrize("seed", range(4))
def test_market1501s_protocol(seed: int) -> None:
    data, vectors = _people(seed)
    # FP64, because NumPy's FP32 products of equal rows differ on some CPUs: no ties
    exact = vectors.astype(np.float64)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    distances = 1 - unit[: data.queries] @ unit[data.queries :].T
    expected = _brute_force(distances, data.identities, data.cameras, data.queries)
    numbers = retrieval.assess(data, vectors, np.ones(240, bool), rerank=False).numbers
    assert expected["queries with a match"] <= 57
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-9)


def test_unreadable_images_take_no_part() -> None:
    data, vectors = _people(9)
    readable = np.ones(240, bool)
    readable[[5, 100, 200]] = False
    vectors[~readable] = np.nan
    kept = np.flatnonzero(readable)
    smaller = RetrievalImages(
        HERE,
        tuple(data.files[i] for i in kept),
        data.identities[kept],
        data.cameras[kept],
        59,
    )
    numbers = retrieval.assess(data, vectors, readable, rerank=False).numbers
    expected = retrieval.assess(
        smaller, vectors[kept], np.ones(237, bool), rerank=False
    )
    assert numbers == expected.numbers


def test_ties_keep_the_gallerys_order() -> None:
    vectors = np.tile(np.array([[0.6, 0.8]], np.float32), (7, 1))
    data = RetrievalImages(
        HERE,
        tuple("abcdefg"),
        np.array([1, 2, 2, 1, 2, 1, 2]),
        np.array([1, 2, 2, 2, 2, 2, 2]),
        1,
    )
    numbers = retrieval.assess(data, vectors, np.ones(7, bool), rerank=False).numbers
    # the matches are 3rd and 5th in the gallery
    assert numbers["mAP"] == pytest.approx((1 / 3 + 2 / 5) / 2)
    assert numbers["mINP"] == pytest.approx(2 / 5)


@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (7, 1, 0.5)])
def test_reranking_equals_its_dense_form(k1: int, k2: int, weight: float) -> None:
    rng = np.random.default_rng(k1)
    vectors = rng.normal(size=(9, 12))[rng.integers(0, 9, 90)]
    vectors = (vectors + rng.normal(size=(90, 12)) * 0.7).astype(np.float32)
    unit = retrieval.normalise_rows(vectors)
    distances = reranked_distances(unit[:20], unit[20:], k1, k2, weight)
    expected = _dense_rerank(vectors.astype(np.float64), 20, k1, k2, weight)
    np.testing.assert_allclose(distances, expected, atol=1e-5)


def test_reranking_is_used() -> None:
    data, vectors = _people(2)
    everyone = np.ones(240, bool)
    plain = retrieval.assess(data, vectors, everyone, rerank=False).headline
    again = retrieval.assess(data, vectors, everyone, rerank=True).headline
    assert again["mAP"] > plain["mAP"]  # type: ignore[operator]


def _gender(count: int, seed: int = 0) -> tuple[LabelledImages, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    scores = np.clip(labels * 0.3 + rng.normal(0.35, 0.2, count), 0, 1)
    labels[::17] = -1
    hats = tuple(rng.choice(["hat", "no hat", ""], count).tolist())
    files = tuple(f"{index}.jpg" for index in range(count))
    names = FEMALE_PROBABILITY.labels
    assert names
    return (
        LabelledImages(HERE, files, names, labels, {"hat": hats}),
        scores.astype(np.float32),
    )


def _assess_gender(data: LabelledImages, scores: np.ndarray, **how: Any) -> Any:
    defaults: dict[str, Any] = {"abstain": 0.1, "group_by": ()}
    return gender.assess(
        data, FEMALE_PROBABILITY, scores, np.ones(len(scores), bool), **defaults | how
    )


def test_unknown_labels_are_masked() -> None:
    from sklearn import metrics

    data, scores = _gender(400)
    known = data.labels >= 0
    assessment = _assess_gender(data, scores)
    expected = metrics.accuracy_score(data.labels[known], scores[known] >= 0.5)
    assert assessment.headline["accuracy"] == pytest.approx(expected)
    assert assessment.numbers["images"] == known.sum()
    assert assessment.numbers["unknown_labels"] == (~known).sum()
    expected = metrics.roc_auc_score(data.labels[known], scores[known])
    assert assessment.headline["ROC AUC"] == pytest.approx(expected)


def test_the_report_has_the_published_layout() -> None:
    """The figures of the TensorRT gender network, from a matching confusion matrix."""
    names = FEMALE_PROBABILITY.labels
    assert names
    counts = {(0, 0): 5444, (0, 1): 531, (1, 0): 485, (1, 1): 3423}
    labels = np.concatenate([np.full(n, label) for (label, _), n in counts.items()])
    scores = np.concatenate([np.full(n, 0.9 * a) for (_, a), n in counts.items()])
    data = LabelledImages(HERE, ("x",) * len(labels), names, labels)
    assert _assess_gender(data, scores).numbers["report_text"] == (
        "              precision    recall  f1-score   support\n"
        "\n"
        "        male       0.92      0.91      0.91      5975\n"
        "      female       0.87      0.88      0.87      3908\n"
        "\n"
        "    accuracy                           0.90      9883\n"
        "   macro avg       0.89      0.89      0.89      9883\n"
        "weighted avg       0.90      0.90      0.90      9883\n"
    )


def test_abstaining_trades_coverage_for_accuracy() -> None:
    data, scores = _gender(1000)
    numbers = _assess_gender(data, scores, abstain=0.12).numbers
    known = data.labels >= 0
    labels, scores = data.labels[known], scores[known].astype(np.float64)
    sure = (scores >= 0.62) | (scores <= 0.38)
    assert numbers["abstain"]["coverage"] == pytest.approx(sure.mean(), abs=0.002)
    right = (scores >= 0.5)[sure] == labels[sure]
    assert numbers["abstain"]["accuracy"] == pytest.approx(right.mean(), abs=0.002)
    rows = numbers["coverage"]
    assert rows[0]["coverage"] == 1
    assert rows[-1]["accuracy"] > rows[0]["accuracy"]


def test_error_by_group() -> None:
    data, scores = _gender(500)
    rows = _assess_gender(data, scores, group_by=["hat"]).numbers["groups"]["hat"]
    assert [row["value"] for row in rows] == ["hat", "no hat"]
    for row in rows:
        inside = np.array([g == row["value"] for g in data.groups["hat"]])
        inside &= data.labels >= 0
        wrong = (scores >= 0.5)[inside] != data.labels[inside]
        assert row["images"] == inside.sum()
        assert row["error"] == pytest.approx(wrong.mean())
        assert row["low"] < row["error"] < row["high"]
    with pytest.raises(EvaluationError, match=r"no column shoes .*there are: hat"):
        _assess_gender(data, scores, group_by=["shoes"])


def test_one_class_alone_has_no_roc() -> None:
    data, scores = _gender(50)
    alone = LabelledImages(HERE, data.files, data.names, np.zeros(50, np.int64))
    assessment = _assess_gender(alone, scores)
    assert assessment.headline["ROC AUC"] is None
    stems = [s.stem for s in assessment.sections if isinstance(s, Plot | Sheet)]
    assert stems == ["confusion", "coverage", "mistakes"]


def test_top_1_and_top_5() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 40, 300), rng.normal(size=(300, 40))
    logits[np.arange(300), labels] += 2
    data = LabelledImages(HERE, ("x",) * 300, tuple(str(n) for n in range(40)), labels)
    headline = classification.assess(
        data, logits.astype(np.float32), np.ones(300, bool)
    ).headline
    order = np.argsort(-logits, axis=1)
    hits = order == labels[:, None]
    assert headline["top-1"] == pytest.approx(hits[:, :1].any(axis=1).mean())
    assert headline["top-5"] == pytest.approx(hits[:, :5].any(axis=1).mean())


def test_kinship_and_the_submission_file() -> None:
    rng = np.random.default_rng(0)
    related = rng.integers(0, 2, 200)
    scores = (related * 0.2 + rng.uniform(size=200) * 0.8).astype(np.float32)
    items = [("a.jpg", "b.jpg")] * 200
    everything = np.ones(200, bool)
    assessment = kinship.assess(
        ImagePairs(HERE, items, related), RELATED, scores, everything
    )
    positive, negative = scores[related == 1], scores[related == 0]
    # the share of (related, unrelated) pairs in the right order
    expected = (positive[:, None] > negative[None]).mean()
    assert assessment.headline["ROC AUC"] == pytest.approx(expected, abs=1e-6)

    names = tuple(f"a{n}.jpg-b.jpg" for n in range(200))
    unknown = ImagePairs(HERE, items, np.full(200, -1), names)
    everything[1] = False
    scores[1] = np.nan
    text = kinship.assess(unknown, RELATED, scores, everything).files["submission.csv"]
    lines = text.splitlines()
    assert lines[0] == "img_pair,is_related"
    assert lines[1] == f"a0.jpg-b.jpg,{scores[0]:.6f}"
    assert lines[2] == "a1.jpg-b.jpg,0.500000"
    assert len(lines) == 201
