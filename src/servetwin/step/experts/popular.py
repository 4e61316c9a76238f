"""Routings by popularity: even, uniformly random, Zipf's law, measured; by expectation or drawn in each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from servetwin.core.errors import InputError
from servetwin.core.random import stream
from servetwin.step.experts.base import (
    ExpertLoad,
    ExpertPlacement,
    Floats,
    LayerLoads,
    RebalancingPlacement,
    expert_routings,
)
from servetwin.step.experts.capacity import UNLIMITED, Capacity
from servetwin.step.experts.expectation import ExpectedLoads, Spread
from servetwin.step.experts.placements import Integers, Slots
from servetwin.step.experts.popularity import read_popularity, zipf_inclusion
from servetwin.step.experts.sampling import DrawnSets, count_loads, representatives, runs_of_tokens
from servetwin.step.experts.subsets import subset_designs

DRAWN_PAIRS = 16_384
"""Pairs that are drawn in one step, unless one layer has more: fewer layers then stand for all of them."""
DRAWN_LAYERS = 8
"""Most layers that are drawn in one step."""
_KEPT_NUMBERS = 2**22
"""Numbers kept in the cache of expected loads; at 8 bytes each, 32 MiB."""


def check_routing(num_experts: int, top_k: int, num_layers: int, placement: ExpertPlacement) -> None:
    """Raise where a routing cannot be: more experts per token than there are, or a placement of another number."""
    if not 1 <= top_k <= num_experts:
        raise InputError(f"a token takes {top_k} of {num_experts} experts; allowed are 1 to {num_experts}")
    if num_layers < 1:
        raise InputError(f"{num_layers} layers have experts; at least 1 is needed")
    if placement.num_experts != num_experts:
        raise InputError(f"the placement is of {placement.num_experts} experts, the model has {num_experts}")


def placed(placement: ExpertPlacement, popularity: Floats) -> ExpertPlacement:
    """Return where experts of that popularity lie: a placement that follows it is balanced by it."""
    return placement.balanced(popularity) if isinstance(placement, RebalancingPlacement) else placement


class PopularRouting:
    """Tokens take experts by popularities that do not change.

    Parameters
    ----------
    inclusion
        Chance of each expert to be in a token's set, for each kind of layers: shape ``(kinds, experts)``; rows sum to
        ``top_k``.
    kind_of_layer
        Shape ``(layers,)``.
    top_k, placement, seed
        As of every routing.
    sampled
        Draw each step's sets, instead of their expectation.
    spread
        What both take into account.
    """

    def __init__(
        self,
        inclusion: Floats,
        kind_of_layer: Integers,
        top_k: int,
        placement: ExpertPlacement,
        seed: int,
        sampled: bool,
        spread: Spread,
    ) -> None:
        check_routing(inclusion.shape[1], top_k, len(kind_of_layer), placement)
        if not 0.0 <= spread.correlation <= 1.0:
            raise InputError(f"correlation is {spread.correlation}; allowed: 0 to 1")
        self.needs = frozenset({"draw"} if sampled else ())
        self.inclusion = inclusion
        self.kind_of_layer, self.spread, self._seed, self._top_k = kind_of_layer, spread, seed, top_k
        self.designs = subset_designs(inclusion, top_k)
        self.placements = [placed(placement, row) for row in inclusion]
        self._slots = [Slots(where) for where in self.placements] if sampled else []
        self._expected = None if sampled else ExpectedLoads(self.designs, self.placements, spread)
        self._known: dict[tuple[int, int, int], tuple[LayerLoads, ...]] = {}
        self._most_known = max(16, _KEPT_NUMBERS // (3 * len(inclusion) * placement.num_ranks))

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """See `ExpertRouting`."""
        if self._expected is None:
            return self._drawn(tokens, first_layer, num_layers, draw)
        key = (tokens, first_layer, num_layers)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= self._most_known:
                self._known.clear()
            kinds, numbers = np.unique(self._kinds(first_layer, num_layers), return_counts=True)
            loads = self._expected.at(tokens)
            known = tuple(LayerLoads(int(n), loads[kind]) for kind, n in zip(kinds, numbers, strict=True))
            self._known[key] = known
        return known

    def _kinds(self, first_layer: int, num_layers: int) -> Integers:
        return layers_of(self.kind_of_layer, first_layer, num_layers)

    def _drawn(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        random = stream(self._seed, "experts", draw, first_layer)
        most = min(DRAWN_LAYERS, max(1, DRAWN_PAIRS // max(1, tokens * self._top_k)))
        chosen, sizes = representatives(num_layers, most, random)
        kinds = self._kinds(first_layer, num_layers)[chosen]
        result: list[LayerLoads] = []
        for kind in np.unique(kinds).tolist():
            mine = sizes[kinds == kind].tolist()
            loads = self._draw_layers(kind, tokens, len(mine), random)
            result += [LayerLoads(size, load) for size, load in zip(mine, loads, strict=True)]
        return result

    def _draw_layers(self, kind: int, tokens: int, layers: int, random: np.random.Generator) -> Sequence[ExpertLoad]:
        lengths, layer = runs_of_tokens(tokens, layers, self.spread.correlation, random)
        experts = self.designs[kind].draw(len(layer), random)
        sets = DrawnSets(experts, lengths, layer, tokens, layers)
        return count_loads(sets, self._slots[kind], self.spread.capacity, random)


def layers_of(per_layer: Integers, first_layer: int, num_layers: int) -> Integers:
    """Return the part of consecutive layers; raise where the model has no such layers."""
    if not 0 <= first_layer <= first_layer + num_layers <= len(per_layer) or not num_layers:
        raise InputError(
            f"layers {first_layer} to {first_layer + num_layers - 1} were asked for; the model has "
            f"{len(per_layer)} layers with experts, counted from 0"
        )
    return per_layer[first_layer : first_layer + num_layers]


def _alike(num_experts: int, top_k: int, num_layers: int) -> tuple[Floats, Integers]:
    return np.full((1, num_experts), top_k / num_experts), np.zeros(num_layers, dtype=np.int64)


@expert_routings.register("balanced")
def balanced(
    num_experts: int, top_k: int, num_layers: int, placement: ExpertPlacement, capacity: Capacity = UNLIMITED
) -> PopularRouting:
    """Tokens are spread as evenly as can be: each rank computes its share of the pairs, and no rank is behind.

    Activated experts are those of uniformly drawn sets, in expectation: ``E (1 - (1 - k/E)^T)`` over all ranks.
    """
    spread = Spread(slowest_rank=False, capacity=capacity)
    return PopularRouting(*_alike(num_experts, top_k, num_layers), top_k, placement, 0, False, spread)


@expert_routings.register("uniform")
def uniform(
    num_experts: int,
    top_k: int,
    num_layers: int,
    placement: ExpertPlacement,
    seed: int,
    sampled: bool = True,
    correlation: float = 0.0,
    slowest_rank: bool = True,
    capacity: Capacity = UNLIMITED,
) -> PopularRouting:
    """Each token takes a uniformly random set of ``top_k`` experts.

    Parameters
    ----------
    num_experts, top_k, num_layers, placement, seed
        As of every routing.
    sampled
        Draw each step's sets; false: their expectation, which is kept by the number of tokens.
    correlation
        Chance of a token to repeat its predecessor's experts.
    slowest_rank
        By expectation: the busiest rank has the expected maximum over ranks (else the mean of each rank).
    capacity
        Of each copy of an expert.
    """
    spread = Spread(slowest_rank, correlation, capacity)
    return PopularRouting(*_alike(num_experts, top_k, num_layers), top_k, placement, seed, sampled, spread)


@expert_routings.register("zipf")
def zipf(
    num_experts: int,
    top_k: int,
    num_layers: int,
    placement: ExpertPlacement,
    seed: int,
    exponent: float = 1.0,
    distinct_layers: int = 8,
    sampled: bool = False,
    correlation: float = 0.0,
    slowest_rank: bool = True,
    capacity: Capacity = UNLIMITED,
) -> PopularRouting:
    """Popularity falls with rank to the power of ``exponent``; see `uniform` for the rest.

    Parameters
    ----------
    num_experts, top_k, num_layers, placement, seed, sampled, correlation, slowest_rank, capacity
        As of `uniform`.
    exponent
        0: all are alike.
    distinct_layers
        In so many layers, each in turn, other experts are the popular ones: orders are drawn by the seed. 0: the same
        in all layers, expert 0 first.
    """
    check_routing(num_experts, top_k, num_layers, placement)
    if not 0.0 <= exponent < math.inf:
        raise InputError(f"exponent is {exponent}; it must be 0 or more")
    if distinct_layers < 0:
        raise InputError(f"distinct_layers is {distinct_layers}; it must be 0 or more")
    chances = zipf_inclusion(num_experts, top_k, exponent)
    kinds = min(max(1, distinct_layers), num_layers)
    random = stream(seed, "experts", "popular")
    orders = [random.permutation(num_experts) if distinct_layers else np.arange(num_experts) for _ in range(kinds)]
    inclusion = np.array([chances[order] for order in orders])
    spread = Spread(slowest_rank, correlation, capacity)
    return PopularRouting(inclusion, np.arange(num_layers) % kinds, top_k, placement, seed, sampled, spread)


@expert_routings.register("popularity")
def popularity(
    num_experts: int,
    top_k: int,
    num_layers: int,
    placement: ExpertPlacement,
    seed: int,
    path: str | Path,
    folder: str | Path = ".",
    sampled: bool = False,
    correlation: float = 0.0,
    slowest_rank: bool = True,
    capacity: Capacity = UNLIMITED,
) -> PopularRouting:
    """Measured popularity, from a CSV file ``layer,expert,share``; see `uniform` for the rest.

    Parameters
    ----------
    num_experts, top_k, num_layers, placement, seed, sampled, correlation, slowest_rank, capacity
        As of `uniform`.
    path, folder
        The file, beside the folder of the scenario if it is not absolute; see `read_popularity`.
    """
    check_routing(num_experts, top_k, num_layers, placement)
    given = read_popularity(Path(folder, path), num_layers, num_experts, top_k)
    inclusion, kind = np.unique(given, axis=0, return_inverse=True)
    kinds = np.broadcast_to(kind.reshape(-1), num_layers) if len(given) == 1 else kind.reshape(-1)
    spread = Spread(slowest_rank, correlation, capacity)
    return PopularRouting(inclusion, kinds, top_k, placement, seed, sampled, spread)
