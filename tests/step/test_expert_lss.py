"""LLMServingSim's expert routings: its formulas, and each defect with its switch."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from servetwin.step.experts.lss import LssBalanced, LssRandom, LssRoundRobin
from servetwin.step.experts.placements import lss
from servetwin.step.experts.round_robin import RoundRobin


@given(tokens=st.integers(1, 4096), ranks=st.sampled_from([1, 2, 4, 8]))
def test_balanced_is_the_documented_formula(tokens: int, ranks: int) -> None:
    """Pairs T k / ep, activated min(round(pairs), max(1, E // ep)), tokens round(T (1 - ((ep - 1) / ep)^k))."""
    experts, top_k = 128, 8
    ((layers, load),) = LssBalanced(experts, top_k, 48, lss(experts, ranks)).loads(tokens, 0, 48, 0)
    pairs = tokens * top_k / ranks
    hit = 1 - ((ranks - 1) / ranks) ** top_k if ranks > 1 else 1
    assert layers == 48
    assert load.pairs.tolist() == [pairs] * ranks
    assert load.experts.tolist() == [min(round(pairs), max(1, experts // ranks))] * ranks
    assert load.tokens.tolist() == [round(tokens * hit)] * ranks


def test_bankers_rounding_has_a_switch() -> None:
    """With one expert per token on two ranks, 5 tokens are 2.5 on each: 2 there, 3 as was meant."""
    for flag, activated in ((True, 2), (False, 3)):
        load = LssBalanced(16, 1, 1, lss(16, 2), bankers_round=flag).loads(5, 0, 1, 0)[0].load
        assert load.experts.tolist() == [activated] * 2
        assert load.tokens.tolist() == [activated] * 2


def test_round_robin_repeats_token_0() -> None:
    """All tokens take experts 0 to k - 1: one rank computes everything. Without the defect all ranks do."""
    placement = lss(16, 4)
    load = LssRoundRobin(16, 2, 3, placement).loads(100, 0, 3, 0)[0].load
    assert load.tokens.tolist() == [100, 0, 0, 0]
    assert load.pairs.tolist() == [200, 0, 0, 0]
    assert load.experts.tolist() == [2, 0, 0, 0]
    meant = LssRoundRobin(16, 2, 3, placement, first_token_only=False).loads(100, 0, 3, 0)[0].load
    assert meant.experts.tolist() == [4] * 4
    assert meant.pairs.tolist() == RoundRobin(16, 2, 3, placement).loads(100, 0, 3, 0)[0].load.pairs.tolist()


def test_random_is_reseeded_in_each_batch() -> None:
    """Each batch gets the first sets that seed 42 gives; without the defect two steps differ."""
    placement = lss(16, 4)
    routing = LssRandom(16, 2, 3, placement, seed=7)
    numbers = random.Random(42)
    sets = [numbers.sample(range(16), 2) for _ in range(30)]
    pairs = np.bincount([expert // 4 for each in sets for expert in each], minlength=4)
    for draw in (1, 2):
        assert routing.loads(30, 0, 3, draw)[0].load.pairs.tolist() == pairs.tolist()
    assert routing.loads(10, 0, 3, 3)[0].load.pairs.sum() == 20
    meant = LssRandom(16, 2, 3, placement, seed=7, reseed=False)
    one, other = (meant.loads(30, 0, 3, draw)[0].load for draw in (1, 2))
    assert one.pairs.tolist() != other.pairs.tolist()
    assert meant.needs == {"draw"}


@given(tokens=st.integers(0, 60), top_k=st.integers(1, 9), ranks=st.sampled_from([1, 3]))
def test_round_robin_counts_are_those_of_a_loop(tokens: int, top_k: int, ranks: int) -> None:
    """Token t takes experts t to t + k - 1 mod E: tokens, pairs and experts of each rank are counted one by one."""
    experts = 9
    takes = [{(token + i) % experts for i in range(top_k)} for token in range(tokens)]
    load = RoundRobin(experts, top_k, 1, lss(experts, ranks)).loads(tokens, 0, 1, 0)[0].load
    for rank in range(ranks):
        mine = set(range(rank * experts // ranks, (rank + 1) * experts // ranks))
        assert load.tokens[rank] == sum(bool(taken & mine) for taken in takes)
        assert load.pairs[rank] == sum(len(taken & mine) for taken in takes)
        assert load.experts[rank] == len(set().union(*takes) & mine)
