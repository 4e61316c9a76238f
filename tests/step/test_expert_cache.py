"""Hit rates of an expert cache: limits, orders, and a cache that is simulated step by step."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from servetwin.step.experts.popularity import zipf_inclusion
from servetwin.step.offload.expert_cache import activation_chances, hit_share

CHANCES = arrays(np.float64, st.integers(1, 20), elements=st.floats(0.001, 0.999))


@given(CHANCES, st.integers(0, 25), st.sampled_from(["lru", "lfu"]))
def test_hit_shares_are_shares_and_grow_with_the_cache(chances: np.ndarray, cached: int, eviction: str) -> None:
    """From 0 without a cache to 1 with room for all."""
    share = hit_share(chances, cached, eviction)
    assert 0.0 <= share <= 1.0
    assert hit_share(chances, cached + 1, eviction) >= share - 1e-9
    assert hit_share(chances, 0, eviction) == 0.0
    assert hit_share(chances, len(chances), eviction) == 1.0


@given(CHANCES, st.integers(1, 20))
def test_no_cache_beats_the_most_popular(chances: np.ndarray, cached: int) -> None:
    """LFU keeps what is asked for most; with independent steps nothing is better."""
    assert hit_share(chances, cached, "lfu") >= hit_share(chances, cached, "lru") - 1e-9


@pytest.mark.parametrize("eviction", ["lru", "lfu"])
def test_experts_that_are_alike_hit_by_the_share_of_room(eviction: str) -> None:
    """A quarter of the experts cached: a quarter of the hits, also where a step activates all."""
    for chance in (0.1, 0.9, 1.0):
        assert hit_share(np.full(64, chance), 16, eviction) == pytest.approx(0.25, abs=1e-6)


def test_experts_that_nobody_takes_need_no_room() -> None:
    """Eight experts in use, eight cached: every one is there."""
    chances = np.concatenate((np.full(8, 0.3), np.zeros(56)))
    assert hit_share(chances, 8, "lru") == hit_share(chances, 8, "lfu") == 1.0


@pytest.mark.parametrize(("tokens", "cached"), [(1, 16), (4, 16), (4, 40)])
def test_lru_against_a_cache_that_is_simulated(tokens: int, cached: int) -> None:
    """Zipf's law over 64 experts, 4 per token: within 3 points of 4,000 steps of a real LRU cache."""
    chances = activation_chances(zipf_inclusion(64, 4, 1.0), tokens)
    random = np.random.default_rng(1)
    cache: OrderedDict[int, None] = OrderedDict()
    hits = asked = 0
    for step in range(4000):
        active = np.flatnonzero(random.random(64) < chances).tolist()
        if step >= 500:
            hits += sum(expert in cache for expert in active)
            asked += len(active)
        for expert in random.permutation(active).tolist():
            cache[expert] = None
            cache.move_to_end(expert)
        while len(cache) > cached:
            cache.popitem(last=False)
    assert hit_share(chances, cached, "lru") == pytest.approx(hits / asked, abs=0.03)
