"""Which rows make a batch: functions of seed and batch number alone.

No sampler has a state, so that a resumed run sees the same batches without replaying
those before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Sampler(Protocol):
    """Chooses the rows of each batch."""

    @property
    def batches(self) -> int:
        """Number of batches in a pass over the data."""
        ...

    def rows(self, number: int) -> IntArray:
        """Return the rows of batch `number`, counted from the run's beginning."""
        ...


@dataclass(frozen=True)
class ShuffledSampler:
    """All rows once in each pass, in seeded order; an incomplete batch is left out.

    Attributes:
        count: Number of rows.
        batch: Rows in a batch; all of them if there are fewer.
        seed: Seed of the order.
    """

    count: int
    batch: int
    seed: int

    @property
    def batches(self) -> int:
        """Number of batches in a pass over the data."""
        return max(1, self.count // self.batch)

    def rows(self, number: int) -> IntArray:
        """Return the rows of a batch.

        Args:
            number: Number of the batch, from 0, over all passes.
        """
        epoch, index = divmod(number, self.batches)
        order = _permutation(self.count, self.seed, epoch)
        return order[index * self.batch : (index + 1) * self.batch]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> IntArray:
    return np.random.default_rng([seed, epoch]).permutation(count)


class IdentitySampler:
    """P identities with K images each (Hermans et al., arXiv:1703.07737).

    A pass gives every identity's images once, in groups of K, as FastReID's
    NaiveIdentitySampler does; an identity with fewer than K images repeats some. Groups
    are dealt to batches so that no batch has an identity twice, and what is left at the
    end of a pass is left out.

    Args:
        identities: Identity of each row, INT64 [N].
        people: P.
        images: K.
        seed: Seed of the order.
    """

    def __init__(
        self, identities: IntArray, people: int, images: int, seed: int
    ) -> None:
        self._rows = [
            np.flatnonzero(identities == identity) for identity in np.unique(identities)
        ]
        self.people = min(people, len(self._rows))
        self.images, self._seed = images, seed
        groups = sum(max(1, len(rows) // images) for rows in self._rows)
        longest = max(max(1, len(rows) // images) for rows in self._rows)
        # a batch has each identity once, so the most frequent one limits a pass
        self.batches = max(1, min(groups // self.people, groups - longest + 1))
        self._pass = lru_cache(maxsize=2)(self._deal)

    def rows(self, number: int) -> IntArray:
        """Return the rows of a batch, K of an identity next to each other.

        Args:
            number: Number of the batch, from 0, over all passes.
        """
        epoch, index = divmod(number, self.batches)
        return self._pass(epoch)[index]

    def _deal(self, epoch: int) -> list[IntArray]:
        rng = np.random.default_rng([self._seed, epoch])
        groups = [self._group(rows, rng) for rows in self._rows]
        batches = []
        for _ in range(self.batches):
            # identities with the most images left first, ties in random order
            left = np.array([len(each) for each in groups])
            order = np.lexsort((rng.random(len(left)), -left))[: self.people]
            chosen = []
            for identity in rng.permutation(order):
                if not groups[identity]:
                    groups[identity] = self._group(self._rows[identity], rng)
                chosen.append(groups[identity].pop())
            batches.append(np.concatenate(chosen))
        return [batches[i] for i in rng.permutation(len(batches))]

    def _group(self, rows: IntArray, rng: np.random.Generator) -> list[IntArray]:
        order = rng.permutation(rows)
        if len(order) < self.images:
            more = rng.choice(rows, self.images - len(order))
            return [np.concatenate((order, more))]
        whole = len(order) // self.images * self.images
        return list(order[:whole].reshape(-1, self.images))


@dataclass(frozen=True)
class TaskMixer:
    """Which task each step's batch is of: one task at a time, in seeded order.

    Attributes:
        weights: Relative frequency of each task.
        seed: Seed of the order.
    """

    weights: Sequence[float]
    seed: int

    def task(self, step: int) -> int:
        """Return the index of a step's task.

        Args:
            step: Number of the step, from 0.
        """
        if len(self.weights) == 1:
            return 0
        shares = np.asarray(self.weights, np.float64)
        rng = np.random.default_rng([self.seed, step])
        return int(rng.choice(len(shares), p=shares / shares.sum()))


@dataclass(frozen=True)
class PairSampler:
    """Pairs of faces: half of related people, half of different families.

    Attributes:
        relations: Related members, INT64 [R, 2], as indices into `members`.
        members: Rows of each member's faces.
        families: Family of each member, INT64 [M].
        batch: Pairs in a batch.
        seed: Seed of the choice.
    """

    relations: IntArray
    members: Sequence[IntArray]
    families: IntArray
    batch: int
    seed: int

    @property
    def batches(self) -> int:
        """Number of batches in which each relation occurs about once."""
        return max(1, 2 * len(self.relations) // self.batch)

    def rows(self, number: int) -> IntArray:
        """Return the rows of both faces of each pair, INT64 [batch, 2].

        The first half is related, the second is not. Unrelated pairs are drawn as in
        the published notebook: two different families, one member of each.

        Args:
            number: Number of the batch, from 0, over all passes.
        """
        rng = np.random.default_rng([self.seed, number])
        half = self.batch // 2
        related = self.relations[rng.integers(len(self.relations), size=half)]
        names = np.unique(self.families)
        strangers = [
            [
                rng.choice(np.flatnonzero(self.families == family))
                for family in rng.choice(names, 2, replace=False)
            ]
            for _ in range(self.batch - half)
        ]
        pairs = np.concatenate((related, np.array(strangers, np.int64).reshape(-1, 2)))
        return np.array(
            [[rng.choice(self.members[member]) for member in pair] for pair in pairs],
            np.int64,
        )
