"""Which rows make a batch, how crops vary, and validation scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from builders.evaluation import retrieval
from builders.evaluation.datasets import RetrievalImages
from builders.training.augmentation import augment
from builders.training.recipes import Augmentation
from builders.training.sampling import (
    IdentitySampler,
    PairSampler,
    ShuffledSampler,
    TaskMixer,
)
from builders.training.scores import retrieval_scores


def test_a_pass_has_every_row_once_and_another_order() -> None:
    sampler = ShuffledSampler(20, 5, seed=3)
    passes = [
        np.concatenate([sampler.rows(4 * epoch + index) for index in range(4)])
        for epoch in range(2)
    ]
    assert all(sorted(rows) == list(range(20)) for rows in passes)
    assert not np.array_equal(*passes)
    np.testing.assert_array_equal(sampler.rows(6), ShuffledSampler(20, 5, 3).rows(6))


def test_a_batch_has_p_identities_with_k_images() -> None:
    sizes = [9, 4, 2, 13, 1, 6, 8, 5]
    identities = np.repeat(np.arange(8) * 10, sizes)
    sampler = IdentitySampler(identities, people=3, images=4, seed=1)
    seen: Counter[int] = Counter()
    for number in range(sampler.batches):
        rows = sampler.rows(number).reshape(3, 4)
        groups = identities[rows]
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 3
        seen.update(rows.ravel().tolist())
        # an identity with enough images repeats none in a batch
        for group in rows:
            enough = np.count_nonzero(identities == identities[group[0]]) >= 4
            assert not enough or len(set(group)) == 4
    assert max(seen[row] for row in np.flatnonzero(identities == 30)) == 1
    again = IdentitySampler(identities, people=3, images=4, seed=1)
    np.testing.assert_array_equal(again.rows(7), sampler.rows(7))


def test_pairs_are_half_related_and_half_of_two_families() -> None:
    families = np.array([0, 0, 1, 1, 2])
    members = [np.arange(3 * m, 3 * m + 3) for m in range(5)]
    relations = np.array([[0, 1], [2, 3]])
    sampler = PairSampler(relations, members, families, batch=16, seed=0)
    pairs = sampler.rows(5) // 3
    assert {tuple(pair) for pair in pairs[:8].tolist()} <= {(0, 1), (2, 3)}
    assert (families[pairs[8:, 0]] != families[pairs[8:, 1]]).all()


def test_tasks_are_mixed_by_weight_and_seed() -> None:
    mixer = TaskMixer([1.0, 3.0], seed=2)
    tasks = [mixer.task(step) for step in range(800)]
    # binomial: 600 expected, a standard deviation of 12
    assert 540 < sum(tasks) < 660
    assert tasks == [TaskMixer([1.0, 3.0], seed=2).task(step) for step in range(800)]


def test_augmentation_varies_each_crop_alone() -> None:
    crops = torch.from_numpy(
        np.random.default_rng(0).integers(1, 255, (64, 12, 6, 3), np.uint8)
    )
    colour = torch.tensor([9, 9, 9], dtype=torch.uint8)

    def vary(**how: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        none = {"flip": 0.0, "pad_px": 0, "erase": 0.0}
        options = Augmentation(**{**none, **how})  # type: ignore[arg-type]
        return augment(crops, options, colour, generator)

    flipped = vary(flip=0.5)
    mirrored = (flipped == crops.flip(2)).flatten(1).all(1)
    same = (flipped == crops).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 10 < int(mirrored.sum()) < 54
    shifted = vary(pad_px=2)
    padded = torch.nn.functional.pad(crops, (0, 0, 2, 2, 2, 2))
    for crop, wide in zip(shifted, padded, strict=True):
        places = [wide[y : y + 12, x : x + 6] for y in range(5) for x in range(5)]
        assert any(torch.equal(crop, place) for place in places)
    erased = vary(erase=1.0)
    changed = (erased != crops).any(dim=3)
    assert changed.flatten(1).any(1).all()
    assert (erased[changed] == 9).all()
    share = changed.float().mean()
    assert 0.05 < float(share) < 0.45
    assert torch.equal(vary(flip=0.5, pad_px=2), vary(flip=0.5, pad_px=2))


def test_retrieval_scores_are_those_of_the_protocol() -> None:
    dice = np.random.default_rng(4)
    identities = dice.integers(0, 6, 40)
    cameras = dice.integers(0, 3, 40)
    embeddings = dice.normal(size=(40, 8)).astype(np.float32)
    embeddings += np.eye(8, dtype=np.float32)[identities]
    own = retrieval_scores(torch.from_numpy(embeddings), identities, cameras)
    files = tuple(map(str, range(40)))
    # queries and gallery are the same images; the same camera's do not count
    dataset = RetrievalImages(
        Path(),
        files + files,
        np.tile(identities, 2),
        np.tile(cameras, 2),
        40,
    )
    twice = np.tile(embeddings, (2, 1))
    theirs = retrieval.assess(dataset, twice, np.ones(80, np.bool_), rerank=False)
    # the reference counts a query's image in the gallery as one of the same camera
    np.testing.assert_allclose(
        [own["rank-1"], own["mAP"]],
        [theirs.headline["rank-1"], theirs.headline["mAP"]],
        atol=1e-9,
    )
