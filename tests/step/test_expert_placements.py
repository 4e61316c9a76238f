"""Where experts lie: vLLM's rules, LLMServingSim's, redundant experts and rebalancing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.step.experts.balancing import balanced_ranks, pack, replicate
from servetwin.step.experts.base import RebalancingPlacement
from servetwin.step.experts.eplb import Eplb, received_experts
from servetwin.step.experts.placements import TablePlacement, linear, lss, round_robin
from servetwin.step.experts.popular import balanced, zipf


def held(placement: TablePlacement) -> list[list[int]]:
    """Return the experts of each rank."""
    return [np.flatnonzero(row).tolist() for row in placement.share]


def test_linear_gives_the_remainder_to_the_first_ranks() -> None:
    """8 experts on 3 ranks: 3, 3, 2 neighbours, as vLLM's ``determine_expert_map``."""
    assert held(linear(8, 3)) == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_round_robin_takes_every_nth() -> None:
    """8 experts on 3 ranks: 0, 3, 6; 1, 4, 7; 2, 5."""
    assert held(round_robin(8, 3)) == [[0, 3, 6], [1, 4, 7], [2, 5]]


@given(experts=st.integers(1, 64), data=st.data())
def test_lss_rule(experts: int, data: st.DataObject) -> None:
    """Expert e lies on rank min(floor(e * ranks / experts), ranks - 1); with a remainder not where vLLM has it."""
    ranks = data.draw(st.integers(1, experts))
    for rank, here in enumerate(held(lss(experts, ranks))):
        assert all(min(int(e * ranks / experts), ranks - 1) == rank for e in here)
    assert held(lss(8, 3)) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert held(lss(7, 3)) == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("make", [linear, round_robin, lss, Eplb])
def test_more_ranks_than_experts_are_refused(make: type) -> None:
    """The error has both numbers and what is allowed."""
    with pytest.raises(InputError, match="8 experts on 9 expert-parallel ranks; allowed are 1 to 8"):
        make(8, 9)


def test_experts_that_lie_nowhere_are_refused() -> None:
    """A table must name each expert, and no other."""
    with pytest.raises(InputError, match="expert 2 lies on no rank"):
        TablePlacement([[0], [1]], 3)
    with pytest.raises(InputError, match="rank 1 holds expert 7; there are experts 0 to 2"):
        TablePlacement([[0, 1], [2, 7]], 3)


def test_copies_that_ranks_do_not_divide_are_refused() -> None:
    """The error says how many redundant experts would do."""
    with pytest.raises(InputError, match=r"258 copies, which 32 ranks do not divide; .* 0, 32, 64"):
        Eplb(256, 32, num_redundant_experts=2)
    with pytest.raises(InputError, match="num_nodes 3 must divide 4 ranks"):
        Eplb(12, 4, num_groups=3, num_nodes=3)


@given(weights=st.lists(st.floats(0.01, 100.0), min_size=4, max_size=24), data=st.data())
def test_replicas_go_to_the_busiest(weights: list[float], data: st.DataObject) -> None:
    """Every expert has a copy, and no expert with several could give one away without being the busiest."""
    extra = data.draw(st.integers(0, 12))
    load = np.array(weights)
    experts, copies = replicate(load, len(load) + extra)
    np.testing.assert_array_equal(np.bincount(experts, minlength=len(load)), copies)
    busiest = (load / copies).max()
    several = copies > 1
    assert (load[several] / (copies[several] - 1) >= busiest * (1 - 1e-12)).all()


@given(weights=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=6), packs=st.integers(1, 5))
def test_packs_hold_equal_numbers(weights: list[float], packs: int) -> None:
    """Each item is in one pack, and all packs hold as many."""
    items = np.array(weights * packs)
    found = pack(items, packs)
    assert sorted(item for each in found for item in each) == list(range(len(items)))
    assert {len(each) for each in found} == {len(weights)}


def test_balancing_evens_out_a_steep_popularity() -> None:
    """With 16 copies more, the busiest of 8 ranks has at most 2 % more than the mean; without moving, twice as much."""
    popularity = 1.0 / np.arange(1, 65)
    popularity /= popularity.sum()
    before = Eplb(64, 8, num_redundant_experts=16)
    after = before.balanced(popularity)
    assert isinstance(before, RebalancingPlacement)
    assert (before.share @ popularity).max() * 8 > 2.0
    assert (after.share @ popularity).max() * 8 < 1.02
    assert after.slots.tolist() == [10] * 8


def test_nodes_keep_groups_together() -> None:
    """With 4 groups on 2 nodes, each node holds two whole groups and nothing else."""
    popularity = np.random.default_rng(1).random(32)
    ranks = balanced_ranks(popularity, 40, 4, num_groups=4, num_nodes=2)
    nodes = [{expert // 8 for rank in ranks[first : first + 2] for expert in rank} for first in (0, 2)]
    assert [len(groups) for groups in nodes] == [2, 2]
    assert nodes[0] | nodes[1] == {0, 1, 2, 3}


def test_rebalancing_happens_when_vllm_does() -> None:
    """First after a quarter of the interval, then after each whole one."""
    eplb = Eplb(8, 2, step_interval=100)
    assert [eplb.rebalance_step(number) for number in (1, 2, 3)] == [25, 125, 225]
    assert [eplb.num_rebalances(steps) for steps in (0, 24, 25, 124, 125, 224, 225)] == [0, 0, 1, 1, 2, 2, 3]


def test_only_experts_that_are_new_to_a_rank_travel() -> None:
    """Two swapped experts are one received on each of two ranks; copies within a rank are none."""
    before = TablePlacement([[0, 1, 2], [3, 4, 5]], 6)
    assert received_experts(before, TablePlacement([[0, 1, 5], [3, 4, 2]], 6)).tolist() == [1, 1]
    assert received_experts(before, TablePlacement([[2, 1, 0, 0], [5, 4, 3, 3]], 6)).tolist() == [0, 0]


def test_a_fixed_popularity_lies_balanced() -> None:
    """With EPLB the expected slowest rank of a Zipf routing comes near the balanced one, and is far from it without."""
    shape = {"num_experts": 64, "top_k": 4, "num_layers": 2, "seed": 1, "exponent": 0.9}
    even = zipf(placement=Eplb(64, 8, 16), **shape).loads(2048, 0, 2, 0)[0].load  # type: ignore[arg-type]
    uneven = zipf(placement=linear(64, 8), **shape).loads(2048, 0, 2, 0)[0].load  # type: ignore[arg-type]
    mean = balanced(64, 4, 2, linear(64, 8)).loads(2048, 0, 2, 0)[0].load.pairs[0]
    assert even.pairs.max() < 1.1 * mean
    assert uneven.pairs.max() > 1.3 * mean
