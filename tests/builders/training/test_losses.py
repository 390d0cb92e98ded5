"""Losses beside plain formulas of their papers, written here in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from builders.evaluation.datasets import UNKNOWN
from builders.training.losses import (
    binary_loss,
    circle_logits,
    class_loss,
    divergence_loss,
    triplet_loss,
)

DICE = np.random.default_rng(7)
LOGITS = DICE.normal(size=12)
LABELS = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1])
SCORES = DICE.normal(size=(12, 5))
CLASSES = DICE.integers(0, 5, 12)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_binary_loss_is_the_cross_entropy() -> None:
    own = binary_loss(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert float(own) == pytest.approx(log_loss(LABELS, 1 / (1 + np.exp(-LOGITS))))


def test_unknown_labels_have_neither_loss_nor_gradient() -> None:
    labels = LABELS.copy()
    labels[:4] = UNKNOWN
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = binary_loss(logits, torch.tensor(labels))
    p = 1 / (1 + np.exp(-LOGITS[4:]))
    assert float(loss.detach()) == pytest.approx(log_loss(LABELS[4:], p))
    loss.backward()
    assert logits.grad is not None
    expected = np.concatenate((np.zeros(4), (p - LABELS[4:]) / 8))
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-12)


def test_weighted_binary_loss() -> None:
    share = 0.3
    p = 1 / (1 + np.exp(-LOGITS))
    weights = np.where(LABELS == 1, np.exp(1 - share), np.exp(share))
    terms = -np.where(LABELS == 1, np.log(p), np.log(1 - p))
    own = binary_loss(torch.tensor(LOGITS), torch.tensor(LABELS), share)
    assert float(own) == pytest.approx((weights * terms).mean(), rel=1e-6)


def test_smoothed_class_loss() -> None:
    smoothing = 0.1
    target = np.full((12, 5), smoothing / 5)
    target[np.arange(12), CLASSES] += 1 - smoothing
    expected = -(target * np.log(_softmax(SCORES))).sum(axis=1).mean()
    own = class_loss(torch.tensor(SCORES), torch.tensor(CLASSES), smoothing)
    assert float(own) == pytest.approx(expected)


def test_circle_loss_is_that_of_the_paper() -> None:
    # eq. 6 with one positive similarity: log(1 + sum_j exp(g a_n (s_n - m)) *
    # exp(-g a_p (s_p - (1 - m)))), whose gradient treats the weights as constants
    cosines, scale, margin = np.tanh(SCORES), 8.0, 0.25
    expected, gradient = [], np.zeros_like(cosines)
    for row, label in enumerate(CLASSES):
        s = cosines[row]
        others = np.delete(np.arange(5), label)
        a_p = max(1 + margin - s[label], 0)
        a_n = np.maximum(s[others] + margin, 0)
        negative = np.exp(scale * a_n * (s[others] - margin))
        positive = np.exp(-scale * a_p * (s[label] - (1 - margin)))
        total = negative.sum() * positive
        expected.append(np.log1p(total))
        share = negative * positive / (1 + total) / 12
        gradient[row, others] = scale * a_n * share
        gradient[row, label] = -scale * a_p * share.sum()
    values = torch.tensor(cosines, requires_grad=True)
    labels = torch.tensor(CLASSES)
    loss = class_loss(circle_logits(values, labels, scale, margin), labels)
    assert float(loss.detach()) == pytest.approx(np.mean(expected))
    loss.backward()
    assert values.grad is not None
    np.testing.assert_allclose(values.grad.numpy(), gradient, atol=1e-12)


def test_batch_hard_triplets() -> None:
    features = DICE.normal(size=(12, 4))
    people = np.repeat(np.arange(3), 4)
    terms = []
    for row in range(12):
        distance = np.linalg.norm(features - features[row], axis=1)
        hardest = distance[people == people[row]].max()
        nearest = distance[people != people[row]].min()
        terms.append(np.log1p(np.exp(hardest - nearest)))
    own = triplet_loss(torch.tensor(features), torch.tensor(people))
    assert float(own) == pytest.approx(np.mean(terms))


def test_a_batch_of_one_identity_has_no_triplet() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    loss = triplet_loss(features, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_distillation_is_the_symmetric_divergence() -> None:
    teacher, temperature = DICE.normal(size=(12, 5)), 4.0
    p, q = _softmax(SCORES / temperature), _softmax(teacher / temperature)
    forward = (q * np.log(q / p)).sum(axis=1).mean()
    backward = (p * np.log(p / q)).sum(axis=1).mean()
    own = divergence_loss(torch.tensor(SCORES), torch.tensor(teacher), temperature)
    assert float(own) == pytest.approx(temperature**2 * (forward + backward) / 2)
