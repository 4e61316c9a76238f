"""Sets of exactly k experts per token with given popularities: conditional Poisson sampling.

Each expert comes with its own chance p, independently, and only sets of k are kept. Of all ways to draw k different
experts that give each its popularity, this one adds no other preference (its entropy is the greatest; Hájek 1964, Chen,
Dempster and Liu 1994). With equal popularities it is a uniformly random set of k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servetwin.step.experts.base import Floats

_MOST_ROUNDS = 200
_CLOSE = 3e-9
_SURE = 1e-9
"""Popularities are kept this far from 0 and 1."""


class SubsetDesign:
    """A distribution over sets of ``top_k`` experts.

    Parameters
    ----------
    inclusion
        Chance of each expert to be in a token's set, shape ``(experts,)``; sums to ``top_k``, each at most 1.
    top_k
        Experts per token.
    chances
        The independent chances, if they are known.
    """

    def __init__(self, inclusion: Floats, top_k: int, chances: Floats | None = None) -> None:
        self.inclusion, self.top_k = inclusion, top_k
        self.num_experts = len(inclusion)
        self._chances = independent_chances(inclusion, top_k) if chances is None else chances
        self._tails = self._make_tails()

    def hit_chances(self, share: Floats) -> Floats:
        """Return the chance that a token takes at least one expert of each rank, exactly.

        Parameters
        ----------
        share
            Part of an expert's pairs that a rank computes, shape ``(ranks, experts)``.
        """
        missed = np.zeros((len(share), self.top_k + 1))
        missed[:, 0] = 1.0
        chances = self._chances
        for expert in range(self.num_experts):
            missed = _times(missed, 1.0 - chances[expert], (chances[expert] * (1.0 - share[:, expert]))[:, None])
        whole = _products(chances, self.top_k)[-1, self.top_k]
        hits: Floats = 1.0 - np.minimum(missed[:, self.top_k] / whole, 1.0)
        return hits

    def pair_variances(self, share: Floats) -> Floats:
        """Return the variance of one token's pairs on each rank.

        Hájek's approximation of joint inclusion, ``cov(e, f) = -c_e c_f / sum(c)`` with ``c = inclusion x (1 -
        inclusion)``, times E / (E - 1), with which it is exact for equal popularities.
        """
        spread = self.inclusion * (1.0 - self.inclusion)
        whole = spread.sum() * (self.num_experts - 1) / self.num_experts
        sent = self.inclusion * share
        own: Floats = (sent * (1.0 - sent)).sum(axis=1)
        if whole < _SURE:
            return own
        together: Floats = ((share @ spread) ** 2 - ((share * spread) ** 2).sum(axis=1)) / whole
        return np.maximum(own - together, 0.0)

    def draw(self, tokens: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Return the experts of each token in ascending order, shape ``(tokens, top_k)``; exact in distribution.

        The experts are drawn one after the other: where ``j`` are still to come after position ``e``, the next one is
        at ``f`` with the chance that all between are left out, ``f`` is taken, and ``j - 1`` come after it.
        """
        if self.top_k == self.num_experts:
            return np.tile(np.arange(self.num_experts), (tokens, 1))
        taken = np.empty((self.top_k, tokens), dtype=np.int64)
        rising = self.num_experts - 1
        start = np.zeros(tokens, dtype=np.int64)
        for number, tail in enumerate(self._tails):
            height = (1.0 - random.random(tokens)) * tail[rising + 1 - start]
            taken[number] = rising + 1 - np.searchsorted(tail, height, side="left")
            start = taken[number] + 1
        return taken.T

    def _make_tails(self) -> list[Floats]:
        """Return, for each expert still to draw (most first), the chances that it comes at e or after, e falling."""
        after = _products(self._chances[::-1], self.top_k)[::-1]
        missed = np.concatenate(([1.0], np.cumprod(1.0 - self._chances)[:-1]))
        tails = []
        for left in range(self.top_k, 0, -1):
            here = missed * self._chances * after[1:, left - 1]
            tails.append(np.concatenate(([0.0], np.cumsum(here[::-1]))))
        return tails


def _times(products: Floats, constant: Floats | float, linear: Floats | float) -> Floats:
    """Multiply polynomials (coefficients along the last axis, cut off) by ``constant + linear z``."""
    result = products * constant
    result[..., 1:] += products[..., :-1] * linear
    return result


def _products(chances: Floats, degree: int) -> Floats:
    """Return the distribution of how many of the first 0, 1, ... experts come, shape ``(experts + 1, degree + 1)``."""
    result = np.zeros((len(chances) + 1, degree + 1))
    result[0, 0] = 1.0
    for expert, chance in enumerate(chances.tolist()):
        result[expert + 1] = _times(result[expert], 1.0 - chance, chance)
    return result


def subset_designs(inclusion: Floats, top_k: int) -> list[SubsetDesign]:
    """Return a design for each row; rows with the same popularities in another order are solved once."""
    solved: dict[bytes, Floats] = {}
    designs = []
    for row in inclusion:
        order = np.argsort(row, kind="stable")
        key = row[order].tobytes()
        if key not in solved:
            solved[key] = independent_chances(row[order], top_k)
        chances = np.empty_like(row)
        chances[order] = solved[key]
        designs.append(SubsetDesign(row, top_k, chances))
    return designs


def independent_chances(inclusion: Floats, top_k: int) -> Floats:
    """Return independent chances which, conditioned on ``top_k`` in all, give the inclusion chances."""
    wanted = np.clip(inclusion, _SURE, 1.0 - _SURE)
    odds = wanted / (1.0 - wanted)
    chances = wanted
    if top_k == len(inclusion) or np.ptp(inclusion) < 1e-15:
        return chances
    for _ in range(_MOST_ROUNDS):
        given = np.clip(_inclusion(chances, top_k), _SURE * 1e-3, 1.0 - _SURE * 1e-3)
        if np.abs(given - wanted).max() < _CLOSE:
            break
        odds = odds * (wanted / (1.0 - wanted)) / (given / (1.0 - given))
        chances = odds / (1.0 + odds)
    return chances


def _inclusion(chances: Floats, top_k: int) -> Floats:
    before, after = _products(chances, top_k), _products(chances[::-1], top_k)[::-1]
    others = (before[:-1, :top_k] * after[1:, top_k - 1 :: -1]).sum(axis=1)
    found: Floats = chances * others / before[-1, top_k]
    return found
