"""Capacity and padding of experts: pairs that are dropped, and rows that are computed and mean nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from servetwin.core.errors import InputError
from servetwin.step.experts.base import Floats
from servetwin.step.experts.counts import count_distribution


@dataclass(frozen=True)
class Capacity:
    """How many pairs a copy of an expert takes, and how its rows are padded.

    Parameters
    ----------
    factor
        A copy takes at most ``ceil(factor x tokens x top_k / copies)`` pairs; the rest is dropped (Switch Transformer,
        GShard). None: all, as vLLM does.
    fill
        Whether each copy computes all of its capacity, taken or not (GShard's dense dispatch).
    multiple
        Rows of an activated expert are padded to a multiple of this: the tile of a grouped product (DeepEP's
        low-latency mode pads per expert; 128 in DeepGEMM).

    Raises
    ------
    InputError
        If the factor is not above 0, ``fill`` has no factor, or the multiple is below 1.
    """

    factor: float | None = None
    fill: bool = False
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.factor is not None and not 0 < self.factor < math.inf:
            raise InputError(f"the capacity's factor is {self.factor}; it must be above 0")
        if self.fill and self.factor is None:
            raise InputError("a capacity that is filled needs a factor")
        if self.multiple < 1:
            raise InputError(f"rows are padded to a multiple of {self.multiple}; it must be at least 1")

    @property
    def changes_nothing(self) -> bool:
        """Whether every pair is computed, and no other row."""
        return self.factor is None and self.multiple == 1

    def limit(self, tokens: int, top_k: int, copies: int) -> float:
        """Return how many pairs one copy takes at most."""
        return math.inf if self.factor is None else float(math.ceil(self.factor * tokens * top_k / copies - 1e-9))

    def rows(self, taken: Floats, limit: float) -> Floats:
        """Return the rows that are computed for so many pairs."""
        if self.fill:
            taken = np.full_like(taken, limit)
        return np.ceil(taken / self.multiple) * self.multiple

    def of_counts(self, counts: Floats, limit: float) -> tuple[Floats, Floats]:
        """Return, for whole numbers of pairs on each copy, those dropped and the rows that are computed."""
        taken = np.minimum(counts, limit)
        return counts - taken, self.rows(taken, limit)

    def of_distributions(self, mean: Floats, variance: Floats, limit: float) -> tuple[Floats, Floats]:
        """Return, for pairs of which mean and variance are known, the expected dropped ones and rows."""
        chances = count_distribution(mean, variance)
        dropped, rows = self.of_counts(np.arange(chances.shape[-1], dtype=np.float64), limit)
        return chances @ dropped, chances @ rows


UNLIMITED = Capacity()
"""All pairs are computed and nothing else."""
