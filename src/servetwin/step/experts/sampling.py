"""Loads of experts that are drawn, or recorded: whole numbers, counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servetwin.step.experts.base import ExpertLoad, Floats
from servetwin.step.experts.capacity import Capacity
from servetwin.step.experts.placements import Slots

Integers = NDArray[np.int64]


class DrawnSets(NamedTuple):
    """Sets of experts that tokens of several layers take.

    Attributes
    ----------
    experts
        Shape ``(sets, top_k)``.
    weight, layer
        How many neighbouring tokens take a set, and in which layer, shape ``(sets,)``.
    tokens
        Tokens of each layer (the sum of its weights).
    num_layers
        Layers.
    """

    experts: Integers
    weight: Integers
    layer: Integers
    tokens: int
    num_layers: int


def count_loads(sets: DrawnSets, slots: Slots, capacity: Capacity, random: np.random.Generator) -> Sequence[ExpertLoad]:
    """Return the load of each layer.

    Parameters
    ----------
    sets
        What the tokens take.
    slots
        Where experts lie; the same in all these layers.
    capacity
        Of each copy of an expert.
    random
        By which copies are chosen.
    """
    taken = slots.of(sets.experts, random)
    counts = _count_slots(sets, taken, len(slots.rank))
    top_k = sets.experts.shape[1]
    dropped, rows = np.zeros_like(counts), counts
    if not capacity.changes_nothing:
        dropped, rows = capacity.of_counts(counts, capacity.limit(sets.tokens, top_k, len(slots.rank)))
    on_rank = np.zeros((len(slots.rank), slots.num_ranks))
    on_rank[np.arange(len(slots.rank)), slots.rank] = 1.0
    visits = _count_visits(sets, slots.rank[taken], slots.num_ranks)
    pairs, activated = rows @ on_rank, (counts > 0) @ on_rank
    lost = dropped.sum(axis=1)
    padding = rows.sum(axis=1) - (sets.tokens * top_k - lost)
    return [
        ExpertLoad(visits[i], pairs[i], activated[i], float(lost[i]), float(padding[i])) for i in range(sets.num_layers)
    ]


def _count_slots(sets: DrawnSets, taken: Integers, num_slots: int) -> Floats:
    """Return the pairs of each slot, shape ``(layers, slots)``."""
    keys = (taken + (sets.layer * num_slots)[:, None]).ravel()
    weights = np.repeat(sets.weight, taken.shape[1])
    counts = np.bincount(keys, weights=weights, minlength=sets.num_layers * num_slots).astype(np.float64)
    return counts.reshape(sets.num_layers, num_slots)


def _count_visits(sets: DrawnSets, ranks: Integers, num_ranks: int) -> Floats:
    """Return the tokens that each rank gets, each once, shape ``(layers, ranks)``."""
    hit = np.zeros((len(ranks), num_ranks), dtype=bool)
    hit[np.arange(len(ranks))[:, None], ranks] = True
    drawn, rank = np.divmod(np.flatnonzero(hit), num_ranks)
    keys = sets.layer[drawn] * num_ranks + rank
    counts = np.bincount(keys, weights=sets.weight[drawn], minlength=sets.num_layers * num_ranks).astype(np.float64)
    return counts.reshape(sets.num_layers, num_ranks)


def runs_of_tokens(
    tokens: int, num_layers: int, correlation: float, random: np.random.Generator
) -> tuple[Integers, Integers]:
    """Return length and layer of each run of tokens that take the same experts.

    In each layer the first token starts a run, and each later one repeats its predecessor with chance ``correlation``.
    """
    if correlation == 0.0:
        return np.ones(tokens * num_layers, dtype=np.int64), np.repeat(np.arange(num_layers), tokens)
    starts = random.random((num_layers, tokens)) >= correlation
    starts[:, :1] = True
    where = np.flatnonzero(starts)
    return np.diff(where, append=num_layers * tokens), where // tokens


def representatives(num_layers: int, most: int, random: np.random.Generator) -> tuple[Integers, Integers]:
    """Return layers that stand for all, and for how many each stands: one drawn from each of ``most`` equal parts."""
    parts = min(num_layers, most)
    bounds = np.arange(parts + 1) * num_layers // parts
    sizes = np.diff(bounds)
    return bounds[:-1] + random.integers(0, sizes), sizes
