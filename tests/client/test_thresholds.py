"""Thresholds for "the same person": their rates hold, and their limits are stated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from personserve import EmbeddingSource, Gender, People, Person
from personserve.gallery import (
    GalleryError,
    Threshold,
    estimate_threshold,
    estimate_threshold_from_frames,
)
from personserve.gallery import thresholds as module

UNTRAINED = EmbeddingSource("reid", "stand-in", untrained=True)


def _labelled(people: int, images: int, noise: float = 0.6, seed: int = 0):
    """Return embeddings of people with several images each, and their identities."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(people, 32)), images, axis=0)
    vectors = centres + noise * rng.normal(size=centres.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = np.repeat([f"p{i}" for i in range(people)], images).tolist()
    return vectors.astype(np.float32), names


def _frame(vectors: np.ndarray, boxes: list[list[float]] | None = None) -> People:
    boxes = boxes or [[30.0 * i, 0.0, 30.0 * i + 20, 50.0] for i in range(len(vectors))]
    persons = tuple(
        Person(Gender(0.5, "x"), vector, tuple(box), UNTRAINED)
        for vector, box in zip(vectors, boxes, strict=True)
    )
    return People(
        persons, np.full(len(vectors), 0.5, np.float32), vectors, ("reid",), UNTRAINED
    )


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.3])
def test_the_threshold_is_the_lowest_with_the_rate(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 37)
    vectors, names = _labelled(60, 4)
    threshold = estimate_threshold(vectors, names, false_match_rate=rate)
    pairs = list(itertools.combinations(range(len(names)), 2))
    same = np.array([names[i] == names[j] for i, j in pairs])
    values = np.array([vectors[i] @ vectors[j] for i, j in pairs])
    impostors, genuine = values[~same], values[same]
    assert (threshold.impostor_pairs, threshold.genuine_pairs) == (28320, 360)
    observed = (impostors >= threshold.similarity).mean()
    assert observed <= rate
    assert threshold.false_match_rate == pytest.approx(observed, abs=1e-4)
    next_lower = impostors[impostors < threshold.similarity].max()
    assert (impostors >= next_lower).mean() > rate, "a lower one lets too many through"
    missed = (genuine < threshold.similarity).mean()
    assert threshold.false_non_match_rate == pytest.approx(missed, abs=0.003)
    assert threshold.false_match_bound > threshold.false_match_rate


def test_the_rate_holds_on_other_people_of_the_same_kind() -> None:
    threshold = estimate_threshold(*_labelled(80, 3), false_match_rate=0.01)
    vectors, names = _labelled(80, 3, seed=1)
    different = np.array(names)[:, None] != np.array(names)
    rate = ((vectors @ vectors.T)[different] >= threshold.similarity).mean()
    assert 0.004 < rate < 0.02


def test_people_in_one_frame_are_different_people() -> None:
    vectors, names = _labelled(60, 4)
    numbers = np.array(names).reshape(60, 4)
    frames = [_frame(vectors.reshape(60, 4, 32)[i::15, 0]) for i in range(15)]
    frames += [_frame(vectors[:1]), _frame(vectors[:0])]
    threshold = estimate_threshold_from_frames(frames, false_match_rate=0.05)
    assert numbers.shape == (60, 4)
    assert threshold.impostor_pairs == 15 * 6
    assert threshold.false_match_rate <= 0.05
    assert threshold.false_non_match_rate is None
    assert threshold.source == UNTRAINED
    assert "17 frames" in str(threshold)
    assert "UNTRAINED" in repr(threshold)


def test_two_boxes_on_one_person_are_left_out() -> None:
    one, other = _labelled(2, 1)[0]
    boxes = [[0.0, 0.0, 20.0, 50.0], [2.0, 2.0, 18.0, 40.0], [100.0, 0.0, 120.0, 50.0]]
    frames = [_frame(np.stack([one, one, other]), boxes)] * 5
    threshold = estimate_threshold_from_frames(frames, false_match_rate=0.1)
    assert threshold.impostor_pairs == 10
    assert threshold.similarity < 0.9
    with pytest.raises(GalleryError, match="pairs of different people have equal"):
        estimate_threshold_from_frames(frames, false_match_rate=0.1, max_overlap=1.0)


def test_too_few_pairs_for_a_rate_are_refused() -> None:
    vectors, names = _labelled(10, 1)
    with pytest.raises(GalleryError, match=r"needs at least 1,000 pairs .* got 45"):
        estimate_threshold(vectors, names)
    assert estimate_threshold(vectors, names, false_match_rate=0.1).impostor_pairs == 45
    with pytest.raises(GalleryError, match="9 identities for 10 embeddings"):
        estimate_threshold(vectors, names[:9])
    with pytest.raises(GalleryError, match="between 0 and 1, got 0"):
        estimate_threshold(vectors, names, false_match_rate=0)


def test_people_of_crops_cannot_be_paired_by_frame() -> None:
    person = Person(Gender(0.5, "x"), _labelled(1, 1)[0][0])
    people = People(
        (person, person), np.zeros(2, np.float32), np.stack([person.embedding] * 2)
    )
    with pytest.raises(GalleryError, match="have no boxes"):
        estimate_threshold_from_frames([people])


def test_a_threshold_is_kept_as_json() -> None:
    threshold = estimate_threshold(*_labelled(80, 2), false_match_rate=0.01)
    assert Threshold.from_dict(threshold.to_dict()) == threshold
    of_frames = Threshold(0.5, source=UNTRAINED)
    assert Threshold.from_dict(of_frames.to_dict()) == of_frames
    assert "false matches" in str(threshold)
    assert "with 95 % confidence" in str(threshold)
