"""Expected loads: closed forms by the number of tokens, the slowest rank included.

With T tokens, of which each repeats its predecessor's set with chance r, and c the chance of one copy of an expert to
be taken by one token:

- a copy is activated with ``1 - (1 - c) (1 - (1 - r) c)^(T - 1)``, exactly;
- the mean of a sum over tokens is T times one token's; its variance one token's times
  ``F = T + 2 sum over d of (T - d) r^d`` (d = 1 ... T - 1), exactly: as if ``T^2 / F`` tokens were independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servetwin.step.experts.base import ExpertLoad, ExpertPlacement, Floats
from servetwin.step.experts.capacity import UNLIMITED, Capacity
from servetwin.step.experts.counts import expected_maximum
from servetwin.step.experts.placements import Slots
from servetwin.step.experts.subsets import SubsetDesign


@dataclass(frozen=True, slots=True)
class Spread:
    """What an expectation takes into account.

    Attributes
    ----------
    slowest_rank
        Whether the busiest rank has the load that the busiest of all is expected to have, instead of its own mean.
    correlation
        Chance of a token to repeat its predecessor's experts.
    capacity
        Of each copy of an expert.
    """

    slowest_rank: bool = True
    correlation: float = 0.0
    capacity: Capacity = UNLIMITED


def sum_variance_factor(tokens: int, correlation: float) -> float:
    """Return the variance of a sum over ``tokens`` tokens, over that of one token."""
    if correlation >= 1.0 - 1e-9:
        return float(tokens) ** 2
    away = 1.0 - correlation
    powers = 2.0 * correlation * (1.0 - correlation**tokens) / (away * away)
    return max(tokens * (1.0 + correlation) / away - powers, float(tokens))


class ExpectedLoads:
    """The loads of several kinds of layers, each with its design and placement, as a function of tokens.

    Parameters
    ----------
    designs, placements
        Of each kind of layers.
    spread
        What is taken into account.
    """

    def __init__(self, designs: Sequence[SubsetDesign], placements: Sequence[ExpertPlacement], spread: Spread) -> None:
        self._spread = spread
        self._top_k = designs[0].top_k
        shares = [np.asarray(placement.share, dtype=np.float64) for placement in placements]
        each = list(zip(designs, shares, strict=True))
        self._pairs = np.array([share @ design.inclusion for design, share in each])
        self._pair_variances = np.array([design.pair_variances(share) for design, share in each])
        self._hits = np.array([design.hit_chances(share) for design, share in each])
        slots = [Slots(placement) for placement in placements]
        self._shape = self._pairs.shape
        ranks = self._shape[1]
        self._copies = [len(slot.rank) for slot in slots]
        self._slot_group = np.concatenate([kind * ranks + slot.rank for kind, slot in enumerate(slots)])
        self._slot_chance = np.concatenate(
            [design.inclusion[slot.expert] * slot.share for design, slot in zip(designs, slots, strict=True)]
        )
        self._slot_kind = self._slot_group // ranks
        self._held = self._by_rank(np.ones(len(self._slot_group)))
        self._free = ranks / max(1, ranks - 1)
        """Ranks share a sum: what one has more the others have less. Independent counts with R / (R - 1) of the
        variance differ as much from each other."""

    def at(self, tokens: int) -> list[ExpertLoad]:
        """Return the loads of each kind of layers for one number of tokens."""
        if tokens == 0:
            return [ExpertLoad(*np.zeros((3, self._shape[1])))] * self._shape[0]
        factor = sum_variance_factor(tokens, self._spread.correlation)
        pairs, dropped, padding = tokens * self._pairs, np.zeros(self._shape[0]), np.zeros(self._shape[0])
        if not self._spread.capacity.changes_nothing:
            pairs, dropped, padding = self._limited(tokens, factor)
        hits, experts, expert_variances = tokens * self._hits, *self._activated(tokens)
        if self._spread.slowest_rank and self._shape[1] > 1:
            alike, hit_variances = factor / tokens, self._hits * (1.0 - self._hits)
            pairs = self._slowest(pairs, tokens * self._pairs, factor * self._pair_variances * self._free, alike)
            hits = self._slowest(hits, hits, factor * hit_variances * self._free, alike, tokens)
            experts = self._slowest(experts, experts, expert_variances, 1.0, self._held)
        return [
            ExpertLoad(hits[kind], pairs[kind], experts[kind], float(dropped[kind]), float(padding[kind]))
            for kind in range(self._shape[0])
        ]

    def _slowest(
        self, load: Floats, mean: Floats, variance: Floats, alike: float, most: Floats | float = np.inf
    ) -> Floats:
        """Give the busiest rank the expected maximum, and take what it has more from the others, in proportion.

        Parameters
        ----------
        load
            What is given out: the mean, or what capacity leaves of it.
        mean, variance
            Of each rank, as if ranks were independent, shape ``(kinds, ranks)``.
        alike
            Tokens that act as one: the counts are so many times those of independent draws.
        most
            What a rank can have at most.
        """
        rows = np.arange(self._shape[0])
        busiest, total = self._pairs.argmax(axis=1), load.sum(axis=1)
        excess = alike * expected_maximum(mean / alike, variance / alike**2) - mean.max(axis=1)
        before = load[rows, busiest]
        limit = np.broadcast_to(most, self._shape)[rows, busiest]
        highest = np.minimum(load.max(axis=1) + excess, np.minimum(total, limit))
        left = np.divide(total - highest, total - before, out=np.ones_like(total), where=total > before)
        result: Floats = load * left[:, None]
        result[rows, busiest] = highest
        return result

    def _by_rank(self, of_slots: Floats) -> Floats:
        size = self._shape[0] * self._shape[1]
        sums: Floats = np.bincount(self._slot_group, weights=of_slots, minlength=size).astype(np.float64)
        return sums.reshape(self._shape)

    def _activated(self, tokens: int) -> tuple[Floats, Floats]:
        """Return mean and variance of the activated experts, as if they were independent."""
        chance, fresh = self._slot_chance, 1.0 - self._spread.correlation
        idle = (1.0 - chance) * (1.0 - fresh * chance) ** (tokens - 1)
        return self._by_rank(1.0 - idle), self._by_rank(idle * (1.0 - idle))

    def _limited(self, tokens: int, factor: float) -> tuple[Floats, Floats, Floats]:
        """Return computed rows by rank, dropped pairs and padding by kind of layers."""
        computed = np.zeros(len(self._slot_chance))
        dropped, padding = np.zeros(self._shape[0]), np.zeros(self._shape[0])
        for kind, copies in enumerate(self._copies):
            mine = self._slot_kind == kind
            chance = self._slot_chance[mine]
            mean, limit = tokens * chance, self._spread.capacity.limit(tokens, self._top_k, copies)
            lost, rows = self._spread.capacity.of_distributions(mean, factor * chance * (1.0 - chance), limit)
            computed[mine] = rows
            dropped[kind] = lost.sum()
            padding[kind] = rows.sum() - (mean - lost).sum()
        return self._by_rank(computed), dropped, padding
