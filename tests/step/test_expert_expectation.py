"""Expected loads of experts: closed forms, small cases enumerated, and sampling."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.step.experts.base import ExpertRouting
from servetwin.step.experts.capacity import Capacity
from servetwin.step.experts.counts import count_distribution, expected_maximum
from servetwin.step.experts.expectation import sum_variance_factor
from servetwin.step.experts.placements import TablePlacement, linear
from servetwin.step.experts.popular import balanced, uniform, zipf
from servetwin.step.experts.popularity import zipf_inclusion
from servetwin.step.experts.subsets import SubsetDesign, subset_designs

COLUMNS = ("tokens", "pairs", "experts")


def mean_loads(routing: ExpertRouting, tokens: int, num_layers: int, draws: int) -> dict[str, tuple[float, float]]:
    """Return per column the sum over ranks and the load of the slowest rank, means over layers and draws."""
    loads = [group for draw in range(draws) for group in routing.loads(tokens, 0, num_layers, draw)]
    layers = sum(number for number, _ in loads)
    return {
        column: (
            sum(number * getattr(load, column).sum() for number, load in loads) / layers,
            sum(number * getattr(load, column).max() for number, load in loads) / layers,
        )
        for column in COLUMNS
    }


@given(tokens=st.integers(1, 5000), top_k=st.integers(1, 8), ranks=st.sampled_from([1, 2, 4, 8]))
def test_balanced_has_the_closed_forms(tokens: int, top_k: int, ranks: int) -> None:
    """Pairs T k / R, distinct experts E (1 - (1 - k/E)^T) / R, and tokens by the hypergeometric chance to miss."""
    experts = 32
    ((_, load),) = balanced(experts, top_k, 3, linear(experts, ranks)).loads(tokens, 0, 3, 0)
    np.testing.assert_allclose(load.pairs, tokens * top_k / ranks)
    np.testing.assert_allclose(load.experts, experts * (1 - (1 - top_k / experts) ** tokens) / ranks)
    missed = comb(experts - experts // ranks, top_k) / comb(experts, top_k)
    np.testing.assert_allclose(load.tokens, tokens * (1 - missed))


@pytest.mark.parametrize("inclusion", [[0.9, 0.4, 0.3, 0.2, 0.1, 0.1], [1 / 3] * 6, [1.0, 0.5, 0.2, 0.1, 0.1, 0.1]])
def test_sets_have_the_popularities_that_were_asked_for(inclusion: list[float]) -> None:
    """Drawn sets hold each expert as often as asked, in no set twice; hit chances are those of the drawn sets."""
    design = SubsetDesign(np.array(inclusion), 2)
    drawn = design.draw(100_000, np.random.default_rng(1))
    assert (np.diff(drawn, axis=1) > 0).all()
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=6) / 1e5, inclusion, atol=0.005)
    share = np.kron(np.eye(2), np.ones(3))
    hit = [np.mean((drawn < 3).any(axis=1)), np.mean((drawn >= 3).any(axis=1))]
    np.testing.assert_allclose(design.hit_chances(share), hit, atol=0.005)


def test_uniform_sets_are_all_equally_likely() -> None:
    """Each of the 20 sets of 3 among 6 comes as often as every other: chi-square below its 99.99 % quantile."""
    drawn = SubsetDesign(np.full(6, 0.5), 3).draw(40_000, np.random.default_rng(2))
    counts = [int((drawn == subset).all(axis=1).sum()) for subset in combinations(range(6), 3)]
    assert sum(counts) == 40_000
    assert sum((count - 2000) ** 2 / 2000 for count in counts) < 50.8


def test_hit_chances_with_copies_are_those_of_enumeration() -> None:
    """With half of an expert's pairs on each of two ranks, the chance to hit a rank is the sum over all sets."""
    share = np.array([[1.0, 0.5, 0.0, 0.0], [0.0, 0.5, 1.0, 1.0]])
    sets = list(combinations(range(4), 2))
    hit = [np.mean([1 - np.prod([1 - share[rank, e] for e in each]) for each in sets]) for rank in (0, 1)]
    np.testing.assert_allclose(SubsetDesign(np.full(4, 0.5), 2).hit_chances(share), hit)


def test_pair_variances_are_exact_for_equal_popularities() -> None:
    """The variance of one token's pairs on a rank is the hypergeometric one."""
    experts, top_k, held = 16, 4, 5
    share = np.zeros((1, experts))
    share[0, :held] = 1.0
    part = held / experts
    exact = top_k * part * (1 - part) * (experts - top_k) / (experts - 1)
    np.testing.assert_allclose(SubsetDesign(np.full(experts, 0.25), top_k).pair_variances(share), exact)


@given(order=st.permutations(range(8)), exponent=st.floats(0.0, 5.0))
def test_designs_of_another_order_are_the_same(order: list[int], exponent: float) -> None:
    """Solving popularities once for all orders gives each what it would get alone."""
    inclusion = zipf_inclusion(8, 3, exponent)
    share = np.zeros((1, 8))
    share[0, order[:3]] = 1.0
    both = subset_designs(np.array([inclusion, inclusion[np.argsort(order)]]), 3)
    first = np.zeros((1, 8))
    first[0, :3] = 1.0
    np.testing.assert_allclose(both[0].hit_chances(first), SubsetDesign(inclusion, 3).hit_chances(first), atol=1e-6)
    np.testing.assert_allclose(both[1].hit_chances(share), both[0].hit_chances(first), atol=1e-6)


@given(mean=st.floats(0.05, 60.0), ratio=st.floats(0.2, 3.0))
def test_count_distributions_have_their_mean(mean: float, ratio: float) -> None:
    """Probabilities sum to 1 and have the mean; the variance too, where a whole number of trials allows it."""
    chances = count_distribution(np.array(mean), np.array(mean * ratio))
    x = np.arange(len(chances))
    assert chances.sum() == pytest.approx(1.0)
    assert chances @ x == pytest.approx(mean, rel=2e-3)
    variance = chances @ (x - mean) ** 2
    if ratio >= 1.0:
        assert variance == pytest.approx(mean * ratio, rel=0.02)
    else:
        assert mean * ratio * (1 - 1e-6) <= variance <= mean * ratio + 1.0


@pytest.mark.parametrize(("mean", "close"), [(0.5, 0.02), (4.0, 0.02), (40.0, 0.01), (400.0, 0.005)])
def test_expected_maximum_of_poisson_counts(mean: float, close: float) -> None:
    """The expected maximum of 16 counts is that of drawn ones, for small counts and great ones alike."""
    drawn = np.random.default_rng(4).poisson(mean, (20_000, 16)).max(axis=1).mean()
    assert expected_maximum(np.full(16, mean), np.full(16, mean)) == pytest.approx(drawn, rel=close)


@given(tokens=st.integers(1, 60), correlation=st.floats(0.0, 1.0))
def test_variance_factor_is_the_sum_of_correlations(tokens: int, correlation: float) -> None:
    """The closed form equals the sum of r^|s - t| over all pairs of tokens."""
    away = np.abs(np.subtract.outer(np.arange(tokens), np.arange(tokens)))
    exact = (correlation ** away.astype(float)).sum()
    assert sum_variance_factor(tokens, correlation) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("tokens", [1, 7, 60, 700])
@pytest.mark.parametrize(
    ("policy", "options", "close"),
    [(uniform, {}, 0.03), (zipf, {"exponent": 0.7, "distinct_layers": 2}, 0.05), (uniform, {"correlation": 0.5}, 0.08)],
)
def test_expectation_agrees_with_sampling(
    policy: object, options: dict[str, object], close: float, tokens: int
) -> None:
    """Sums over ranks and the slowest rank's tokens, pairs and experts are those of drawn steps.

    With fewer tokens than ranks, what the slowest rank has is small and less near: within 8 %.
    """
    close = max(close, 0.08) if tokens < 8 else close
    shape = {"num_experts": 64, "top_k": 6, "num_layers": 16, "placement": linear(64, 8), "seed": 3, **options}
    expected = mean_loads(policy(sampled=False, **shape), tokens, 16, 1)  # type: ignore[operator]
    drawn = mean_loads(policy(sampled=True, **shape), tokens, 16, 40)  # type: ignore[operator]
    for column in COLUMNS:
        assert expected[column][0] == pytest.approx(drawn[column][0], rel=0.025)
        assert expected[column][1] == pytest.approx(drawn[column][1], rel=close)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_copied_expert_shares_its_pairs(sampled: bool) -> None:
    """An expert with copies on two ranks gives each half of its pairs; both ranks read it."""
    placement = TablePlacement([[0, 1, 2], [0, 3]], 4)
    routing = uniform(4, 2, 1, placement, seed=1, sampled=sampled, slowest_rank=False)
    loads = [routing.loads(4000, 0, 1, draw)[0].load for draw in range(4)]
    pairs = np.mean([load.pairs for load in loads], axis=0)
    np.testing.assert_allclose(pairs, [5000, 3000], rtol=0.02)
    np.testing.assert_allclose(loads[0].experts, [3, 2], atol=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_capacity_drops_as_many_as_sampling(correlation: float) -> None:
    """Dropped pairs and padding by expectation are those of drawn steps, and capacity bounds what a copy computes."""
    shape = {"num_experts": 16, "top_k": 2, "num_layers": 4, "placement": linear(16, 4), "seed": 3}
    limited = {"capacity": Capacity(factor=1.25, multiple=4), "correlation": correlation}
    expected = uniform(sampled=False, **shape, **limited).loads(128, 0, 4, 0)[0].load  # type: ignore[arg-type]
    routing = uniform(sampled=True, **shape, **limited)  # type: ignore[arg-type]
    drawn = [load for draw in range(150) for _, load in routing.loads(128, 0, 4, draw)]
    assert expected.dropped_pairs == pytest.approx(np.mean([load.dropped_pairs for load in drawn]), rel=0.08)
    assert expected.padding_pairs == pytest.approx(np.mean([load.padding_pairs for load in drawn]), rel=0.08)
    assert max(load.pairs.max() for load in drawn) <= 4 * 20


def test_full_correlation_is_one_token() -> None:
    """Where every token repeats its predecessor, k experts are activated, however many tokens there are."""
    routing = uniform(32, 4, 2, linear(32, 4), seed=1, sampled=False, correlation=1.0, slowest_rank=False)
    assert routing.loads(500, 0, 2, 0)[0].load.experts.sum() == pytest.approx(4.0)


@given(experts=st.integers(1, 40), exponent=st.floats(0.0, 8.0), data=st.data())
def test_zipf_chances_sum_to_top_k(experts: int, exponent: float, data: st.DataObject) -> None:
    """Chances fall, are at most 1, sum to top_k, and keep the law's ratios below 1."""
    top_k = data.draw(st.integers(1, experts))
    chances = zipf_inclusion(experts, top_k, exponent)
    assert chances.sum() == pytest.approx(top_k)
    assert (chances <= 1.0).all()
    assert (np.diff(chances) <= 1e-12).all()
    below = np.flatnonzero(chances < 1.0 - 1e-9)
    laws = (below + 1.0) ** -exponent
    np.testing.assert_allclose(chances[below] * laws[:1], chances[below[:1]] * laws, rtol=1e-6)


def test_alike_layers_are_one_load_and_streams_differ() -> None:
    """58 layers that are alike are one entry; two steps draw differently; a stage's layers are grouped by kind."""
    shape = {"num_experts": 16, "top_k": 2, "num_layers": 58, "placement": linear(16, 4), "seed": 3}
    assert len(uniform(sampled=False, **shape).loads(64, 0, 58, 0)) == 1  # type: ignore[arg-type]
    drawn = uniform(**shape)  # type: ignore[arg-type]
    assert drawn.loads(64, 0, 58, 1)[0].load.pairs.tolist() != drawn.loads(64, 0, 58, 2)[0].load.pairs.tolist()
    groups = zipf(distinct_layers=4, **shape).loads(64, 10, 6, 0)  # type: ignore[arg-type]
    assert sorted(number for number, _ in groups) == [1, 1, 2, 2]
