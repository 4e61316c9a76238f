"""How often an activated expert is in the accelerator's cache: by expectation, from the experts' popularity.

Steps are taken as independent: in each, an expert is activated with a chance that its popularity and the step's tokens
give. LFU keeps the most popular ones. LRU keeps an expert for a characteristic time T, the same for all (Che's
approximation: Che, Tung, Wang, IEEE JSAC 20 (2002), 1305): it is there with ``1 - (1 - p)^T``, and T is such that as
many are there as the cache holds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servetwin.memory.placement import Eviction

Floats = NDArray[np.float64]

_DOUBLINGS, _HALVINGS = 80, 60


def activation_chances(popularity: Floats, tokens: int) -> Floats:
    """Return each expert's chance to be activated in a step of ``tokens`` tokens, which choose independently.

    Parameters
    ----------
    popularity
        Chance to be in one token's set, shape ``(..., experts)``.
    """
    chances: Floats = 1.0 - (1.0 - np.minimum(popularity, 1.0)) ** tokens
    return chances


def hit_share(chances: Floats, cached: int, eviction: Eviction) -> float:
    """Return the expected share of activated experts that are in a cache of ``cached`` experts.

    Parameters
    ----------
    chances
        Chance of each expert to be activated in a step, shape ``(experts,)``.
    """
    total = float(chances.sum())
    if cached <= 0 or total <= 0:
        return 0.0
    if cached >= len(chances):
        return 1.0
    there = _most_popular(chances, cached) if eviction == "lfu" else _last_used(chances, cached)
    return float(chances @ there) / total


def _most_popular(chances: Floats, cached: int) -> Floats:
    there = np.zeros_like(chances)
    there[np.argsort(-chances, kind="stable")[:cached]] = 1.0
    return there


def _last_used(chances: Floats, cached: int) -> Floats:
    if np.count_nonzero(chances > 0) <= cached:
        return (chances > 0).astype(np.float64)
    forgets = np.log1p(-np.minimum(chances, 1.0 - 1e-12))
    low, high = 0.0, 1.0
    for _ in range(_DOUBLINGS):
        if _kept(forgets, high) >= cached:
            break
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _kept(forgets, middle) < cached else (low, middle)
    there: Floats = -np.expm1(forgets * high)
    return there


def _kept(forgets: Floats, time: float) -> float:
    return float(-np.expm1(forgets * time).sum())
