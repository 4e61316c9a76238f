"""LLMServingSim's routings, with each of its defects behind a switch (its version 2.0, serving of one instance)."""

from __future__ import annotations

import math
import random as python_random
from collections.abc import Sequence

import numpy as np

from servetwin.core.random import stream
from servetwin.step.experts.base import ExpertLoad, ExpertPlacement, LayerLoads, expert_routings
from servetwin.step.experts.capacity import UNLIMITED
from servetwin.step.experts.placements import Integers, Slots
from servetwin.step.experts.popular import check_routing, layers_of
from servetwin.step.experts.round_robin import RoundRobin
from servetwin.step.experts.sampling import DrawnSets, count_loads
from servetwin.step.experts.subsets import SubsetDesign

LSS_SEED = 42


@expert_routings.register("lss_balanced")
class LssBalanced:
    """Policy ``BALANCED``: every rank has the same load, by formulas.

    Pairs per rank ``T k / ranks``; activated ``min(round(pairs), max(1, E // ranks))``; tokens
    ``round(T (1 - ((ranks - 1) / ranks)^k))``. As if each of a token's experts fell on a rank by itself.

    Parameters
    ----------
    num_experts, top_k, num_layers, placement
        As of every routing; of the placement only its number of ranks is used.
    bankers_round
        Halves go to the even neighbour (Python's ``round``), as there; false: up.
    """

    needs = frozenset[str]()

    def __init__(
        self, num_experts: int, top_k: int, num_layers: int, placement: ExpertPlacement, bankers_round: bool = True
    ) -> None:
        check_routing(num_experts, top_k, num_layers, placement)
        self._layers = np.zeros(num_layers, dtype=np.int64)
        self._num_experts, self._top_k, self._ranks = num_experts, top_k, placement.num_ranks
        self._bankers_round = bankers_round

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """See `ExpertRouting`."""
        layers_of(self._layers, first_layer, num_layers)
        ranks = self._ranks
        pairs = tokens * self._top_k / ranks
        activated = min(self._round(pairs), max(1, self._num_experts // ranks))
        hit = 1.0 - ((ranks - 1) / ranks) ** self._top_k if ranks > 1 else 1.0
        local = self._round(tokens * hit)
        load = ExpertLoad(np.full(ranks, float(local)), np.full(ranks, pairs), np.full(ranks, float(activated)))
        return (LayerLoads(num_layers, load),)

    def _round(self, value: float) -> int:
        return round(value) if self._bankers_round else math.floor(value + 0.5)


@expert_routings.register("lss_round_robin")
class LssRoundRobin:
    """Policy ``RR``: with expert parallelism every token takes the experts of token 0.

    Parameters
    ----------
    num_experts, top_k, num_layers, placement
        As of every routing.
    first_token_only
        True, as there; false: token t takes experts t to t + top_k - 1, as was meant.
    """

    needs = frozenset[str]()

    def __init__(
        self, num_experts: int, top_k: int, num_layers: int, placement: ExpertPlacement, first_token_only: bool = True
    ) -> None:
        self._meant = RoundRobin(num_experts, top_k, num_layers, placement)
        self._first_token_only = first_token_only

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """See `ExpertRouting`."""
        if not self._first_token_only or tokens == 0:
            return self._meant.loads(tokens, first_layer, num_layers, draw)
        ((_, one),) = self._meant.loads(1, first_layer, num_layers, draw)
        return (LayerLoads(num_layers, ExpertLoad(tokens * one.tokens, tokens * one.pairs, one.experts)),)


@expert_routings.register("lss_random")
class LssRandom:
    """Policy ``RAND``: a random set of experts per token; all layers of a step take the same.

    Parameters
    ----------
    num_experts, top_k, num_layers, placement, seed
        As of every routing; the seed counts where ``reseed`` is false.
    reseed
        Begin the same random numbers (Python's, seed 42) anew in each batch, as there; false: each step draws its own.
    """

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        num_layers: int,
        placement: ExpertPlacement,
        seed: int,
        reseed: bool = True,
    ) -> None:
        check_routing(num_experts, top_k, num_layers, placement)
        self.needs = frozenset(() if reseed else {"draw"})
        self._layers = np.zeros(num_layers, dtype=np.int64)
        self._slots, self._seed, self._reseed = Slots(placement), seed, reseed
        self._num_experts, self._top_k = num_experts, top_k
        self._design = SubsetDesign(np.full(num_experts, top_k / num_experts), top_k)
        self._repeated, self._drawn = python_random.Random(LSS_SEED), list[list[int]]()
        self._known: dict[int, ExpertLoad] = {}

    def loads(self, tokens: int, first_layer: int, num_layers: int, draw: int) -> Sequence[LayerLoads]:
        """See `ExpertRouting`."""
        layers_of(self._layers, first_layer, num_layers)
        if not self._reseed:
            random = stream(self._seed, "experts", draw)
            return (LayerLoads(num_layers, self._count(self._design.draw(tokens, random), random)),)
        load = self._known.get(tokens)
        if load is None:
            load = self._known[tokens] = self._count(self._first_sets(tokens), stream(LSS_SEED, "copies"))
        return (LayerLoads(num_layers, load),)

    def _first_sets(self, tokens: int) -> Integers:
        """Return the sets of the first tokens after seeding: always the same, however many follow."""
        while len(self._drawn) < tokens:
            self._drawn.append(self._repeated.sample(range(self._num_experts), self._top_k))
        return np.array(self._drawn[:tokens], dtype=np.int64).reshape(tokens, self._top_k)

    def _count(self, experts: Integers, random: np.random.Generator) -> ExpertLoad:
        tokens = len(experts)
        ones, zeros = np.ones(tokens, dtype=np.int64), np.zeros(tokens, dtype=np.int64)
        return count_loads(DrawnSets(experts, ones, zeros, tokens, 1), self._slots, UNLIMITED, random)[0]
